package target

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"

	"allregions/app/notification"
	"allregions/app/replication"
)

// headlines say what has happened: first where an image came, then for every other
// action.
var headlines = map[replication.Status][2]string{
	replication.Replicated: {"✅ In all regions", "✅ Done in all regions"},
	replication.TimedOut:   {"❌ Not in all regions", "❌ Not done in all regions"},
	replication.Recovered:  {"✅ In all regions after all", "✅ Done in all regions after all"},
}

// headline has no text that is not ours.
func headline(s notification.Status) string {
	if s.IsArrival() {
		return headlines[s.Status][0]
	}
	return headlines[s.Status][1]
}

// imageName is the image as a person would name it.
func imageName(s notification.Status) string {
	name := strings.TrimPrefix(s.Registry+"/"+s.Repository, "/")
	if s.Tag != "" {
		return name + ":" + s.Tag
	}
	return name + "@" + s.Digest
}

// render returns the body of a kind whose messages a template makes: JSON, in which
// every value must go through the function json. Text that is not ours must go through
// fit before.
func render(text string, escapes *strings.Replacer) func(Event) ([]byte, error) {
	t := template.Must(template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"json": quote,
		"fit":  func(s string, limit int) string { return fit(s, limit, escapes) },
	}).Parse(text))
	return func(e Event) ([]byte, error) {
		var rendered, body bytes.Buffer
		err := t.Execute(&rendered, map[string]any{ // all but Headline, Link and the labels of Facts is text that is not ours
			"ID":       e.ID,
			"Headline": headline(e.Status),
			"Image":    imageName(e.Status),
			"Good":     e.Status.Status != replication.TimedOut,
			"Facts":    factsOf(e.Status),
			"Link":     e.Link,
		})
		if err == nil {
			err = json.Compact(&body, rendered.Bytes())
		}
		if err != nil {
			return nil, errors.New("the message cannot be made") // the error may quote it
		}
		return body.Bytes(), nil
	}
}

type fact struct{ Label, Value string }

// factsOf returns at most eight facts, none of them empty; Slack takes ten.
func factsOf(s notification.Status) []fact {
	mismatch := ""
	if s.Mismatch {
		mismatch = "regions disagree on the digest or tag"
	}
	return slices.DeleteFunc([]fact{
		{"Missing", strings.Join(replication.Names(s.Missing), ", ")},
		{"Regions", strings.Join(names(s.Regions), ", ")},
		{"Optional", strings.Join(names(s.OptionalIn()), ", ")},
		{"Action", s.Action},
		{"Digest", s.Digest},
		{"After", (time.Duration(*cmp.Or(s.DurationMS, new(int64))) * time.Millisecond).String()},
		{"Since", s.StartedAt.UTC().Format(time.RFC3339)},
		{"Mismatch", mismatch},
	}, func(f fact) bool { return f.Value == "" })
}

// fit escapes s and cuts it to limit bytes, never within an escape. It replaces
// characters that cannot be seen, or that change the direction of writing.
func fit(s string, limit int, escapes *strings.Replacer) string {
	const ellipsis = "…"
	var b strings.Builder
	for _, c := range s {
		if !unicode.IsPrint(c) {
			c = unicode.ReplacementChar
		}
		piece := escapes.Replace(string(c))
		if b.Len()+len(piece)+len(ellipsis) > limit {
			b.WriteString(ellipsis)
			break
		}
		b.WriteString(piece)
	}
	return b.String()
}

// quote makes JSON without the escapes for HTML, each of which is six bytes.
func quote(s string) (string, error) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(s)
	return b.String(), err
}
