package target

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/notification"
	"allregions/app/replication"
)

// hostile is text that somebody hopes will be formatted.
const hostile = "shop/<!channel>&*b*_i_`c`[x](https://evil.example)<https://evil.example|x>{{DATE(2017-02-14T06:00:00Z)}}\n# \u202e"

// sent is the request that tells a target, with its body.
func sent(t testing.TB, target *Target, e Event, now time.Time) (*http.Request, []byte) {
	t.Helper()
	request, err := target.request(t.Context(), e, now)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		t.Fatal(err)
	}
	return request, body
}

func TestBodies(t *testing.T) {
	events := map[string]Event{
		"completed": event(t, notification.TypeCompleted, nil),
		"timedout":  event(t, notification.TypeTimedOut, nil),
		"recovered": event(t, notification.TypeRecovered, func(s *notification.Status) { s.Mismatch = true }),
		"delete": event(t, notification.TypeCompleted, func(s *notification.Status) {
			s.Action, s.Tag, s.Size, s.Registry = "delete", "", 0, ""
		}),
		"hostile": event(t, notification.TypeTimedOut, func(s *notification.Status) {
			s.Repository, s.Tag, s.Action = hostile, "`<@U1>`", "push*"
		}),
	}
	for _, target := range load(t, everyType, everyTypeEnv) {
		for name, e := range events {
			e.Original = original(t)
			_, body := sent(t, target, e, time.Unix(1e9, 0))
			var got bytes.Buffer
			if err := json.Indent(&got, body, "", "  "); err != nil {
				t.Errorf("%s: %v", target, err)
				continue
			}
			got.WriteByte('\n')
			file := filepath.Join("testdata", target.Type+"-"+name+".json")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s is not\n%s", file, got.Bytes())
			}
		}
	}
}

