using '../allregions.bicep'

// The service with everything set, as a user may write it. Two variables have the
// same secret, and an entry is empty.
param environmentName = 'all'
param location = 'West Europe'
param containerEnvironmentName = 'cae-x'
param identityName = 'id-allregions-x'
param imagesEndpoint = 'crx.azurecr.io'
param vaultName = 'kv-x'
param image = 'crx.azurecr.io/allregions:1'
param registryResourceId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso'
param webhookRegions = 'westeurope,eastus'
param optionalRegions = 'East US'
param webhookTimeout = '10m'
param webhookActions = 'push,delete'
param webhookRegistration = 'off'
param webhookOwner = 'all-x'
param publicUrl = 'https://allregions.example.com'
param notifyTargets = '[{"name": "ops", "type": "slack", "url": "\${SLACK_URL}"}]'
param otlpEndpoint = 'http://collector:4317'
param vaultVariables = 'SLACK_URL=Slack-URL, BACKUP_URL=slack-url,,OTEL_EXPORTER_OTLP_HEADERS=otlp-headers'
param extraTags = 'costCenter=42, team=shop,,'
param minReplicas = 3
param maxReplicas = 2
