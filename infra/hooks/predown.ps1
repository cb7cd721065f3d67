#!/usr/bin/env pwsh
# Before `azd down`, which deletes resource groups: deletes what the service has at its
# registries, which are in none of them. azd runs this before it asks; after a "no",
# `azd deploy` brings everything back. It can be repeated, and says what is left, with
# the command that deletes it.
# predown.sh is this file in sh, line by line.

if (-not "$env:REGISTRY_RESOURCE_ID") {
  exit 0
}
$ids = "$env:REGISTRY_RESOURCE_ID" -replace ',', ' '
$roles = "$env:REGISTRY_ROLE_IDS" -replace '[\[\]"]', '' -replace ',', ' '
$assignments = "$env:REGISTRY_ROLE_ASSIGNMENT_IDS" -replace '[\[\]"]', '' -replace ',', ' '
$failed = ""
$who = ""
if (Get-Command az -ErrorAction SilentlyContinue) {
  $who = az account show --query user.name -o tsv 2>$null
}
if (-not "$who") {
  Write-Output "az is not installed, or not logged in. With az: az login, then azd down again. Without it, delete these yourself:"
  foreach ($id in "$ids".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
    Write-Output "  the webhooks with the tag allregions=$env:WEBHOOK_OWNER at $id"
  }
  foreach ($assignment in "$assignments".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
    Write-Output "  the role assignment $assignment"
  }
  foreach ($role in "$roles".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
    Write-Output "  the role $role"
  }
  Write-Output "Then: azd env set REGISTRY_RESOURCE_ID '' and azd down again."
  exit 1
}

# The rights go first: without them the service makes no webhook anew.
foreach ($assignment in "$assignments".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
  az rest --method delete --url "${assignment}?api-version=2022-04-01" --output none
  if ($LASTEXITCODE -ne 0) {
    $failed = "yes"
    Write-Output "  left: az rest --method delete --url '${assignment}?api-version=2022-04-01'"
  }
}
foreach ($id in "$ids".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
  $registry = "$id".Split('/')[-1]
  $subscription = "$id".Split('/')[2]
  Write-Output "Deleting what the service has at $registry, as $who"
  $webhooks = ""
  $answer = az rest --method get --url "${id}?api-version=2025-04-01" --query name -o tsv 2>&1
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
}
foreach ($role in "$roles".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
  az rest --method delete --url "${role}?api-version=2022-04-01" --output none
  if ($LASTEXITCODE -ne 0) {
    $failed = "yes"
    Write-Output "  left: az rest --method delete --url '${role}?api-version=2022-04-01'"
  }
}
if ("$failed") {
  Write-Output "Not everything of the service is deleted, and azd has deleted nothing. Run the commands above, or azd down again."
  exit 1
}
Write-Output "Nothing of the service is left at its registries"
