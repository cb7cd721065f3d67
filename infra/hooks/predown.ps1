#!/usr/bin/env pwsh
# Before `azd down`, which deletes resource groups: deletes what the service has at the
# registry, which is in none of them. azd runs this before it asks; after a "no",
# `azd deploy` brings everything back. It can be repeated, and says what is left, with
# the command that deletes it.
# predown.sh is this file in sh, line by line.

if (-not "$env:REGISTRY_RESOURCE_ID") {
  exit 0
}
$registry = "$env:REGISTRY_RESOURCE_ID".Split('/')[-1]
$subscription = "$env:REGISTRY_RESOURCE_ID".Split('/')[2]
$failed = ""
$webhooks = ""
$who = ""
if (Get-Command az -ErrorAction SilentlyContinue) {
  $who = az account show --query user.name -o tsv 2>$null
}
if (-not "$who") {
  Write-Output "az is not installed, or not logged in. With az: az login, then azd down again. Without it, delete these at $registry yourself:"
  Write-Output "  the webhooks with the tag allregions=$env:WEBHOOK_OWNER"
  Write-Output "  the role assignment $env:REGISTRY_ROLE_ASSIGNMENT_ID"
  Write-Output "  the role $env:REGISTRY_ROLE_ID"
  Write-Output "Then: azd env set REGISTRY_RESOURCE_ID '' and azd down again."
  exit 1
}

# The right goes first: without it the service makes no webhook anew.
Write-Output "Deleting what the service has at $registry, as $who"
if ("$env:REGISTRY_ROLE_ASSIGNMENT_ID") {
  az rest --method delete --url "${env:REGISTRY_ROLE_ASSIGNMENT_ID}?api-version=2022-04-01" --output none
  if ($LASTEXITCODE -ne 0) {
    $failed = "yes"
    Write-Output "  left: az rest --method delete --url '${env:REGISTRY_ROLE_ASSIGNMENT_ID}?api-version=2022-04-01'"
  }
}
$answer = az rest --method get --url "${env:REGISTRY_RESOURCE_ID}?api-version=2025-04-01" --query name -o tsv 2>&1
if ($LASTEXITCODE -eq 0) {
  $webhooks = az acr webhook list -r "$registry" --subscription "$subscription" --query "join(' ', [?tags.allregions=='$env:WEBHOOK_OWNER'].name)" -o tsv
  if ($LASTEXITCODE -ne 0) {
    $failed = "yes"
    Write-Output "  perhaps left: az acr webhook list -r $registry --subscription $subscription --query `"[?tags.allregions=='$env:WEBHOOK_OWNER'].name`""
  }
} elseif ("$answer" -like "*NotFound*") {
  Write-Output "  $registry is gone, and its webhooks with it"
} else {
  $failed = "yes"
  Write-Output "  perhaps left: webhooks of $registry, which az cannot read: $answer"
}
foreach ($webhook in "$webhooks".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
  az acr webhook delete -r "$registry" --subscription "$subscription" -n "$webhook" --output none
  if ($LASTEXITCODE -eq 0) {
    Write-Output "  deleted the webhook $webhook"
  } else {
    $failed = "yes"
    Write-Output "  left: az acr webhook delete -r $registry --subscription $subscription -n $webhook"
  }
}
if ("$env:REGISTRY_ROLE_ID") {
  az rest --method delete --url "${env:REGISTRY_ROLE_ID}?api-version=2022-04-01" --output none
  if ($LASTEXITCODE -ne 0) {
    $failed = "yes"
    Write-Output "  left: az rest --method delete --url '${env:REGISTRY_ROLE_ID}?api-version=2022-04-01'"
  }
}
if ("$failed") {
  Write-Output "Not everything at $registry is deleted, and azd has deleted nothing. Run the commands above, or azd down again."
  exit 1
}
Write-Output "Nothing of the service is left at $registry"
