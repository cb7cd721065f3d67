#!/usr/bin/env pwsh
# Before `azd provision`: finds what would fail only when everything is paid for.
# preprovision.sh is this file in sh, line by line.

# What only the service can read. The Bicep checks the other settings.
if ("$env:NOTIFY_TARGETS$env:WEBHOOK_TIMEOUT$env:WEBHOOK_ACTIONS$env:WEBHOOK_REGISTRATION$env:CUSTOM_URL$env:OTLP_ENDPOINT") {
  $skipped = "Go is not installed"
  if (Get-Command go -ErrorAction SilentlyContinue) {
    Write-Output "Building the service, which checks its settings"
    $skipped = "Go cannot build the service"
    go build -o .azure/allregions.exe ./app
    if ($LASTEXITCODE -eq 0) {
      $skipped = ""
      & ./.azure/allregions.exe check
      if ($LASTEXITCODE -ne 0) {
        exit 1
      }
    }
  }
  if ("$skipped") {
    Write-Output "$skipped here: NOTIFY_TARGETS and the service's other settings are not checked. A mistake in them ends the service at start."
  }
}

# The rights at a registry that is there already, and whether it is.
if (-not "$env:EXISTING_REGISTRY_ID") {
  exit 0
}
$who = ""
if (Get-Command az -ErrorAction SilentlyContinue) {
  $who = az account show --query user.name -o tsv 2>$null
}
if (-not "$who") {
  Write-Output "az is not installed, or not logged in: your rights at the registry are not checked."
  exit 0
}
$failed = ""
$ids = "$env:EXISTING_REGISTRY_ID" -replace ',', ' '
foreach ($id in "$ids".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
  $lacking = ""
  $group = "$id" -replace '/providers/.*$', ''
  $roles = az rest --method get --url "$group/providers/Microsoft.Authorization/permissions?api-version=2022-04-01" --query "value[].[join('|', actions), join('|', notActions)]" -o tsv
  if ($LASTEXITCODE -ne 0) {
    $lacking = " (az cannot read them)"
  } else {
    $found = az rest --method get --url "${id}?api-version=2025-04-01" --query name -o tsv
    if ($LASTEXITCODE -ne 0) {
      $lacking = " (az cannot read the registry)"
    }
    foreach ($action in "Microsoft.Resources/deployments/write Microsoft.Authorization/roleDefinitions/write Microsoft.Authorization/roleDefinitions/delete Microsoft.Authorization/roleAssignments/write Microsoft.Authorization/roleAssignments/delete Microsoft.ContainerRegistry/registries/webhooks/read Microsoft.ContainerRegistry/registries/webhooks/delete".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {
      $granted = $roles | Where-Object { $allows, $except = ($_ -replace '[.]', '[.]' -replace '[*]', '.*').Split("`t"); $action -match "^($allows)$" -and -not ($except -and $action -match "^($except)$") }
      if (-not "$granted") {
        $lacking = "$lacking $action"
      }
    }
  }
  if ("$lacking") {
    $failed = "yes"
    Write-Output "EXISTING_REGISTRY_ID: $who lacks rights at ${group}:$lacking."
  }
}
if ("$failed") {
  Write-Output "Owner has them; so have Contributor and User Access Administrator together. Ask for them on that resource group, on the day of azd up and on that of azd down."
  Write-Output "If azd is logged in as somebody else, who has them: az logout, and this is not checked."
  exit 1
}
