// The Dapr components, as components/azure has them, with the names of this
// deployment put in.
param environmentName string
param cosmosAccount string
param serviceBusNamespace string
param clientId string

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
        value: replace(
          replace(replace(m.value, '<account>', cosmosAccount), '<namespace>', serviceBusNamespace),
          '<client id of the user-assigned identity>',
          clientId
        )
      })
      scopes: component.scopes
    }
  }
]
