package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"allregions/app/notification"
)

var update = flag.Bool("update", false, "write the golden files")

// event is an outcome of the given type, as ParseEvent makes it of what Dapr
// delivers; change may alter the status before.
func event(t testing.TB, typ string, change func(*notification.Status)) Event {
	t.Helper()
	status := statusOf(outcomeOf[typ])
	if change != nil {
		change(&status)
	}
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": status.ID + "/" + string(status.Status), "type": typ, "source": "https://contoso.azurecr.io",
		"subject": "shop/cart:v1.4.2", "time": status.ConcludedAt, "datacontenttype": "application/json", "data": status,
		"topic": "acr-notifications", "pubsubname": "pubsub", "traceparent": "00-0-0-00",
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEvent(body)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// original is what ACR sends.
func original(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../api/testdata/payloads/push.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// load is the targets of a setting that is right.
func load(t testing.TB, setting string, env map[string]string) []*Target {
	t.Helper()
	targets, err := Load(setting, lookup(env), noFile)
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}
}

func noFile(string) ([]byte, error) { return nil, os.ErrNotExist }

func TestParseEvent(t *testing.T) {
	e := event(t, notification.TypeTimedOut, nil)
	if e.ID != "7c9e6679-7425-40de-944b-e07fc1f90ae7/timedOut" || e.Type != notification.TypeTimedOut || e.Original != nil {
		t.Errorf("%+v", e)
	}
	if e.Status.Repository != "shop/cart" || len(e.Status.Regions) != 2 || e.Status.Missing[0] != "japaneast" || *e.Status.DurationMS != 2358 {
		t.Errorf("status %+v", e.Status)
	}
	if !bytes.Contains(e.Body, []byte(`"pubsubname":"pubsub"`)) {
		t.Errorf("not the whole event: %s", e.Body)
	}
}

func TestParseEventKeepsItsOwnCopy(t *testing.T) {
	data := bytes.Clone(event(t, notification.TypeCompleted, nil).Body)
	e, err := ParseEvent(data)
	if err != nil {
		t.Fatal(err)
	}
	data[0] = 'x'
	if e.Body[0] != '{' {
		t.Error("the body changes with the caller's bytes")
	}
}

func TestParseEventRefuses(t *testing.T) {
	for _, c := range []struct {
		name, body string
		other      bool
	}{
		{"nothing", ``, false},
		{"not JSON", `{`, false},
		{"not an object", `[]`, false},
		{"a type of somebody else", `{"id":"1","type":"com.example.thing","data":{}}`, true},
		{"no type", `{"id":"1","data":{}}`, true},
		{"no id", `{"type":"acr.replication.completed","data":{"status":"replicated"}}`, false},
		{"a line break in the id", `{"id":"a\nb","type":"acr.replication.completed","data":{"status":"replicated"}}`, false},
		{"no data", `{"id":"1","type":"acr.replication.completed"}`, false},
		{"data that are null", `{"id":"1","type":"acr.replication.completed","data":null}`, false},
		{"data that are text", `{"id":"1","type":"acr.replication.completed","data":"x"}`, false},
		{"another outcome in the data", `{"id":"1","type":"acr.replication.completed","data":{"status":"timedOut"}}`, false},
	} {
		e, err := ParseEvent([]byte(c.body))
		if err == nil || errors.Is(err, ErrOther) != c.other {
			t.Errorf("%s: %+v, %v", c.name, e, err)
		}
	}
}

func TestWants(t *testing.T) {
	const webhook = `{"name": "a", "type": "slack", "url": "https://example.com/x"`
	const acr = `{"name": "a", "type": "acr", "url": "https://example.com/x"`
	completed, timedOut, recovered := event(t, notification.TypeCompleted, nil), event(t, notification.TypeTimedOut, nil), event(t, notification.TypeRecovered, nil)
	for _, c := range []struct {
		entry string
		want  [3]bool // completed, timed out, recovered
	}{
		{webhook, [3]bool{true, true, true}},
		{acr, [3]bool{true, false, true}},
		{acr + `, "outcomes": ["timedOut"]`, [3]bool{false, true, false}},
		{webhook + `, "outcomes": ["replicated", "recovered"]`, [3]bool{true, false, true}},
		{webhook + `, "filter": "'japaneast' in missing"`, [3]bool{false, true, false}},
		{webhook + `, "filter": "status != 'timedOut'", "outcomes": ["timedOut", "recovered"]`, [3]bool{false, false, true}},
	} {
		target := load(t, "["+c.entry+"}]", nil)[0]
		for i, e := range []Event{completed, timedOut, recovered} {
			if got, err := target.Wants(e); got != c.want[i] || err != nil {
				t.Errorf("%s}: %s: %t, %v", c.entry, e.Type, got, err)
			}
		}
		if got, err := target.Wants(Event{Type: "com.example.thing"}); got || err != nil {
			t.Errorf("%s}: an event that is none: %t, %v", c.entry, got, err)
		}
	}
	failing := load(t, "["+webhook+`, "filter": "regions[7] == 'x'"}]`, nil)[0]
	if got, err := failing.Wants(completed); got || err == nil || !strings.HasPrefix(err.Error(), "filter of target a: ") {
		t.Errorf("a filter that fails: %t, %v", got, err)
	}
}

// What takes ACR's webhooks must not deploy an image in quarantine, nor be asked
// to deploy one without a tag. It may ask for both.
func TestDefaultFilter(t *testing.T) {
	images := []struct{ action, tag string }{
		{"push", "v1"}, {"push", ""}, {"quarantine", "v1"}, {"delete", ""}, {"chart_push", "1.0.0"}, {"resync", "v1"},
	}
	for _, c := range []struct {
		typ, more string
		want      []bool
	}{
		{"acr", ``, []bool{true, false, false, false, false, false}},
		{"acr", `, filter: 'action == "quarantine"'`, []bool{false, false, true, false, false, false}},
		{"acr", `, filter: true`, []bool{true, true, true, true, true, true}},
		{"acr", `, outcomes: [timedOut, replicated]`, []bool{true, false, false, false, false, false}},
		{"webhook", ``, []bool{true, true, true, true, true, true}},
		{"github", ``, []bool{true, true, true, true, true, true}},
		{"slack", ``, []bool{true, true, true, true, true, true}},
		{"teams", ``, []bool{true, true, true, true, true, true}},
	} {
		entry := fmt.Sprintf(`{name: a, type: %s, url: "https://example.com/repos/a/b/dispatches"%s`, c.typ, c.more)
		if kinds[c.typ].secret != nil {
			entry += ", secret: " + signingOne
		}
		target := load(t, "["+entry+"}]", nil)[0]
		for i, image := range images {
			e := event(t, notification.TypeCompleted, func(s *notification.Status) { s.Action, s.Tag = image.action, image.tag })
			if got, err := target.Wants(e); got != c.want[i] || err != nil {
				t.Errorf("%s}: %s with tag %q: %t, %v", entry, image.action, image.tag, got, err)
			}
		}
	}
	for _, file := range []string{"doc.go", "../../README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), kinds["acr"].filter) {
			t.Errorf("%s does not name the filter that targets of type acr have by default", file)
		}
	}
}

