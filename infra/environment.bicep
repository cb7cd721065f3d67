// The Container Apps environment, its logs and Dapr's traces. Dapr sends these with
// Application Insights' connection string, which only allows to send.
param name string
param location string
param tags object
param workspaceName string
param insightsName string

@description('Replicas in three zones. Cannot be changed later.')
param zoneRedundant bool

@description('Empty: Azure\'s own network. Cannot be changed later.')
param subnetId string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' existing = {
  name: workspaceName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource environment 'Microsoft.App/managedEnvironments@2025-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    // Through diagnostic settings, which need no key of the workspace.
    appLogsConfiguration: { destination: 'azure-monitor' }
    daprAIConnectionString: insights.properties.ConnectionString
    workloadProfiles: [{ name: 'Consumption', workloadProfileType: 'Consumption' }]
    vnetConfiguration: empty(subnetId) ? null : { infrastructureSubnetId: subnetId, internal: false } // ACR calls it
    zoneRedundant: zoneRedundant
  }
}

// The one preview version in infra: the generally available ones, of 2016 and
// before, know no category groups.
#disable-next-line use-recent-api-versions
resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: environment
  name: 'logs'
  properties: {
    workspaceId: workspace.id
    logs: [{ categoryGroup: 'allLogs', enabled: true }]
  }
}

output name string = environment.name
