using '../allregions.bicep'

// Two registries, in two subscriptions.
param environmentName = 'prod'
param location = 'westeurope'
param containerEnvironmentName = 'cae-x'
param identityName = 'id-allregions-x'
param imagesEndpoint = 'crx.azurecr.io'
param vaultName = 'kv-x'
param image = 'crx.azurecr.io/allregions:1'
param registryResourceId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso, /subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/other/providers/Microsoft.ContainerRegistry/registries/fabrikam'
param webhookOwner = 'prod-x'
