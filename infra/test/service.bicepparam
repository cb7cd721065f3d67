using '../allregions.bicep'

// The service with what azd always gives it.
param environmentName = 'prod'
param location = 'westeurope'
param containerEnvironmentName = 'cae-x'
param identityName = 'id-allregions-x'
param imagesEndpoint = 'crx.azurecr.io'
param vaultName = 'kv-x'
param image = 'crx.azurecr.io/allregions:1'
param registryResourceId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso'
param webhookOwner = 'prod-x'
