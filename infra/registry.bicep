// A new geo-replicated registry to watch, for those who have none yet.
param name string
param location string
param tags object

@description('Regions of the replicas. The home region may be among them.')
param regions array
param workspaceId string

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' = {
  name: name
  location: location
  tags: tags
  sku: { name: 'Premium' } // the only one with replicas
  properties: { adminUserEnabled: false }
}

// One at a time: a registry takes one change at a time.
@batchSize(1)
resource replicas 'Microsoft.ContainerRegistry/registries/replications@2025-04-01' = [
  for region in filter(regions, r => r != location): {
    parent: registry
    name: region
    location: region
    tags: tags
  }
]

#disable-next-line use-recent-api-versions // as in environment.bicep
resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: registry
  name: 'audit'
  properties: {
    workspaceId: workspaceId
    logs: [{ categoryGroup: 'audit', enabled: true }]
  }
}

output id string = registry.id
