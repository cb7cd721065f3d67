// The service. `azd deploy` runs this with the image that it has built, so that
// image, settings and probes change together: there is never a placeholder that
// answers webhooks, and `azd provision` leaves the running image alone.
targetScope = 'resourceGroup'

import { namesOf, pairProblems, pairsOf, regionOf, regionProblems, regionsOf, tagProblems, tagsOf } from 'settings.bicep'

param environmentName string
param location string = resourceGroup().location
param containerEnvironmentName string
param identityName string
param imagesEndpoint string
param vaultName string

@description('The image, with its registry and tag.')
param image string

@description('Resource ids of the registries to watch, comma separated. Empty: webhookRegions count.')
param registryResourceId string

@description('The regions of a registry that the service has no rights at, comma separated.')
param webhookRegions string = ''

@description('Regions of the registry that nobody waits for, comma separated.')
param optionalRegions string = ''

@description('How long a notification waits for its regions. Empty: the service\'s default.')
param webhookTimeout string = ''

@description('What the registered webhooks report, comma separated. Empty: the service\'s default.')
param webhookActions string = ''

@description('on or off: whether the service registers webhooks. Empty: the service\'s default.')
param webhookRegistration string = ''

@description('Marks the registered webhooks.')
param webhookOwner string

@description('https URL of the service as Azure reaches it, if it is not the one that Container Apps gives: a gateway, or a domain of your own.')
param publicUrl string = ''

@description('Who is told beside the topic: NOTIFY_TARGETS, as YAML or JSON, with its secrets as references.')
param notifyTargets string = ''

@description('URL of a collector of traces and metrics, which the service reaches over OTLP by gRPC. Empty: none, or the one that the environment has.')
param otlpEndpoint string = ''

@description('The variables to which notifyTargets refers, without their values: pairs NAME=secret, comma separated, of a variable and the name of a secret in the vault.')
param vaultVariables string = ''

// At least one: Dapr's reminders, which are the timeouts, need a running
// replica, and ACR tries a webhook once and waits 5 s, which is no time to start
// one in. Two, so that the loss of one loses no webhook.
@minValue(1)
param minReplicas int = 2

@minValue(1)
param maxReplicas int = 5

@description('Further tags: pairs NAME=value, comma separated.')
param extraTags string = ''

var appId = loadYamlContent('../components/azure/statestore.yaml').scopes[0]
var publicPort = 8080
var appPort = 3001
var appUrl = 'https://${appId}.${environment.properties.defaultDomain}'
var url = empty(publicUrl) ? appUrl : publicUrl
// main.bicep checks them too, but `azd deploy` does not run that.
var problems = concat(
  regionProblems('WEBHOOK_REGIONS', webhookRegions),
  regionProblems('OPTIONAL_REGIONS', optionalRegions),
  pairProblems('TARGET_SECRETS', vaultVariables),
  tagProblems('EXTRA_TAGS', extraTags)
)
var pairs = empty(problems) ? pairsOf(vaultVariables) : fail(join(problems, '\n'))
var secrets = union(['webhook-keys', 'read-keys'], map(pairs, pair => pair[1]))
var probe = { port: publicPort, scheme: 'HTTP' }

