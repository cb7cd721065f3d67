using '../main.bicep'

// NEW_REGISTRY_REGIONS and nothing else. The home region is among them, and one is
// there twice.
param environmentName = 'try'
param location = 'West Europe'
param newRegistryRegions = 'westeurope, East US,eastus,,japan-east'
