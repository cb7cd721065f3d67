#!/bin/sh
# Before `azd down`, which deletes resource groups: deletes what the service has at its
# registries, which are in none of them. azd runs this before it asks; after a "no",
# `azd deploy` brings everything back. It can be repeated, and says what is left, with
# the command that deletes it.
# predown.ps1 is this file in PowerShell, line by line.

if [ -z "$REGISTRY_RESOURCE_ID" ]; then
  exit 0
fi
ids=$(echo "$REGISTRY_RESOURCE_ID" | tr ',' ' ')
roles=$(echo "$REGISTRY_ROLE_IDS" | tr -d '[]"' | tr ',' ' ')
assignments=$(echo "$REGISTRY_ROLE_ASSIGNMENT_IDS" | tr -d '[]"' | tr ',' ' ')
failed=""
who=""
if command -v az >/dev/null; then
  who=$(az account show --query user.name -o tsv 2>/dev/null)
fi
if [ -z "$who" ]; then
  echo "az is not installed, or not logged in. With az: az login, then azd down again. Without it, delete these yourself:"
  for id in $ids; do
    echo "  the webhooks with the tag allregions=$WEBHOOK_OWNER at $id"
  done
  for assignment in $assignments; do
    echo "  the role assignment $assignment"
  done
  for role in $roles; do
    echo "  the role $role"
  done
  echo "Then: azd env set REGISTRY_RESOURCE_ID '' and azd down again."
  exit 1
fi

# The rights go first: without them the service makes no webhook anew.
for assignment in $assignments; do
  az rest --method delete --url "${assignment}?api-version=2022-04-01" --output none
  if [ $? -ne 0 ]; then
    failed="yes"
    echo "  left: az rest --method delete --url '${assignment}?api-version=2022-04-01'"
  fi
done
for id in $ids; do
  registry=${id##*/}
  subscription=$(echo "$id" | cut -d/ -f3)
  echo "Deleting what the service has at $registry, as $who"
  webhooks=""
  answer=$(az rest --method get --url "${id}?api-version=2025-04-01" --query name -o tsv 2>&1)
  if [ $? -eq 0 ]; then
    webhooks=$(az acr webhook list -r "$registry" --subscription "$subscription" --query "join(' ', [?tags.allregions=='$WEBHOOK_OWNER'].name)" -o tsv)
    if [ $? -ne 0 ]; then
      failed="yes"
      echo "  perhaps left: az acr webhook list -r $registry --subscription $subscription --query \"[?tags.allregions=='$WEBHOOK_OWNER'].name\""
    fi
  elif [ "${answer#*NotFound}" != "$answer" ]; then
    echo "  $registry is gone, and its webhooks with it"
  else
    failed="yes"
    echo "  perhaps left: webhooks of $registry, which az cannot read: $answer"
  fi
  for webhook in $webhooks; do
    az acr webhook delete -r "$registry" --subscription "$subscription" -n "$webhook" --output none
    if [ $? -eq 0 ]; then
      echo "  deleted the webhook $webhook"
    else
      failed="yes"
      echo "  left: az acr webhook delete -r $registry --subscription $subscription -n $webhook"
    fi
  done
done
for role in $roles; do
  az rest --method delete --url "${role}?api-version=2022-04-01" --output none
  if [ $? -ne 0 ]; then
    failed="yes"
    echo "  left: az rest --method delete --url '${role}?api-version=2022-04-01'"
  fi
done
if [ -n "$failed" ]; then
  echo "Not everything of the service is deleted, and azd has deleted nothing. Run the commands above, or azd down again."
  exit 1
fi
echo "Nothing of the service is left at its registries"