func TestTargetIsPrintedByName(t *testing.T) {
	target := load(t, `[{name: ops, type: slack, url: "https://hooks.slack.com/services/T0/B0/XXXX"}]`, nil)[0]
	for format, want := range map[string]string{"%v": "ops (slack)", "%d": "ops (slack)", "%#v": "target.Target(ops (slack))"} {
		if got := fmt.Sprintf(format, target); got != want {
			t.Errorf("%s: %s", format, got)
		}
	}
	if got, err := json.Marshal(target); string(got) != `{"name":"ops","type":"slack"}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "target", target)
	if !strings.Contains(b.String(), "target.name=ops target.type=slack") {
		t.Error(b.String())
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, typ := range []string{notification.TypeCompleted, notification.TypeTimedOut, notification.TypeRecovered} {
		f.Add(event(f, typ, nil).Body)
	}
	f.Add([]byte(`{"id":"1","type":"acr.replication.completed","data":{"status":"replicated","size":-1}}`))
	f.Add([]byte(`{"type":"other"}`))
	targets := load(f, everyType, everyTypeEnv)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEvent(data)
		if err != nil {
			return
		}
		if !json.Valid(e.Body) || outcomeOf[e.Type] != e.Status.Status {
			t.Errorf("%+v", e)
		}
		e.Original = data
		for _, target := range targets {
			// What was parsed can be told to everybody.
			request, err := target.request(t.Context(), e, time.Unix(0, 0))
			if err != nil {
				t.Errorf("%s: %v", target, err)
				continue
			}
			var body bytes.Buffer
			body.ReadFrom(request.Body)
			if !json.Valid(body.Bytes()) {
				t.Errorf("%s: %s", target, body.Bytes())
			}
			if target.Type == "teams" && body.Len() > 28<<10 {
				t.Errorf("%d bytes are too many for Teams", body.Len())
			}
		}
	})
}
