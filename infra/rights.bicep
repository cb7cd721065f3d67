// What the service may do at a registry that it watches, wherever that is.
param registryName string
param principalId string

@description('With the registry, tells this role from others: the names of roles are unique in a directory.')
param owner string

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' existing = {
  name: registryName
}

// No built-in role is as narrow. It reads no image, and deletes nothing.
resource role 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(registry.id, owner)
  properties: {
    roleName: 'Allregions webhook registration (${owner}, ${registryName})'
    description: 'Read the regions of a container registry; read, write and ping its webhooks, and read what they did.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: [
          'Microsoft.ContainerRegistry/registries/read'
          'Microsoft.ContainerRegistry/registries/replications/read'
          'Microsoft.ContainerRegistry/registries/webhooks/read'
          'Microsoft.ContainerRegistry/registries/webhooks/write'
          'Microsoft.ContainerRegistry/registries/webhooks/getCallbackConfig/action'
          'Microsoft.ContainerRegistry/registries/webhooks/listEvents/action'
          'Microsoft.ContainerRegistry/registries/webhooks/ping/action'
          'Microsoft.ContainerRegistry/registries/webhooks/operationStatuses/read'
        ]
      }
    ]
  }
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: registry
  name: guid(registry.id, principalId, role.id)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: role.id
  }
}

output roleId string = role.id
output assignmentId string = assignment.id