// What ACR sent goes on byte by byte, but for the host of a region, and for a byte order
// mark.
func TestWhatACRSentGoesOn(t *testing.T) {
	const bom = "\xef\xbb\xbf"
	target := load(t, "[{name: flux, type: acr, url: 'https://example.com/x'}]", nil)[0]
	for name, tt := range map[string]struct{ original, want string }{
		"the login server": {`{ "id":1, "request": {"host":"contoso.azurecr.io"}, "more": 1.0}`, `{ "id":1, "request": {"host":"contoso.azurecr.io"}, "more": 1.0}`},
		"a region's host": {`{ "request": {"host" : "contoso.westeurope.geo.azurecr.io","id":"a"}, "source":{"addr":"contoso.westeurope.geo.azurecr.io:443"}}`,
			`{ "request": {"host" : "contoso.azurecr.io","id":"a"}, "source":{"addr":"contoso.westeurope.geo.azurecr.io:443"}}`},
		"capitals":               {`{"request":{"host":"Contoso.azurecr.io"}}`, `{"request":{"host":"contoso.azurecr.io"}}`},
		"a byte order mark":      {bom + `{"request":{"host":"contoso.azurecr.io"}}`, `{"request":{"host":"contoso.azurecr.io"}}`},
		"both":                   {bom + `{"request":{"host":"contoso.westeurope.geo.azurecr.io"}}`, `{"request":{"host":"contoso.azurecr.io"}}`},
		"a chart has no request": {`{"action":"chart_push"}`, `{"action":"chart_push"}`},
		"a host that is none":    {`{"request":{"host":7}}`, `{"request":{"host":7}}`},
		"no JSON":                {`the original`, `the original`},
	} {
		t.Run(name, func(t *testing.T) {
			e := event(t, notification.TypeCompleted, nil)
			e.Original = []byte(tt.original)
			if _, got := sent(t, target, e, time.Unix(1e9, 0)); string(got) != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if string(e.Original) != tt.original {
				t.Errorf("the event's own copy is now %s", e.Original)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	e := event(t, notification.TypeCompleted, nil)
	e.Original = original(t)
	common := http.Header{"X-Key": {everyTypeEnv["HEADER_KEY"]}}
	for name, want := range map[string]http.Header{
		"webhook": {"Content-Type": {"application/cloudevents+json"}, "Authorization": {"Bearer " + everyTypeEnv["HEADER_TOKEN"]},
			"Webhook-Id": {e.ID}, "Webhook-Timestamp": {"1000000000"}, "Webhook-Signature": nil},
		"acr":   {"Content-Type": {"application/json; charset=utf-8"}, "User-Agent": {"AzureContainerRegistry/1.0"}, "Authorization": {"Basic " + everyTypeEnv["HEADER_BASIC"]}},
		"slack": {"Content-Type": {"application/json"}},
		"teams": {"Content-Type": {"application/json"}, "Authorization": {"Basic JGFwcDp1cmxQYXNzd29yZFQ4d0sz"}},
		"github": {"Content-Type": {"application/json"}, "Accept": {"application/vnd.github+json"},
			"X-Github-Api-Version": {"2022-11-28"}, "Authorization": {"Bearer " + everyTypeEnv["GITHUB_TOKEN"]}},
	} {
		targets := load(t, everyType, everyTypeEnv)
		target := targets[slices.IndexFunc(targets, func(t *Target) bool { return t.Type == name })]
		request, _ := sent(t, target, e, time.Unix(1e9, 0))
		want["X-Key"] = common["X-Key"]
		for field, values := range request.Header {
			if w, ok := want[field]; !ok || w != nil && !slices.Equal(values, w) {
				t.Errorf("%s: %s: %q, want %q", name, field, values, w)
			}
		}
		if len(request.Header) != len(want) || request.Method != http.MethodPost || request.URL.String() != target.s().url.String() {
			t.Errorf("%s: %s %s %v", name, request.Method, request.URL, request.Header)
		}
		if len(target.s().header) >= len(request.Header) {
			t.Errorf("%s: the request's headers are the target's", name)
		}
	}
}

// Both secrets of a rotation sign, and each of the receiver's is enough.
func TestSignatures(t *testing.T) {
	target := load(t, everyType, everyTypeEnv)[0]
	e := event(t, notification.TypeCompleted, nil)
	now := time.Now()
	request, body := sent(t, target, e, now)
	if !bytes.Equal(body, e.Body) {
		t.Error("not the CloudEvent")
	}
	if got := request.Header.Get("webhook-timestamp"); got != strconv.FormatInt(now.Unix(), 10) {
		t.Errorf("timestamp %s", got)
	}
	signatures := strings.Split(request.Header.Get("webhook-signature"), " ")
	if len(signatures) != 2 || signatures[0] == signatures[1] {
		t.Errorf("signatures %q", signatures)
	}
	for i, secret := range []string{signingOne, signingTwo} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(body, request.Header); err != nil {
			t.Errorf("secret %d: %v", i, err)
		}
		if err := verifier.Verify(append(body, ' '), request.Header); err == nil {
			t.Errorf("secret %d verifies another body", i)
		}
		alone := request.Header.Clone()
		alone.Set("webhook-signature", signatures[i])
		if err := verifier.Verify(body, alone); err != nil {
			t.Errorf("secret %d alone: %v", i, err)
		}
		alone.Set("webhook-signature", signatures[1-i])
		if err := verifier.Verify(body, alone); err == nil {
			t.Errorf("secret %d verifies the other's signature", i)
		}
	}

	later, _ := sent(t, target, e, now.Add(time.Hour))
	if later.Header.Get("webhook-id") != e.ID || request.Header.Get("webhook-id") != e.ID {
		t.Error("the id is not that of the event")
	}
	if later.Header.Get("webhook-signature") == request.Header.Get("webhook-signature") {
		t.Error("a later attempt is signed with the time of the first")
	}
}

// What listens to ACR finds what it reads, in what ACR itself has sent.
func TestACRBody(t *testing.T) {
	e := event(t, notification.TypeCompleted, nil)
	e.Original = original(t)
	for _, target := range load(t, everyType, everyTypeEnv) {
		if target.Type != "acr" {
			continue
		}
		_, body := sent(t, target, e, time.Unix(0, 0))
		if !bytes.Equal(body, e.Original) {
			t.Errorf("not what ACR sent: %s", body)
		}
		var p struct {
			ID, Action string
			Target     struct{ Repository, Tag, Digest, MediaType string }
			Request    struct{ Host string }
		}
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		if p.ID != e.Status.ID || p.Action != "push" || p.Target.Repository != "shop/cart" || p.Target.Tag != "v1.4.2" ||
			p.Target.Digest != digest || p.Target.MediaType == "" || p.Request.Host != "contoso.azurecr.io" {
			t.Errorf("%+v", p)
		}
		e.Original = nil
		if request, err := target.request(t.Context(), e, time.Unix(0, 0)); err == nil {
			t.Errorf("without an original: %v, %v", request, err)
		}
		return
	}
	t.Fatal("no target of type acr")
}

// texts are all strings under the keys of a JSON value.
func texts(value any, key string) []string {
	var out []string
	switch v := value.(type) {
	case map[string]any:
		for k, v := range v {
			if s, ok := v.(string); ok && k == key {
				out = append(out, s)
			}
			out = append(out, texts(v, key)...)
		}
	case []any:
		for _, v := range v {
			out = append(out, texts(v, key)...)
		}
	}
	return out
}

// In Slack, foreign text makes no link, no mention and no formatting: it has no
// open angle bracket, and every backtick in the message is one of ours.
func TestSlackEscapes(t *testing.T) {
	e := event(t, notification.TypeTimedOut, func(s *notification.Status) { s.Repository, s.Tag, s.Action = hostile, "`<@U1>`", "<a>" })
	target := load(t, everyType, everyTypeEnv)[2]
	_, body := sent(t, target, e, time.Unix(0, 0))
	var message any
	if err := json.Unmarshal(body, &message); err != nil {
		t.Fatal(err)
	}
	found := texts(message, "text")
	if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, "&lt;!channel&gt;&amp;") }) {
		t.Fatalf("no escaped text in %q", found)
	}
	for _, s := range found {
		if strings.ContainsAny(s, "<>\u202e") || strings.Count(s, "`")%2 != 0 || strings.Count(s, "`") > 2 {
			t.Errorf("%q", s)
		}
	}
}

