#!/bin/sh
# Before `azd provision`: finds what would fail only when everything is paid for.
# preprovision.ps1 is this file in PowerShell, line by line.

# What only the service can read. The Bicep checks the other settings.
if [ -n "$NOTIFY_TARGETS$WEBHOOK_TIMEOUT$WEBHOOK_ACTIONS$WEBHOOK_REGISTRATION$CUSTOM_URL$OTLP_ENDPOINT" ]; then
  skipped="Go is not installed"
  if command -v go >/dev/null; then
    echo "Building the service, which checks its settings"
    skipped="Go cannot build the service"
    go build -o .azure/allregions.exe ./app
    if [ $? -eq 0 ]; then
      skipped=""
      ./.azure/allregions.exe check
      if [ $? -ne 0 ]; then
        exit 1
      fi
    fi
  fi
  if [ -n "$skipped" ]; then
    echo "$skipped here: NOTIFY_TARGETS and the service's other settings are not checked. A mistake in them ends the service at start."
  fi
fi

# The rights at a registry that is there already, and whether it is.
if [ -z "$EXISTING_REGISTRY_ID" ]; then
  exit 0
fi
who=""
if command -v az >/dev/null; then
  who=$(az account show --query user.name -o tsv 2>/dev/null)
fi
if [ -z "$who" ]; then
  echo "az is not installed, or not logged in: your rights at the registry are not checked."
  exit 0
fi
failed=""
ids=$(echo "$EXISTING_REGISTRY_ID" | tr ',' ' ')
for id in $ids; do
  lacking=""
  group=${id%/providers/*}
  roles=$(az rest --method get --url "$group/providers/Microsoft.Authorization/permissions?api-version=2022-04-01" --query "value[].[join('|', actions), join('|', notActions)]" -o tsv)
  if [ $? -ne 0 ]; then
    lacking=" (az cannot read them)"
  else
    found=$(az rest --method get --url "${id}?api-version=2025-04-01" --query name -o tsv)
    if [ $? -ne 0 ]; then
      lacking=" (az cannot read the registry)"
    fi
    for action in Microsoft.Resources/deployments/write Microsoft.Authorization/roleDefinitions/write Microsoft.Authorization/roleDefinitions/delete Microsoft.Authorization/roleAssignments/write Microsoft.Authorization/roleAssignments/delete Microsoft.ContainerRegistry/registries/webhooks/read Microsoft.ContainerRegistry/registries/webhooks/delete; do
      granted=$(echo "$roles" | tr A-Z a-z | sed 's/[.]/[.]/g; s/[*]/.*/g' | awk -F '\t' -v action="$action" '{ action = tolower(action) } action ~ "^(" $1 ")$" && !($2 != "" && action ~ "^(" $2 ")$")')
      if [ -z "$granted" ]; then
        lacking="$lacking $action"
      fi
    done
  fi
  if [ -n "$lacking" ]; then
    failed="yes"
    echo "EXISTING_REGISTRY_ID: $who lacks rights at ${group}:$lacking."
  fi
done
if [ -n "$failed" ]; then
  echo "Owner has them; so have Contributor and User Access Administrator together. Ask for them on that resource group, on the day of azd up and on that of azd down."
  echo "If azd is logged in as somebody else, who has them: az logout, and this is not checked."
  exit 1
fi
