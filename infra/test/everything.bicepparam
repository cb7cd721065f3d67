using '../main.bicep'

// Everything is set, as a user may write it.
param environmentName = 'all'
param location = 'West Europe'
param principalId = '22222222-2222-2222-2222-222222222222'
param principalType = 'ServicePrincipal'
param registryResourceId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso'
param newRegistryRegions = 'eastus'
param webhookRegions = 'westeurope,eastus'
param subscriptions = 'deploy, scan,Deploy,,allregions'
param vaultVariables = 'SLACK_URL=slack-url,TEAMS_URL=teams-url'
param retentionDays = 365
param cosmosThroughput = 4000
param zoneRedundant = true
param subnetId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/network/providers/Microsoft.Network/virtualNetworks/hub/subnets/apps'
param purgeProtection = true
param continuousBackup = true
param extraTags = 'costCenter=42, team=shop,,'
param dailyQuotaGb = 2
param alertEmail = ' ops@example.com '
