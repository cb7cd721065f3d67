// What must last, in two containers: one record per notification, which people
// query, too; and what is only read by key.
param name string
param location string
param tags object
param retentionDays int
param throughput int

@description('Copies in three zones of the region.')
param zoneRedundant bool

@description('Restores any second of the last week. Cannot be switched off again.')
param continuousBackup bool
param principalId string
param workspaceId string

// The database and the containers have the names that the Dapr components have.
var state = loadYamlContent('../components/azure/statestore.yaml').spec.metadata
var images = loadYamlContent('../components/azure/images.yaml').spec.metadata
var stateNames = toObject(state, m => m.name, m => m.value)
var imageNames = toObject(images, m => m.name, m => m.value)

// The fields of a record that people query, as Dapr stores it: under /value.
var queried = ['timestamp', 'action', 'loginServer', 'image', 'tag', 'digest', 'status', 'missing/[]', 'startedAt']

resource account 'Microsoft.DocumentDB/databaseAccounts@2025-04-15' = {
  name: name
  location: location
  tags: tags
  kind: 'GlobalDocumentDB'
  properties: {
    databaseAccountOfferType: 'Standard'
    capabilities: throughput == 0 ? [{ name: 'EnableServerless' }] : []
    locations: [{ locationName: location, failoverPriority: 0, isZoneRedundant: zoneRedundant }]
    // The level of the account is what reads get, because the service's requests
    // name none. Dapr's option for strong consistency would lower it: Dapr turns it
    // into Session without a token. Session is not enough: an actor that moves to
    // another replica reads what the last one wrote through another sidecar, which
    // has another session.
    consistencyPolicy: { defaultConsistencyLevel: 'Strong' }
    disableLocalAuth: true
    disableKeyBasedMetadataWriteAccess: true
    minimalTlsVersion: 'Tls12'
    backupPolicy: continuousBackup
      ? { type: 'Continuous', continuousModeProperties: { tier: 'Continuous7Days' } } // the tier without a charge
      : {
          type: 'Periodic'
          periodicModeProperties: {
            backupIntervalInMinutes: 240
            backupRetentionIntervalInHours: 8
            backupStorageRedundancy: 'Local'
          }
        }
  }
}

resource database 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases@2025-04-15' = {
  parent: account
  name: stateNames.database
  properties: {
    resource: { id: stateNames.database }
    options: throughput == 0 ? {} : { autoscaleSettings: { maxThroughput: throughput } }
  }
}

resource stateContainer 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases/containers@2025-04-15' = {
  parent: database
  name: stateNames.collection
  properties: {
    resource: {
      id: stateNames.collection
      // Dapr knows no other.
      partitionKey: { kind: 'Hash', paths: ['/partitionKey'] }
      // From the last write, as below.
      defaultTtl: retentionDays * 24 * 60 * 60
      // Read by key only. Not mode none, which the TTL does not work with.
      indexingPolicy: {
        indexingMode: 'consistent'
        automatic: true
        includedPaths: []
        excludedPaths: [{ path: '/*' }]
      }
    }
  }
}

resource imageContainer 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases/containers@2025-04-15' = {
  parent: database
  name: imageNames.collection
  properties: {
    resource: {
      id: imageNames.collection
      partitionKey: { kind: 'Hash', paths: ['/partitionKey'] }
      // From the last write: a notification is written until it has its last outcome.
      defaultTtl: retentionDays * 24 * 60 * 60
      // Every webhook is a write, and each path that is indexed makes it cost more.
      // What is the actor's own is under /value/actor.
      indexingPolicy: {
        indexingMode: 'consistent'
        automatic: true
        includedPaths: [for field in queried: { path: '/value/${field}/?' }]
        excludedPaths: [{ path: '/*' }]
      }
    }
  }
}

// Cosmos DB Built-in Data Contributor. On the account, not the database: a
// client reads the account's metadata first.
// https://learn.microsoft.com/azure/cosmos-db/nosql/reference-data-plane-security#cosmos-db-built-in-data-contributor
var dataContributor = '00000000-0000-0000-0000-000000000002'

resource readsAndWrites 'Microsoft.DocumentDB/databaseAccounts/sqlRoleAssignments@2025-04-15' = {
  parent: account
  name: guid(account.id, principalId, dataContributor)
  properties: {
    principalId: principalId
    roleDefinitionId: '${account.id}/sqlRoleDefinitions/${dataContributor}'
    scope: account.id
  }
}

// Cosmos DB has no category group for audits. Who changed the account, and not who
// asked for which data: that is a row for every request.
#disable-next-line use-recent-api-versions // as in environment.bicep
resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: account
  name: 'audit'
  properties: {
    workspaceId: workspaceId
    logs: [{ category: 'ControlPlaneRequests', enabled: true }]
  }
}

output endpoint string = account.properties.documentEndpoint
