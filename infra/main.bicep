// Everything but the service: `azd provision`. The service itself is
// allregions.bicep, which `azd deploy` runs with the image that it has built.
// Nothing in here may lie in, or depend on, a resource group that is not ours:
// azd 1.22.4 to 1.23 deletes each group that a resource of this deployment is in.
targetScope = 'subscription'

import {
  locationProblems
  namesOf
  networkProblems
  pairProblems
  regionOf
  regionProblems
  regionsOf
  registryProblems
  subscriptionProblems
  tagProblems
  tagsOf
  throughputProblems
} from 'settings.bicep'

@minLength(1)
@maxLength(40)
@description('Name of the azd environment; resources are tagged, and their group is named, after it.')
param environmentName string

@minLength(1)
@description('Region of the resources. The replicas of the registry may be anywhere.')
param location string

@description('Object id of who deploys: gets the right to read and change the secrets of the vault. Empty gives it to nobody.')
param principalId string = ''

@description('User or ServicePrincipal.')
param principalType string = 'User'

@description('Resource ids of the registries to watch, comma separated, in whatever resource groups and subscriptions. allregions.bicep gives the rights there.')
param registryResourceId string = ''

@description('Instead of registryResourceId: regions, comma separated, of a new Premium registry whose home is location.')
param newRegistryRegions string = ''

@description('Instead of both: the regions of a registry that the service has no rights at, comma separated. Its webhooks are then yours to make.')
param webhookRegions string = ''

@description('Names, comma separated, of further subscriptions on the topic of the outcomes: one for each app that listens.')
param subscriptions string = ''

@description('What allregions.bicep gives the service. Here it is only checked, before anything costs money.')
param vaultVariables string = ''

@minValue(31)
@maxValue(3650)
@description('Days after which a notification that nobody has touched is deleted. More than the longest timeout, which is 30 days.')
param retentionDays int = 90

@description('0 for serverless; otherwise the most RU/s that the database may use, in steps of 1000.')
param cosmosThroughput int = 0

@description('The environment and Cosmos DB in three zones of the region. Needs subnetId. Cannot be changed later.')
param zoneRedundant bool = false

@description('Resource id of a subnet of yours for the environment, which is delegated to Microsoft.App/environments and has at least 32 addresses. Cannot be changed later.')
param subnetId string = ''

@description('Nobody can delete the vault for good before its days are over, neither `azd down --purge`. Cannot be switched off again.')
param purgeProtection bool = false

@description('Cosmos DB can be restored to any second of the last week. Cannot be switched off again.')
param continuousBackup bool = false

@description('Further tags of every resource: pairs NAME=value, comma separated.')
param extraTags string = ''

@minValue(0)
@description('GB of logs a day; what is beyond it is lost until the next day. 0 is no limit.')
param dailyQuotaGb int = 0

@description('Address that gets mail when the log shows that something is wrong. Empty: no alerts.')
param alertEmail string = ''

@secure()
@description('The first key of the webhooks, which the first deployment writes. Later keys are set in the vault.')
param webhookKey string = newGuid()

@secure()
@description('The first key of those who only read, as webhookKey.')
param readKey string = newGuid()

var newRegions = regionsOf(newRegistryRegions)
var newRegistry = empty(trim(registryResourceId)) && !empty(newRegions)
var problems = concat(
  locationProblems('AZURE_LOCATION', location),
  registryProblems('EXISTING_REGISTRY_ID', registryResourceId),
  regionProblems('NEW_REGISTRY_REGIONS', newRegistryRegions),
  regionProblems('WEBHOOK_REGIONS', webhookRegions),
  subscriptionProblems('SUBSCRIPTIONS', subscriptions),
  pairProblems('TARGET_SECRETS', vaultVariables),
  throughputProblems('cosmosThroughput', cosmosThroughput),
  networkProblems('ZONE_REDUNDANT', zoneRedundant, 'SUBNET_ID', subnetId),
  tagProblems('EXTRA_TAGS', extraTags),
  empty(trim('${registryResourceId}${newRegistryRegions}${webhookRegions}'))
    ? [
        'Which registry? azd env set EXISTING_REGISTRY_ID <its resource id>, or NEW_REGISTRY_REGIONS <regions>, or WEBHOOK_REGIONS <its regions>.'
      ]
    : []
)

