// The Dapr components, as components/azure has them, with what is in <> put in.
param environmentName string
param cosmosEndpoint string
param serviceBusHost string
param clientId string

var values = {
  '<endpoint of the account>': cosmosEndpoint
  '<host of the namespace>': serviceBusHost
  '<client id of the user-assigned identity>': clientId
  '<cloud>': replace(az.environment().name, 'AzureCloud', 'AzurePublicCloud') // Dapr's name for it
}

var components = [
  loadYamlContent('../components/azure/statestore.yaml')
  loadYamlContent('../components/azure/images.yaml')
  loadYamlContent('../components/azure/pubsub.yaml')
]

resource environment 'Microsoft.App/managedEnvironments@2025-07-01' existing = {
  name: environmentName
}

// One at a time: an environment may refuse a change while another one runs.
@batchSize(1)
resource deployed 'Microsoft.App/managedEnvironments/daprComponents@2025-07-01' = [
  for component in components: {
    parent: environment
    name: component.metadata.name
    properties: {
      componentType: component.spec.type
      version: component.spec.version
      metadata: map(component.spec.metadata, m => {
        name: m.name
        value: values[?m.value] ?? m.value
      })
      scopes: component.scopes
    }
  }
]
