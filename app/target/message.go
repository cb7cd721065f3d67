package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/notification"
	"allregions/app/replication"
)

// kind is what sets the targets of one type apart.
type kind struct {
	outcomes []replication.Status          // by default
	filter   string                        // by default; empty takes everything
	secret   func(*settings, string) error // takes the secret; nil if there is none
	path     *regexp.Regexp                // what the URL's path must be; nil if anything goes
	example  string                        // of a URL, where path is set
	reserved []string                      // headers of its own, beside those that are always so
	message  func(*settings, Event, time.Time) (body []byte, header map[string]string, err error)
}

var kinds = map[string]kind{
	"webhook": {
		outcomes: choices, secret: signingSecrets, message: webhookMessage,
		reserved: []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
	},
	"acr": {
		// Some of those that take ACR's webhooks deploy whatever comes, also an
		// image in quarantine, and others refuse a push without a tag.
		outcomes: []replication.Status{replication.Replicated, replication.Recovered}, filter: `action == "push" && tag != ""`, message: acrMessage,
	},
	"slack": {outcomes: choices, message: slackMessage},
	"teams": {outcomes: choices, message: teamsMessage},
	"github": {
		outcomes: choices, secret: bearerToken, message: githubMessage,
		path: regexp.MustCompile(`^(/api/v3)?/repos/[^/]+/[^/]+/dispatches$`), example: "https://api.github.com/repos/OWNER/REPO/dispatches",
		reserved: []string{"Accept", "Authorization", "X-Github-Api-Version"},
	},
}

// request is what tells t of e. An error means that there is no way to, and
// quotes nothing.
func (t *Target) request(ctx context.Context, e Event, now time.Time) (*http.Request, error) {
	if !validID.MatchString(e.ID) {
		return nil, errors.New("the event's id cannot be sent")
	}
	s := t.s()
	body, header, err := s.kind.message(s, e, now)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the request cannot be made") // the error quotes the URL
	}
	request.Header = s.header.Clone()
	for name, value := range header {
		request.Header.Set(name, value)
	}
	return request, nil
}

const (
	userAgent = "allregions"
	// acrUserAgent begins as ACR's own does: Kargo takes nothing else.
	acrUserAgent = "AzureContainerRegistry/1.0"
)

// errNoOriginal is why a target of type acr cannot be told: there is nothing
// that it would understand.
var errNoOriginal = errors.New("the webhook that ACR sent is not there to be sent on")

// webhookMessage is the CloudEvent, signed after Standard Webhooks.
func webhookMessage(s *settings, e Event, now time.Time) ([]byte, map[string]string, error) {
	var signatures []string
	for _, signer := range s.signers {
		signature, err := signer.Sign(e.ID, now, e.Body)
		if err != nil {
			return nil, nil, errors.New("the event cannot be signed")
		}
		signatures = append(signatures, signature)
	}
	return e.Body, map[string]string{
		"Content-Type":                          "application/cloudevents+json",
		"User-Agent":                            userAgent,
		standardwebhooks.HeaderWebhookID:        e.ID,
		standardwebhooks.HeaderWebhookTimestamp: strconv.FormatInt(now.Unix(), 10),
		standardwebhooks.HeaderWebhookSignature: strings.Join(signatures, " "),
	}, nil
}

// acrMessage is what ACR itself sent, byte by byte.
func acrMessage(_ *settings, e Event, _ time.Time) ([]byte, map[string]string, error) {
	if len(e.Original) == 0 {
		return nil, nil, errNoOriginal
	}
	return e.Original, map[string]string{"Content-Type": "application/json; charset=utf-8", "User-Agent": acrUserAgent}, nil
}

