// Where the outcomes go out, and where events wait that could not go in.
param name string
param location string
param tags object
param topic string

@description('Topic of the events whose actor could not be reached. With -dead behind it: of those that never can be delivered.')
param webhookTopic string

@description('Names of further subscriptions. That of the service is there without being named.')
param subscriptions array
param principalId string
param workspaceId string

// The app, and the consumer that its Dapr component names.
var appId = loadYamlContent('../components/azure/pubsub.yaml').scopes[0]

resource namespace 'Microsoft.ServiceBus/namespaces@2026-01-01' = {
  name: name
  location: location
  tags: tags
  sku: { name: 'Standard', tier: 'Standard' } // Basic has no topics
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
  }
}

resource outcomes 'Microsoft.ServiceBus/namespaces/topics@2026-01-01' = {
  parent: namespace
  name: topic
  properties: {
    // An event that is published again has the MessageId of the first time.
    requiresDuplicateDetection: true
    duplicateDetectionHistoryTimeWindow: 'PT1H'
    defaultMessageTimeToLive: 'P14D'
    maxSizeInMegabytes: 5120
    supportOrdering: false
  }
}

// The service takes everything from this one, with or without targets: targets
// that are switched on later get no outcomes from before. What it does not
// fetch in a week is dropped, for a full topic takes no more events. Each try
// takes the service at least 5 s: 2,000 are for an outage of hours.
resource own 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2026-01-01' = {
  parent: outcomes
  name: appId
  properties: {
    maxDeliveryCount: 2000
    lockDuration: 'PT1M'
    defaultMessageTimeToLive: 'P7D'
    deadLetteringOnMessageExpiration: false
    deadLetteringOnFilterEvaluationExceptions: true
  }
}

// What a subscriber does not fetch in a week is dropped. Dead letters never expire
// and count towards the topic's size: one dead subscriber would fill it for all.
resource others 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2026-01-01' = [
  for subscription in filter(subscriptions, s => toLower(s) != appId): {
    parent: outcomes
    name: subscription
    properties: {
      maxDeliveryCount: 10
      lockDuration: 'PT1M'
      defaultMessageTimeToLive: 'P7D'
      deadLetteringOnMessageExpiration: false
      deadLetteringOnFilterEvaluationExceptions: true
    }
  }
]

resource waiting 'Microsoft.ServiceBus/namespaces/topics@2026-01-01' = {
  parent: namespace
  name: webhookTopic
  properties: {
    defaultMessageTimeToLive: 'P14D'
    maxSizeInMegabytes: 5120
  }
}

// The service tries an event for a day, fewer than 1,800 times (app/intake/retry.go), and
// then makes it a dead letter of its own. An event that expired would be lost without a
// word: it goes to the subscription's dead letters.
resource delivered 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2026-01-01' = {
  parent: waiting
  name: appId
  properties: {
    maxDeliveryCount: 2000
    lockDuration: 'PT1M'
    deadLetteringOnMessageExpiration: true
    deadLetteringOnFilterEvaluationExceptions: true
  }
}

resource dead 'Microsoft.ServiceBus/namespaces/topics@2026-01-01' = {
  parent: namespace
  name: '${webhookTopic}-dead'
  properties: {
    defaultMessageTimeToLive: 'P14D'
    maxSizeInMegabytes: 1024
  }
}

// For a person to look at.
resource inspected 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2026-01-01' = {
  parent: dead
  name: 'inspect'
  properties: { maxDeliveryCount: 10 }
}

// Azure Service Bus Data Sender
// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/integration#azure-service-bus-data-sender
var dataSender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'

// Azure Service Bus Data Receiver
// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/integration#azure-service-bus-data-receiver
var dataReceiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0'

resource sendsAndReceives 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in [dataSender, dataReceiver]: {
    scope: namespace
    name: guid(namespace.id, principalId, role)
    properties: {
      principalId: principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
    }
  }
]

#disable-next-line use-recent-api-versions // as in environment.bicep
resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: namespace
  name: 'audit'
  properties: {
    workspaceId: workspaceId
    logs: [{ categoryGroup: 'audit', enabled: true }]
  }
}

output name string = namespace.name

// The endpoint is a URL, https://HOST:443/.
output host string = split(split(namespace.properties.serviceBusEndpoint, '/')[2], ':')[0]
