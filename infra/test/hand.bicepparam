using '../main.bicep'

// WEBHOOK_REGIONS and nothing else: the webhooks are made by hand.
param environmentName = 'hand'
param location = 'westeurope'
param webhookRegions = 'westeurope,eastus'
