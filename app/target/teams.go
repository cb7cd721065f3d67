package target

import (
	_ "embed"
	"strings"
)

// teamsTemplate is a message with one Adaptive Card, below the 28 KB that Teams takes.
// Text that is not ours is in text runs: a TextBlock is Markdown, and Teams on phones
// does not understand its escapes.
//
//go:embed teams.json.tmpl
var teamsTemplate string

var teamsKind = kind{outcomes: choices, body: render(teamsTemplate, teamsEscapes)}

// teamsEscapes keep text from being one of the functions of Adaptive Cards, such
// as {{DATE(…)}}. Text runs have them, too.
var teamsEscapes = strings.NewReplacer("{", "(", "}", ")")
