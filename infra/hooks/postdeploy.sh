#!/bin/sh
# After `azd deploy`: waits until the service is ready and the webhook of every region
# has answered a ping, and shows them.
# postdeploy.ps1 is this file in PowerShell, line by line.

echo "Waiting until the service is ready, at most 5 minutes: $APP_URL/readyz"
ready=""
end=$(($(date +%s) + 300))
while [ -z "$ready" ] && [ "$(date +%s)" -lt "$end" ]; do
  answer=$(curl --silent --fail --max-time 10 "$APP_URL/readyz")
  if [ $? -eq 0 ]; then
    ready="yes"
  else
    echo "  not yet"
    sleep 5
  fi
done
if [ -z "$ready" ]; then
  echo "The service is not ready: $APP_URL/readyz. The last line of its log:"
  az containerapp logs show -n allregions -g "$AZURE_RESOURCE_GROUP" --tail 1 --format text
  exit 1
fi
echo "The service is ready. Webhooks call $PUBLIC_URL/webhooks/acr?region=REGION with the first key of"
echo "  az keyvault secret show --vault-name $AZURE_KEY_VAULT_NAME -n webhook-keys --query value -o tsv"
echo "Pipelines, browsers and dashboards ask with one that may only read:"
echo "  az keyvault secret show --vault-name $AZURE_KEY_VAULT_NAME -n read-keys --query value -o tsv"

# With a key that may read, /regions says what each region has.
who=""
if command -v az >/dev/null; then
  who=$(az account show --query user.name -o tsv 2>/dev/null)
fi
if [ -z "$who" ]; then
  echo "az is not installed, or not logged in: whether the webhooks answer is not checked. See $APP_URL/regions."
  exit 0
fi
key=""
end=$(($(date +%s) + 300))
while [ -z "$key" ] && [ "$(date +%s)" -lt "$end" ]; do
  key=$(az keyvault secret show --vault-name "$AZURE_KEY_VAULT_NAME" -n read-keys --query value -o tsv 2>/dev/null)
  if [ -z "$key" ]; then
    echo "Waiting for your right to read the key, which Azure grants within some minutes"
    sleep 15
  fi
done
if [ -z "$key" ]; then
  echo "az, logged in as $who, cannot read the key: whether the webhooks answer is not checked. az login as who deployed, then: azd hooks run postdeploy"
  exit 1
fi
key=${key%%,*}

if [ "$REGISTERS_WEBHOOKS" = "true" ]; then
  echo "The service makes the webhooks of every region and pings them. Waiting, at most 10 minutes, for:"
  waiting="the first answer"
  shown=""
  end=$(($(date +%s) + 600))
  while [ -n "$waiting" ] && [ "$(date +%s)" -lt "$end" ]; do
    if [ "$waiting" != "$shown" ]; then
      echo "  $waiting"
      shown="$waiting"
    fi
    sleep 5
    answer=$(az rest --method get --url "$APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', !(registries[].regions[]) && ['the regions'] || (registries[].regions[] | [?expected && !(webhook.registered && webhook.lastPing.answered)].region))" -o tsv 2>/dev/null)
    if [ $? -eq 0 ]; then
      waiting="$answer"
    fi
  done
  az rest --method get --url "$APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "registries[].regions[].{Region: region, Webhook: webhook.name, Registered: webhook.registered, Answered: webhook.lastPing.answered, Problem: webhook.problem}" -o table
  if [ -n "$waiting" ]; then
    echo "Not every webhook answers. Still waiting for: $waiting. What the service says of the registry, and the last line of its log:"
    az rest --method get --url "$APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "registries[].read.error" -o tsv
    az containerapp logs show -n allregions -g "$AZURE_RESOURCE_GROUP" --tail 1 --format text
    echo "It goes on trying. To look again: azd hooks run postdeploy"
    exit 1
  fi
  echo "Every region's webhook answers."
else
  echo "The service makes no webhooks. Make one in each region, with the key for KEY, and ping it:"
  registries=$(az rest --method get --url "$APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', registries[].name)" -o tsv)
  if [ -z "$registries" ]; then
    registries="REGISTRY"
  fi
  for registry in $registries; do
    regions=$(az rest --method get --url "$APP_URL/regions" --skip-authorization-header --headers "x-functions-key=$key" --query "join(' ', registries[?name=='$registry' || name==''].regions[] | [?expected].region)" -o tsv)
    if [ -z "$regions" ]; then
      regions="REGION"
    fi
    for region in $regions; do
      echo "  az acr webhook create -r $registry -n allregions$region -l $region --actions $REPORTED_ACTIONS --uri '$PUBLIC_URL/webhooks/acr?region=$region' --headers 'Authorization=Bearer KEY'"
      echo "  az acr webhook ping -r $registry -n allregions$region"
    done
  done
fi