// githubMessage is a repository_dispatch. GitHub allows client_payload ten keys,
// which the status alone would exceed.
func githubMessage(s *settings, e Event, _ time.Time) ([]byte, map[string]string, error) {
	type payload struct {
		Notification notification.Status `json:"notification"`
		ID           string              `json:"id"`
	}
	body, err := encode(struct {
		EventType     string  `json:"event_type"`
		ClientPayload payload `json:"client_payload"`
	}{e.Type, payload{e.Status, e.ID}})
	return body, map[string]string{
		"Content-Type":         "application/json",
		"User-Agent":           userAgent,
		"Accept":               "application/vnd.github+json",
		"Authorization":        "Bearer " + s.token,
		"X-GitHub-Api-Version": "2022-11-28",
	}, err
}

// Limits of Slack, in characters. What is cut off ends in an ellipsis; what is
// not would be refused as a whole.
const (
	maxSlackFallback = 1000
	maxSlackText     = 2900
	maxSlackField    = 1900
)

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text,omitempty"`
	Fields   []slackText `json:"fields,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

// slackMessage is Block Kit, with a text for notifications and screen readers.
// In the blocks, text that is not ours is in code spans, where Slack formats
// nothing.
func slackMessage(_ *settings, e Event, _ time.Time) ([]byte, map[string]string, error) {
	markdown := func(s string) slackText { return slackText{"mrkdwn", s} }
	image := markdown("`" + fit(imageName(e.Status), maxSlackText, slackEscape) + "`")
	var fields []slackText
	for _, f := range factsOf(e.Status) {
		fields = append(fields, markdown("*"+f.label+"*\n`"+fit(f.value, maxSlackField, slackEscape)+"`"))
	}
	body, err := encode(struct {
		Text        string       `json:"text"`
		Blocks      []slackBlock `json:"blocks"`
		UnfurlLinks bool         `json:"unfurl_links"`
		UnfurlMedia bool         `json:"unfurl_media"`
	}{
		Text: headline(e.Status) + ": " + fit(imageName(e.Status), maxSlackFallback, slackEscape),
		Blocks: []slackBlock{
			{Type: "header", Text: &slackText{"plain_text", headline(e.Status)}},
			{Type: "section", Text: &image},
			{Type: "section", Fields: fields},
			{Type: "context", Elements: []slackText{markdown("`" + fit(e.ID, maxSlackField, slackEscape) + "`")}},
		},
	})
	return body, map[string]string{"Content-Type": "application/json", "User-Agent": userAgent}, err
}

// slackEscape takes the meaning from what has one in mrkdwn: links, mentions,
// and the end of the code span.
func slackEscape(c rune) string {
	switch c {
	case '&':
		return "&amp;"
	case '<':
		return "&lt;"
	case '>':
		return "&gt;"
	case '`':
		return "'"
	}
	return string(c)
}

// maxCardText keeps a card below the 28 KB that Teams takes.
const maxCardText = 1200

// cardElement is an element of an Adaptive Card's body.
type cardElement struct {
	Type    string    `json:"type"` // TextBlock or RichTextBlock
	Text    string    `json:"text,omitempty"`
	Size    string    `json:"size,omitempty"`
	Weight  string    `json:"weight,omitempty"`
	Color   string    `json:"color,omitempty"`
	Wrap    bool      `json:"wrap,omitempty"`
	Spacing string    `json:"spacing,omitempty"`
	Inlines []textRun `json:"inlines,omitempty"`
}

type textRun struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Weight   string `json:"weight,omitempty"`
	FontType string `json:"fontType,omitempty"`
	Subtle   bool   `json:"isSubtle,omitempty"`
}