resource environment 'Microsoft.App/managedEnvironments@2025-07-01' existing = {
  name: containerEnvironmentName
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = {
  name: vaultName
}

resource app 'Microsoft.App/containerApps@2025-07-01' = {
  name: appId
  location: regionOf(location)
  tags: union(empty(problems) ? tagsOf(extraTags) : {}, {
    'azd-env-name': environmentName
    'azd-service-name': 'allregions'
  })
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {} }
  }
  properties: {
    environmentId: environment.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single' // several would each host actors
      ingress: {
        external: true
        targetPort: publicPort // and no other: appPort asks for no key
        transport: 'auto'
        allowInsecure: false
      }
      dapr: {
        enabled: true
        appId: appId
        appPort: appPort
        appProtocol: 'http' // actors need it
        logLevel: 'info'
      }
      registries: [{ server: imagesEndpoint, identity: identity.id }]
      // Without a version: Container Apps takes over a new one by itself.
      secrets: map(secrets, name => {
        name: name
        keyVaultUrl: '${vault.properties.vaultUri}secrets/${name}'
        identity: identity.id
      })
    }
    template: {
      terminationGracePeriodSeconds: 30
      containers: [
        {
          name: appId
          image: image
          // The image runs as nonroot (65532).
          resources: { cpu: json('0.5'), memory: '1Gi' }
          env: concat(
            [
              { name: 'AZURE_CLIENT_ID', value: identity.properties.clientId }
              { name: 'AZURE_CLOUD', value: az.environment().name }
              { name: 'PUBLIC_URL', value: url }
              { name: 'REGISTRY_RESOURCE_ID', value: join(registries, ',') }
              { name: 'WEBHOOK_REGIONS', value: join(regionsOf(webhookRegions), ',') }
              { name: 'OPTIONAL_REGIONS', value: join(regionsOf(optionalRegions), ',') }
              { name: 'WEBHOOK_TIMEOUT', value: webhookTimeout }
              { name: 'WEBHOOK_ACTIONS', value: webhookActions }
              { name: 'WEBHOOK_REGISTRATION', value: webhookRegistration }
              { name: 'WEBHOOK_OWNER', value: webhookOwner }
              { name: 'WEBHOOK_KEYS', secretRef: 'webhook-keys' }
              { name: 'READ_KEYS', secretRef: 'read-keys' }
              { name: 'SHUTDOWN_DELAY', value: '5s' } // until no more requests are sent here
              { name: 'NOTIFY_TARGETS', value: notifyTargets }
              { name: 'GOMEMLIMIT', value: '900MiB' } // of memory, above
            ],
            empty(otlpEndpoint) ? [] : [{ name: 'OTEL_EXPORTER_OTLP_ENDPOINT', value: otlpEndpoint }],
            map(pairs, pair => { name: pair[0], secretRef: pair[1] })
          )
          probes: [
            {
              type: 'Startup'
              httpGet: union(probe, { path: '/healthz' })
              periodSeconds: 3
              failureThreshold: 10
            }
            {
              type: 'Liveness'
              httpGet: union(probe, { path: '/healthz' })
              periodSeconds: 10
              failureThreshold: 3
            }
            {
              // 503 until the sidecar hosts actors, and while it is away.
              type: 'Readiness'
              httpGet: union(probe, { path: '/readyz' })
              periodSeconds: 5
              failureThreshold: 3
            }
          ]
        }
      ]
      scale: {
        minReplicas: minReplicas
        maxReplicas: max(minReplicas, maxReplicas)
        // A wait for an outcome counts as long as it lasts.
        rules: [{ name: 'http', http: { metadata: { concurrentRequests: '100' } } }]
      }
    }
  }
  dependsOn: [rights] // it registers webhooks as soon as it runs
}

var registries = namesOf(registryResourceId)

// Here and not in main.bicep: see there.
module rights 'rights.bicep' = [
  for id in registries: {
    scope: resourceGroup(split(id, '/')[2], split(id, '/')[4])
    name: 'allregions-rights-${uniqueString(webhookOwner, toLower(id))}'
    params: {
      registryName: last(split(id, '/'))
      principalId: identity.properties.principalId
      owner: webhookOwner
    }
  }
]

output PUBLIC_URL string = url
output APP_URL string = appUrl

// For infra/hooks: who makes the webhooks, and what they report.
output REGISTERS_WEBHOOKS bool = !empty(registries) && !contains(['off', 'false'], toLower(trim(webhookRegistration)))
output REPORTED_ACTIONS string = empty(webhookActions) ? 'push' : replace(replace(webhookActions, ' ', ''), ',', ' ')
// azd keeps an array as JSON.
output REGISTRY_ROLE_IDS array = [for (id, i) in registries: rights[i].outputs.roleId]
output REGISTRY_ROLE_ASSIGNMENT_IDS array = [for (id, i) in registries: rights[i].outputs.assignmentId]
