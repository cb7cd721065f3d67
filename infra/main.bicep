targetScope = 'subscription'

@minLength(1)
@maxLength(64)
@description('Name of the azd environment; resources are named and tagged after it.')
param environmentName string

@minLength(1)
@description('Region of the resources. The registry\'s replicas may be anywhere.')
param location string

resource resourceGroup 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: {
    'azd-env-name': environmentName
  }
}

output AZURE_RESOURCE_GROUP string = resourceGroup.name