// The resource group and everything in it need the region: with a problem, nothing
// is created.
var region = empty(problems) ? regionOf(location) : fail(join(problems, '\n'))
var token = uniqueString(subscription().id, environmentName, region)
var tags = union(empty(problems) ? tagsOf(extraTags) : {}, { 'azd-env-name': environmentName })
var topic = 'acr-notifications'
var webhookTopic = 'acr-webhooks'

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: region
  tags: tags
}

module identity 'identity.bicep' = {
  scope: group
  name: 'identity'
  params: {
    name: 'id-allregions-${token}'
    location: region
    tags: tags
  }
}

module monitoring 'monitoring.bicep' = {
  scope: group
  name: 'monitoring'
  params: {
    workspaceName: 'log-${token}'
    insightsName: 'appi-${token}'
    location: region
    tags: tags
    dailyQuotaGb: dailyQuotaGb
  }
}

module alerts 'alerts.bicep' = if (!empty(trim(alertEmail))) {
  scope: group
  name: 'alerts'
  params: {
    name: 'ag-${token}'
    location: region
    tags: tags
    email: trim(alertEmail)
    workspaceId: monitoring.outputs.workspaceId
  }
}

module vault 'vault.bicep' = {
  scope: group
  name: 'vault'
  params: {
    name: 'kv-${token}'
    location: region
    tags: tags
    identityPrincipalId: identity.outputs.principalId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
    purgeProtection: purgeProtection
    workspaceId: monitoring.outputs.workspaceId
    webhookKey: webhookKey
    readKey: readKey
  }
}

module images 'images.bicep' = {
  scope: group
  name: 'images'
  params: {
    name: 'cr${token}'
    location: region
    tags: tags
    pullerPrincipalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module cosmos 'cosmos.bicep' = {
  scope: group
  name: 'cosmos'
  params: {
    name: 'cosmos-${token}'
    location: region
    tags: tags
    retentionDays: retentionDays
    throughput: cosmosThroughput
    zoneRedundant: zoneRedundant
    continuousBackup: continuousBackup
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module serviceBus 'servicebus.bicep' = {
  scope: group
  name: 'servicebus'
  params: {
    name: 'sb-${token}'
    location: region
    tags: tags
    topic: topic
    webhookTopic: webhookTopic
    subscriptions: namesOf(subscriptions)
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module environment 'environment.bicep' = {
  scope: group
  name: 'environment'
  params: {
    name: 'cae-${token}'
    location: region
    tags: tags
    workspaceName: monitoring.outputs.workspaceName
    insightsName: monitoring.outputs.insightsName
    zoneRedundant: zoneRedundant
    subnetId: subnetId
  }
}

module dapr 'dapr.bicep' = {
  scope: group
  name: 'dapr'
  params: {
    environmentName: environment.outputs.name
    cosmosEndpoint: cosmos.outputs.endpoint
    serviceBusHost: serviceBus.outputs.host
    clientId: identity.outputs.clientId
  }
}

module registry 'registry.bicep' = if (newRegistry) {
  scope: group
  name: 'registry'
  params: {
    name: 'images${token}'
    location: region
    tags: tags
    regions: newRegions
    workspaceId: monitoring.outputs.workspaceId
  }
}

// azd keeps these in its environment, from where allregions.bicepparam reads them.
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = images.outputs.loginServer
output AZURE_CONTAINER_APPS_ENVIRONMENT_NAME string = environment.outputs.name
output AZURE_IDENTITY_NAME string = identity.outputs.name
output AZURE_KEY_VAULT_NAME string = vault.outputs.name
output AZURE_SERVICE_BUS_NAMESPACE string = serviceBus.outputs.name
output REGISTRY_RESOURCE_ID string = newRegistry ? registry!.outputs.id : join(namesOf(registryResourceId), ',')

// What the webhooks that the service registers are marked with: the same after
// `azd down` and `azd up`.
output WEBHOOK_OWNER string = '${environmentName}-${token}'
