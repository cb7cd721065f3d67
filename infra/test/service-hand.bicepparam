using '../allregions.bicep'

// The service of a registry that it has no rights at.
param environmentName = 'hand'
param location = 'westeurope'
param containerEnvironmentName = 'cae-x'
param identityName = 'id-allregions-x'
param imagesEndpoint = 'crx.azurecr.io'
param vaultName = 'kv-x'
param image = 'crx.azurecr.io/allregions:1'
param registryResourceId = ''
param webhookRegions = 'West Europe,eastus,,EastUS'
param webhookOwner = 'hand-x'
