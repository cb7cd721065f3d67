package target

import (
	_ "embed"
	"strings"
)

// slackTemplate is a message in Block Kit, with a text for notifications and screen
// readers. In the blocks, text that is not ours is in code spans, where Slack formats
// nothing. A text that is too long is cut: Slack would refuse the message.
//
//go:embed slack.json.tmpl
var slackTemplate string

var slackKind = kind{outcomes: choices, body: render(slackTemplate, slackEscapes)}

// slackEscapes escape what has a meaning in mrkdwn: links, mentions, and the end of
// the code span.
var slackEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'")
