#!/usr/bin/env pwsh
# After `azd deploy`: waits until the service is ready and the webhook of every region
# has answered a ping, and shows them.
# postdeploy.sh is this file in sh, line by line.

Write-Output "Waiting until the service is ready, at most 5 minutes: $env:APP_URL/readyz"
$ready = ""
$end = [DateTimeOffset]::Now.ToUnixTimeSeconds() + 300
while (-not "$ready" -and [DateTimeOffset]::Now.ToUnixTimeSeconds() -lt $end) {
  $answer = curl --silent --fail --max-time 10 "$env:APP_URL/readyz"
  if ($LASTEXITCODE -eq 0) {
    $ready = "yes"
  } else {
    Write-Output "  not yet"
    Start-Sleep 5
  }
}
if (-not "$ready") {
  Write-Output "The service is not ready: $env:APP_URL/readyz. The last line of its log:"
  az containerapp logs show -n allregions -g "$env:AZURE_RESOURCE_GROUP" --tail 1 --format text
  exit 1
}
Write-Output "The service is ready. Webhooks call $env:PUBLIC_URL/webhooks/acr?region=REGION with the first key of"
Write-Output "  az keyvault secret show --vault-name $env:AZURE_KEY_VAULT_NAME -n webhook-keys --query value -o tsv"
Write-Output "Pipelines, browsers and dashboards ask with one that may only read:"
Write-Output "  az keyvault secret show --vault-name $env:AZURE_KEY_VAULT_NAME -n read-keys --query value -o tsv"

# With a key that may read, /regions says what each region has.
$who = ""
if (Get-Command az -ErrorAction SilentlyContinue) {
  $who = az account show --query user.name -o tsv 2>$null
}
if (-not "$who") {
  Write-Output "az is not installed, or not logged in: whether the webhooks answer is not checked. See $env:APP_URL/regions."
  exit 0
}
$key = ""
$end = [DateTimeOffset]::Now.ToUnixTimeSeconds() + 300
while (-not "$key" -and [DateTimeOffset]::Now.ToUnixTimeSeconds() -lt $end) {
  $key = az keyvault secret show --vault-name "$env:AZURE_KEY_VAULT_NAME" -n read-keys --query value -o tsv 2>$null
  if (-not "$key") {
    Write-Output "Waiting for your right to read the key, which Azure grants within some minutes"
    Start-Sleep 15
  }
}
if (-not "$key") {
  Write-Output "az, logged in as $who, cannot read the key: whether the webhooks answer is not checked. az login as who deployed, then: azd hooks run postdeploy"
  exit 1
}
$key = "$key".Split(',')[0]

if ("$env:REGISTERS_WEBHOOKS" -eq "true") {
  Write-Output "The service makes the webhooks of every region and pings them. Waiting, at most 10 minutes, for:"
  $waiting = "the first answer"
  $shown = ""
  $end = [DateTimeOffset]::Now.ToUnixTimeSeconds() + 600
  while ("$waiting" -and [DateTimeOffset]::Now.ToUnixTimeSeconds() -lt $end) {
    if ("$waiting" -ne "$shown") {
      Write-Output "  $waiting"
      $shown = "$waiting"
    }
    Start-Sleep 5
    $answer = az rest --method get --url "$env:APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', !(registries[].regions[]) && ['the regions'] || (registries[].regions[] | [?expected && !(webhook.registered && webhook.lastPing.answered)].region))" -o tsv 2>$null
    if ($LASTEXITCODE -eq 0) {
      $waiting = "$answer"
    }
  }
  az rest --method get --url "$env:APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "registries[].regions[].{Region: region, Webhook: webhook.name, Registered: webhook.registered, Answered: webhook.lastPing.answered, Problem: webhook.problem}" -o table
  if ("$waiting") {
    Write-Output "Not every webhook answers. Still waiting for: $waiting. What the service says of the registry, and the last line of its log:"
    az rest --method get --url "$env:APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "registries[].read.error" -o tsv
    az containerapp logs show -n allregions -g "$env:AZURE_RESOURCE_GROUP" --tail 1 --format text
    Write-Output "It goes on trying. To look again: azd hooks run postdeploy"
    exit 1
  }
  Write-Output "Every region's webhook answers."
} else {
  Write-Output "The service makes no webhooks. Make one in each region, with the key for KEY, and ping it:"
  $registries = az rest --method get --url "$env:APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', registries[].name)" -o tsv
  if (-not "$registries") {
    $registries = "REGISTRY"
  }
  foreach ($registry in "$registries".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
    $regions = az rest --method get --url "$env:APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', registries[?name=='$registry' || name==''].regions[] | [?expected].region)" -o tsv
    if (-not "$regions") {
      $regions = "REGION"
    }
    foreach ($region in "$regions".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
      Write-Output "  az acr webhook create -r $registry -n allregions$region -l $region --actions $env:REPORTED_ACTIONS --uri '$env:PUBLIC_URL/webhooks/acr?region=$region' --headers 'Authorization=Bearer KEY'"
      Write-Output "  az acr webhook ping -r $registry -n allregions$region"
    }
  }
}
