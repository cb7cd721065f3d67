// Package target knows who is told about outcomes, and how each wants to hear
// it: the settings, the filters, the bodies, and one attempt to deliver one
// event to one target. Whoever calls it does the repeating; [Result.Verdict]
// says whether that makes sense.
//
// The targets are one setting: a list in YAML or JSON, or the path of a file
// that has it. A complete example:
//
//	# Who is told about outcomes.
//
//	# A service of yours: the CloudEvent, signed after Standard Webhooks. Its secret
//	# is "whsec_" and the base64 of 24 to 64 random bytes; during a rotation there
//	# are two, separated by a space, and both sign.
//	- name: deployer
//	  type: webhook
//	  url: https://deploy.example.com/hooks/images
//	  secret: ${DEPLOYER_SECRET} ${DEPLOYER_SECRET_OLD}
//	  filter: action == "push" && repository.startsWith("shop/")
//
//	# What listens to ACR itself, such as Flux, Kargo, Keel and Argo CD Image
//	# Updater: ACR's own webhook, once, when the image is in all regions. Only of
//	# pushes with a tag, unless there is a filter that says otherwise.
//	- name: flux
//	  type: acr
//	  url: https://flux.example.com/hook/${FLUX_RECEIVER}
//	  headers:
//	    Authorization: Bearer ${FLUX_TOKEN}
//
//	# A channel in Slack, by the URL of an incoming webhook.
//	- name: ops-slack
//	  type: slack
//	  url: ${SLACK_URL}
//	  outcomes: [timedOut, recovered]
//
//	# A channel in Teams, by the URL of the workflow "When a Teams webhook request
//	# is received".
//	- name: ops-teams
//	  type: teams
//	  url: ${TEAMS_URL}
//	  outcomes: [timedOut]
//	  filter: '"japaneast" in missing || missing.size() > 1'
//
//	# A workflow on GitHub, by repository_dispatch. The token may write contents.
//	- name: release
//	  type: github
//	  url: https://api.github.com/repos/contoso/deploy/dispatches
//	  secret: ${GITHUB_TOKEN}
//	  outcomes: [replicated]
//
// The keys of an entry:
//
//   - name: 1 to 40 of a-z, 0-9 and "-"; what logs and statuses call the target.
//   - type: webhook, acr, slack, teams or github.
//   - url: https; http only for this machine itself.
//   - secret: for webhook and github, and for them required.
//   - headers: sent with every request, unless the service sets them itself.
//   - filter: an expression in CEL over the fields of the JSON status. Times are
//     timestamps, regions is the list of their names. It is compiled when the
//     settings are read: what is misspelt does not start. It may cost only so
//     much; see [Target.Wants]. None by default, but for acr
//     action == "push" && tag != "", which a filter of its own replaces;
//     true takes everything.
//   - outcomes: of replicated, timedOut and recovered. All by default, but for
//     acr those two after which the image is there.
//
// In url, secret and the values of headers, ${NAME} stands for an environment
// variable, which must be set, and $${ for ${ itself.
//
// # Secrets
//
// The URL of a channel in Slack or Teams is a secret as much as a key is. So no
// error, no log and nothing that prints a Target or a Result shows more of a URL
// than its host, nor a secret, nor the value of a header: not even where the
// other side sends it back. The exception are pieces of less than 4 bytes, which
// guard nothing, and would leave nothing readable.
package target
