// Alerts by mail, of what the service logs. The texts are those of the lines: a test
// holds them to the code.
param name string
param location string
param tags object
param email string
param workspaceId string

var appId = loadYamlContent('../components/azure/statestore.yaml').scopes[0]
var lines = 'ContainerAppConsoleLogs | where ContainerAppName == "${appId}" and ContainerName == "${appId}" | extend line = parse_json(Log) | extend msg = tostring(line.msg)'
var runbook = 'See "When things fail" in app/README.md'
var rules = [
  {
    name: 'webhooks-lost'
    severity: 1
    minutes: 15
    text: 'Webhooks were not accepted, or are dead letters. ${runbook}: actor-and-queue-unreachable, dead-letter.'
    query: '${lines} | where msg in ("cannot answer", "dead letter")'
  }
  {
    name: 'ids-disagree'
    severity: 1
    minutes: 15
    text: 'The registry gives one push several ids, so that its regions never meet. ${runbook}: ids-disagree.'
    query: '${lines} | where msg == "ACR gives one push several ids"'
  }
  {
    name: 'region-never-reports'
    severity: 1
    minutes: 60
    text: 'Nine in ten notifications of the last hour timed out without a region. ${runbook}: region-missing.'
    query: 'let decided = ${lines} | where msg == "decided" | extend decision = tostring(line.decision); let begun = toscalar(decided | where decision startswith "started" | count); decided | where decision has "timedOut" | mv-expand missing = split(extract(@"missing \\[(.*?)\\]", 1, decision), " ") | extend region = tostring(missing) | where isnotempty(region) | summarize missed = count() by region | where missed > 0.9 * begun'
  }
  {
    name: 'deliveries-fail'
    severity: 2
    minutes: 15
    text: 'A target has not got an outcome, and will not. ${runbook}: target-fails, filter-fails.'
    query: '${lines} | where msg == "filter failed" or (msg == "delivery" and tostring(line.decision) in ("refused", "exhausted", "disabled"))'
  }
  {
    name: 'not-ready'
    severity: 1
    minutes: 15
    text: 'A replica has not been ready for five minutes, or cannot start. ${runbook}: sidecar-away, arm-away.'
    query: '${lines} | where msg in ("not ready", "stopped") or Log startswith "allregions: cannot start" | summarize minutes = dcount(bin(TimeGenerated, 1m)) by ContainerGroupName, msg | where minutes >= 5 or msg != "not ready"'
  }
]

resource group 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: name
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: appId
    emailReceivers: [{ name: 'email', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for rule in rules: {
    name: '${appId}-${rule.name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: '${appId}: ${rule.name}'
      description: rule.text
      severity: rule.severity
      enabled: true
      scopes: [workspaceId]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT${rule.minutes}M'
      autoMitigate: true
      // The table is there once something has logged.
      skipQueryValidation: true
      criteria: {
        allOf: [
          {
            query: rule.query
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: [group.id] }
    }
  }
]
