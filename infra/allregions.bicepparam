using 'allregions.bicep'

// From azd's environment: what main.bicep put out, and what the user has set.
param environmentName = readEnvironmentVariable('AZURE_ENV_NAME')
param location = readEnvironmentVariable('AZURE_LOCATION')
param containerEnvironmentName = readEnvironmentVariable('AZURE_CONTAINER_APPS_ENVIRONMENT_NAME')
param identityName = readEnvironmentVariable('AZURE_IDENTITY_NAME')
param imagesEndpoint = readEnvironmentVariable('AZURE_CONTAINER_REGISTRY_ENDPOINT')
param vaultName = readEnvironmentVariable('AZURE_KEY_VAULT_NAME')
param image = readEnvironmentVariable('SERVICE_ALLREGIONS_IMAGE_NAME')
param registryResourceId = readEnvironmentVariable('REGISTRY_RESOURCE_ID', '')
param webhookOwner = readEnvironmentVariable('WEBHOOK_OWNER')
param webhookRegions = readEnvironmentVariable('WEBHOOK_REGIONS', '')
param optionalRegions = readEnvironmentVariable('OPTIONAL_REGIONS', '')
param webhookTimeout = readEnvironmentVariable('WEBHOOK_TIMEOUT', '')
param webhookActions = readEnvironmentVariable('WEBHOOK_ACTIONS', '')
param webhookRegistration = readEnvironmentVariable('WEBHOOK_REGISTRATION', '')
param publicUrl = readEnvironmentVariable('CUSTOM_URL', '')
param notifyTargets = readEnvironmentVariable('NOTIFY_TARGETS', '')
param otlpEndpoint = readEnvironmentVariable('OTLP_ENDPOINT', '')
param vaultVariables = readEnvironmentVariable('TARGET_SECRETS', '')
param extraTags = readEnvironmentVariable('EXTRA_TAGS', '')
param minReplicas = int(empty(readEnvironmentVariable('MIN_REPLICAS', ''))
  ? '2'
  : readEnvironmentVariable('MIN_REPLICAS', ''))
param maxReplicas = int(empty(readEnvironmentVariable('MAX_REPLICAS', ''))
  ? '5'
  : readEnvironmentVariable('MAX_REPLICAS', ''))