// teamsMessage is a message with one Adaptive Card. A TextBlock is Markdown, and
// Teams on phones does not understand its escapes: text that is not ours is in
// text runs, which are no Markdown.
func teamsMessage(_ *settings, e Event, _ time.Time) ([]byte, map[string]string, error) {
	type card struct {
		Schema       string        `json:"$schema"`
		Type         string        `json:"type"`
		Version      string        `json:"version"`
		FallbackText string        `json:"fallbackText"`
		Body         []cardElement `json:"body"`
	}
	type attachment struct {
		ContentType string  `json:"contentType"`
		ContentURL  *string `json:"contentUrl"` // null: the content is here
		Content     card    `json:"content"`
	}
	color := "Good"
	if e.Status.Status == replication.TimedOut {
		color = "Attention"
	}
	code := func(s string) textRun {
		return textRun{Type: "TextRun", Text: fit(s, maxCardText, cardEscape), FontType: "Monospace"}
	}
	elements := []cardElement{
		{Type: "TextBlock", Text: headline(e.Status), Size: "Large", Weight: "Bolder", Color: color, Wrap: true},
		{Type: "RichTextBlock", Inlines: []textRun{code(imageName(e.Status))}},
	}
	for _, f := range factsOf(e.Status) {
		elements = append(elements, cardElement{Type: "RichTextBlock", Spacing: "Small",
			Inlines: []textRun{{Type: "TextRun", Text: f.label + " ", Weight: "Bolder"}, code(f.value)}})
	}
	id := code(e.ID)
	id.Subtle = true
	elements = append(elements, cardElement{Type: "RichTextBlock", Inlines: []textRun{id}})
	body, err := encode(struct {
		Type        string       `json:"type"`
		Attachments []attachment `json:"attachments"`
	}{"message", []attachment{{ContentType: "application/vnd.microsoft.card.adaptive", Content: card{
		Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4",
		FallbackText: headline(e.Status), Body: elements,
	}}}})
	return body, map[string]string{"Content-Type": "application/json", "User-Agent": userAgent}, err
}

// cardEscape keeps text from being one of the functions of Adaptive Cards, such
// as {{DATE(…)}}, which text runs have, too.
func cardEscape(c rune) string {
	switch c {
	case '{':
		return "("
	case '}':
		return ")"
	}
	return string(c)
}

// headline says in our own words what has happened, but not to what.
func headline(s notification.Status) string {
	arrived := s.IsArrival()
	switch s.Status {
	case replication.Replicated:
		if arrived {
			return "✅ In all regions"
		}
		return "✅ Done in all regions"
	case replication.TimedOut:
		if arrived {
			return "❌ Not in all regions"
		}
		return "❌ Not done in all regions"
	}
	if arrived {
		return "✅ In all regions after all"
	}
	return "✅ Done in all regions after all"
}

// imageName is the image as a person would name it.
func imageName(s notification.Status) string {
	name := s.Repository
	if s.Registry != "" {
		name = s.Registry + "/" + name
	}
	if s.Tag != "" {
		return name + ":" + s.Tag
	}
	return name + "@" + s.Digest
}

type fact struct{ label, value string }

// factsOf are at most eight, none of them empty; Slack takes ten.
func factsOf(s notification.Status) []fact {
	facts := []fact{
		{"Missing", strings.Join(missingNames(s), ", ")},
		{"Regions", strings.Join(regionNames(s), ", ")},
		{"Action", s.Action},
		{"Digest", s.Digest},
	}
	if s.DurationMS != nil {
		facts = append(facts, fact{"After", (time.Duration(*s.DurationMS) * time.Millisecond).String()})
	}
	facts = append(facts, fact{"Since", s.StartedAt.UTC().Format(time.RFC3339)})
	if s.Mismatch {
		facts = append(facts, fact{"Mismatch", "regions disagree on the digest or tag"})
	}
	n := 0
	for _, f := range facts {
		if f.value != "" {
			facts[n] = f
			n++
		}
	}
	return facts[:n]
}

// fit escapes s and cuts it to limit bytes, never within an escape. What cannot
// be seen, or changes the direction of writing, is replaced.
func fit(s string, limit int, escape func(rune) string) string {
	const ellipsis = "…"
	var b strings.Builder
	for _, c := range s {
		if !unicode.IsPrint(c) {
			c = unicode.ReplacementChar
		}
		piece := escape(c)
		if b.Len()+len(piece)+len(ellipsis) > limit {
			b.WriteString(ellipsis)
			break
		}
		b.WriteString(piece)
	}
	return b.String()
}

// encode is JSON that a person can read: nobody puts it into HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
