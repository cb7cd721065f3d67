using '../main.bicep'

// EXISTING_REGISTRY_ID and nothing else.
param environmentName = 'prod'
param location = 'westeurope'
param registryResourceId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso'