// In Teams, foreign text is where Markdown is not read, and calls no function.
func TestTeamsEscapes(t *testing.T) {
	e := event(t, notification.TypeTimedOut, func(s *notification.Status) {
		s.Repository, s.Tag, s.Action = hostile, "hostile", "hostile"
		s.Missing = []replication.Region{"hostile"}
	})
	target := load(t, everyType, everyTypeEnv)[3]
	_, body := sent(t, target, e, time.Unix(0, 0))
	var message struct {
		Attachments []struct {
			Content struct {
				FallbackText string
				Body         []struct {
					Type, Text string
					Inlines    []struct{ Type, Text string }
				}
			}
		}
	}
	if err := json.Unmarshal(body, &message); err != nil || len(message.Attachments) != 1 {
		t.Fatalf("%s, %v", body, err)
	}
	runs := 0
	card := message.Attachments[0].Content
	for _, element := range card.Body {
		if element.Type != "TextBlock" && element.Type != "RichTextBlock" || element.Type == "TextBlock" && element.Text != headline(e.Status) {
			t.Errorf("%+v", element)
		}
		for _, run := range element.Inlines {
			if run.Type != "TextRun" || strings.Contains(run.Text, "{{") || strings.ContainsAny(run.Text, "\n\u202e") {
				t.Errorf("%+v", run)
			}
			if strings.Contains(run.Text, "hostile") || strings.Contains(run.Text, "evil.example") {
				runs++
			}
		}
	}
	if card.FallbackText != headline(e.Status) || runs != 3 {
		t.Errorf("fallback %q, %d runs", card.FallbackText, runs)
	}
}

// A repository without end does not make a message that is refused.
func TestMessagesAreShort(t *testing.T) {
	long := strings.Repeat("&", 60_000)
	e := event(t, notification.TypeTimedOut, func(s *notification.Status) {
		s.Repository, s.Action, s.Digest, s.Missing = long, long, long, []replication.Region{replication.Region(long)}
	})
	targets := load(t, everyType, everyTypeEnv)
	_, body := sent(t, targets[2], e, time.Unix(0, 0))
	var message struct {
		Text   string
		Blocks []struct {
			Text   *struct{ Text string }
			Fields []struct{ Text string }
		}
	}
	if err := json.Unmarshal(body, &message); err != nil {
		t.Fatal(err)
	}
	if len(message.Text) > 4000 || !strings.HasSuffix(message.Text, "&amp;…") {
		t.Errorf("text of %d bytes ends with %q", len(message.Text), message.Text[len(message.Text)-10:])
	}
	for _, block := range message.Blocks {
		if block.Text != nil && len(block.Text.Text) > 3000 || len(block.Fields) > 10 {
			t.Errorf("%+v", block)
		}
		for _, field := range block.Fields {
			if len(field.Text) > 2000 {
				t.Errorf("a field of %d bytes", len(field.Text))
			}
		}
	}
	if _, body = sent(t, targets[3], e, time.Unix(0, 0)); len(body) > 28<<10 {
		t.Errorf("%d bytes are too many for Teams", len(body))
	}
}

// GitHub takes ten keys at most, and a type of at most 100 characters.
func TestGitHubBody(t *testing.T) {
	e := event(t, notification.TypeRecovered, nil)
	_, body := sent(t, load(t, everyType, everyTypeEnv)[4], e, time.Unix(0, 0))
	var dispatch struct {
		EventType     string                     `json:"event_type"`
		ClientPayload map[string]json.RawMessage `json:"client_payload"`
	}
	if err := json.Unmarshal(body, &dispatch); err != nil {
		t.Fatal(err)
	}
	var status notification.Status
	if err := json.Unmarshal(dispatch.ClientPayload["notification"], &status); err != nil || status.Repository != "shop/cart" || status.Status != "recovered" {
		t.Errorf("%+v, %v", status, err)
	}
	if dispatch.EventType != notification.TypeRecovered || string(dispatch.ClientPayload["id"]) != `"`+e.ID+`"` || len(dispatch.ClientPayload) != 2 {
		t.Errorf("%s", body)
	}
}

// Messages for people lead to the page about the notification, if there is one.
func TestLink(t *testing.T) {
	const link = "https://allregions.example.com/notifications/n1"
	for _, target := range load(t, everyType, everyTypeEnv) {
		want, shown := map[string]string{"slack": `"<` + link + `|See it>"`, "teams": `"url":"` + link + `"`, "github": `"url":"` + link + `"`}[target.Type]
		for _, l := range []string{"", link} {
			e := event(t, notification.TypeCompleted, nil)
			e.Original, e.Link = original(t), l
			_, body := sent(t, target, e, time.Unix(1e9, 0))
			if got := bytes.Contains(body, []byte(want)); shown && got != (l != "") || !json.Valid(body) {
				t.Errorf("%s with the link %q: %s", target, l, body)
			}
			if !shown && bytes.Contains(body, []byte(link)) {
				t.Errorf("%s is told of the page: %s", target, body)
			}
		}
	}
}
