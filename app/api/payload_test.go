package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"allregions/app/actor"
	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

func TestPayloadShapes(t *testing.T) {
	const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	const manifest = "application/vnd.docker.distribution.manifest.v2+json"
	at := func(s string) time.Time {
		got, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for file, want := range map[string]replication.Event{
		"push.json": {ID: "7c9e6679-7425-40de-944b-e07fc1f90ae7", Action: "push", Registry: "contoso.azurecr.io",
			Repository: "shop/cart", Tag: "v1.4.2", Digest: digest, MediaType: manifest, Size: 524, Time: at("2026-11-17T16:52:01.343145347Z")},
		"push-oci-index-untagged.json": {ID: "0b6ad3d5-62d1-4d6c-8f9e-0e0e3c0f5b52", Action: "push", Registry: "contoso.azurecr.io",
			Repository: "shop/cart", Digest: digest, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1609, Time: at("2026-11-17T16:52:03.1270754Z")},
		"delete.json": {ID: "afc359ce-df7f-4e32-9be5-1ff8aa80927b", Action: "delete", Registry: "contoso.azurecr.io",
			Repository: "shop/cart", Digest: digest, MediaType: manifest, Time: at("2026-11-17T16:54:53.657764628Z")},
		"chart_push.json": {ID: "6356e9e0-627f-4fed-8a1c-d9059b5143ac", Action: "chart_push",
			Repository: "charts", Tag: "wordpress-5.4.0.tgz", Digest: digest, MediaType: "application/vnd.acr.helm.chart", Size: 25265, Time: at("2026-11-05T23:45:31.2614267Z")},
		"chart_delete.json": {ID: "338a3ef7-ad68-4128-b8a6-fdd3af8e8f67", Action: "chart_delete",
			Repository: "charts", Tag: "wordpress-5.4.0.tgz", Digest: digest, MediaType: "application/vnd.acr.helm.chart", Size: 25265, Time: at("2026-11-06T00:10:48.1270754Z")},
		"quarantine.json": {ID: "0d799b14-404b-4859-b2f6-50c5ee2a2c3a", Action: "quarantine", Registry: "contoso.azurecr.io",
			Repository: "shop/cart", Tag: "v1.4.2", Digest: digest, Size: 1791, Time: at("2026-11-28T00:42:54.4509516Z")},
	} {
		t.Run(file, func(t *testing.T) {
			p, err := parsePayload(read(t, file))
			if err != nil {
				t.Errorf("%s: %v", file, err)
				return
			}
			got, err := p.event()
			if err != nil || got != want || p.isPing() {
				t.Errorf("%s: %v\n got %+v\nwant %+v", file, err, got, want)
			}
		})
	}
	if p, err := parsePayload(read(t, "ping.json")); err != nil || !p.isPing() {
		t.Errorf("ping: %+v, %v", p, err)
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "payloads", file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPayloadIsReadLeniently(t *testing.T) {
	for name, body := range map[string]string{
		"size beyond 32 bits":   `{"id":"a","action":"push","target":{"size":8589934592}}`,
		"byte order mark":       "\xef\xbb\xbf" + `{"id":"a","action":"push"}`,
		"no timestamp":          `{"id":"a","action":"push"}`,
		"strange timestamp":     `{"id":"a","action":"push","timestamp":"yesterday"}`,
		"timestamp is a number": `{"id":"a","action":"push","timestamp":7}`,
		"unknown action":        `{"id":"a","action":"levitate"}`,
		"extra fields":          `{"id":"a","action":"push","target":{"length":1,"new":{}},"more":[1]}`,
		"null objects":          `{"id":"a","action":"push","target":null,"request":null}`,
		"id that is no UUID":    `{"id":"xxxx-1_A","action":"push","target":{"digest":"sha256:xxxxx"}}`,
		"longest id":            `{"id":"` + strings.Repeat("a", 100) + `","action":"push"}`,
		"no host":               `{"id":"a","action":"push","request":{"host":""}}`,
		"host in capitals":      `{"id":"a","action":"push","request":{"host":"Contoso-1.AzureCR.io"}}`,
		"host with a port":      `{"id":"a","action":"push","request":{"host":"contoso.azurecr.io:443"}}`,
		"regional endpoint":     `{"id":"a","action":"push","request":{"host":"contoso.westeurope.geo.azurecr.io"}}`,
		"host without a dot":    `{"id":"a","action":"push","request":{"host":"localhost:5000"}}`,
		"address":               `{"id":"a","action":"push","request":{"host":"127.0.0.1:5000"}}`,
		"longest host":          `{"id":"a","action":"push","request":{"host":"` + strings.Repeat("a", 63) + "." + strings.Repeat("a.", 93) + `com"}}`,
		"last moment":           `{"id":"a","action":"push","timestamp":"9999-12-31T23:59:59-01:00"}`,
		"first moment":          `{"id":"a","action":"push","timestamp":"0000-01-01T00:00:00+01:00"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := parsePayload([]byte(body))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			e, err := p.event()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			announce(t, e)
		})
	}
	for host, want := range map[string]string{"Contoso-1.AzureCR.io": "contoso-1.azurecr.io", "contoso.westeurope.geo.azurecr.io": "contoso.azurecr.io"} {
		p, _ := parsePayload([]byte(`{"id":"a","action":"push","request":{"host":"` + host + `"}}`))
		if e, err := p.event(); e.Registry != want || err != nil {
			t.Errorf("host %s: got registry %q, %v, want %s", host, e.Registry, err, want)
		}
	}
	p, _ := parsePayload([]byte(`{"id":"a","action":"push","target":{"size":8589934592}}`))
	if e, _ := p.event(); e.Size != 8589934592 {
		t.Errorf("size %d", e.Size)
	}
}

// Each refusal names the fault.
func TestPayloadIsRefused(t *testing.T) {
	long := strings.Repeat("a", 101)
	host := func(name string) string {
		return `{"id":"a","action":"push","request":{"host":"` + name + `"}}`
	}
	for body, want := range map[string]string{
		"":                           "empty",
		" \n":                        "empty",
		"\xef\xbb\xbf":               "empty",
		"hello":                      "not JSON, at byte 1",
		"[]":                         "not an object",
		strings.Repeat("[", maxBody): "not JSON",
		`{"action":"push","id":"a","x":` + strings.Repeat(`{"x":`, 12_000) + "1" + strings.Repeat("}", 12_001): "not JSON",
		"17":                            "not an object",
		"null":                          "not an object",
		`"push"`:                        "not an object",
		`{"id":"a","action":"push"`:     "ends in the middle",
		`{"id":"a","action":"pu`:        "ends in the middle",
		`{"id":"a","action":"push"} {}`: "not JSON, at byte",
		`{"id":"a"}`:                    `"action" is missing`,
		`{"id":7,"action":"push"}`:      `"id" is a number`,
		`{"id":"a","action":"push","target":{"size":"big"}}`: `"target.size" is a string`,
		`{"action":"push"}`:                     `"id" is missing`,
		`{"id":"","action":"push"}`:             `"id" is missing`,
		`{"id":"../x","action":"push"}`:         `"id" must be`,
		`{"id":"a||b","action":"push"}`:         `"id" must be`,
		`{"id":"a b","action":"push"}`:          `"id" must be`,
		`{"id":"a\n","action":"push"}`:          `"id" must be`,
		`{"id":"a\u0000","action":"push"}`:      `"id" must be`,
		`{"id":"-a","action":"push"}`:           `"id" must be`,
		`{"id":"ü","action":"push"}`:            `"id" must be`,
		`{"id":"` + long + `","action":"push"}`: `"id" must be`,
		host("contoso azurecr io"):              `"request.host" must be`,
		host("https://contoso.azurecr.io"):      `"request.host" must be`,
		host("contoso.azurecr.io/v2"):           `"request.host" must be`,
		host("user@contoso.azurecr.io"):         `"request.host" must be`,
		host("contoso%2eazurecr.io"):            `"request.host" must be`,
		host("contoso.azurecr.io?x"):            `"request.host" must be`,
		host("contoso.azurecr.io\\n"):           `"request.host" must be`,
		host("contoso.azurecr.io\\u0000"):       `"request.host" must be`,
		host("contoso..azurecr.io"):             `"request.host" must be`,
		host(".azurecr.io"):                     `"request.host" must be`,
		host("contoso.azurecr.io."):             `"request.host" must be`,
		host("-contoso.azurecr.io"):             `"request.host" must be`,
		host("contoso-.azurecr.io"):             `"request.host" must be`,
		host("con_toso.azurecr.io"):             `"request.host" must be`,
		host("contöso.azurecr.io"):              `"request.host" must be`,
		host("\u212aontoso.azurecr.io"):         `"request.host" must be`, // a k, in lower case
		host("contoso.azurecr.io:"):             `"request.host" must be`,
		host("contoso.azurecr.io:0"):            `"request.host" must be`,
		host("contoso.azurecr.io:65536"):        `"request.host" must be`,
		host("contoso.azurecr.io:+80"):          `"request.host" must be`,
		host("contoso.azurecr.io:https"):        `"request.host" must be`,
		host(":443"):                            `"request.host" must be`,
		host("[::1]:443"):                       `"request.host" must be`,
		host(" "):                               `"request.host" must be`,
		host(strings.Repeat("a", 64) + ".io"):   `"request.host" must be`,
		host(strings.Repeat("a.", 126) + "io"):  `"request.host" must be`, // 254
	} {
		t.Run(fmt.Sprintf("%.60q", body), func(t *testing.T) {
			p, err := parsePayload([]byte(body))
			if err == nil {
				_, err = p.event()
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want something with %q", body, err, want)
			}
		})
	}
}

func FuzzParsePayload(f *testing.F) {
	files, _ := filepath.Glob("testdata/payloads/*.json")
	for _, file := range files {
		f.Add(read(f, filepath.Base(file)))
	}
	f.Add([]byte("\xef\xbb\xbf{}"))
	f.Add([]byte(`{"id":"a","action":"push","request":{"host":"contoso azurecr io"}}`))
	f.Add([]byte(`{"id":"a","action":"push","request":{"host":"contoso.azurecr.io:443"}}`))
	f.Add([]byte(`{"id":"a","action":"push","timestamp":"9999-12-31T23:59:59-01:00"}`))
	f.Add([]byte(`{"id":"a","action":"push","timestamp":"2026-02-30T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := parsePayload(body)
		if err != nil {
			return
		}
		e, err := p.event()
		if err != nil {
			return
		}
		if !notification.ValidID(e.ID) || e.Action == "" || e.Region != "" {
			t.Errorf("accepted %+v", e)
		}
		e.Region = "eastus"
		announce(t, e)
	})
}

// announce takes e through an actor to the topic: what is accepted at the door can
// be stored, and its outcome published.
func announce(t *testing.T, e replication.Event) {
	t.Helper()
	w := fake.New(time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC))
	a := &notification.Actor{Records: w, Reminders: w, Topic: w, Catalog: w, Timeout: time.Minute,
		Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}
	client := &notification.Client{Actors: turns(a.Methods()), Records: w}
	if r, err := client.Add(t.Context(), e, replication.Awaited{Expected: []replication.Region{e.Region}}); err != nil || r.Reason != replication.Completed {
		t.Fatalf("%+v: %+v, %v", e, r, err)
	}
	if len(w.Topic) != 1 || len(w.Reminders) != 0 {
		t.Fatalf("%+v: %d events on the topic, reminders %v", e, len(w.Topic), w.Reminders)
	}
	if st, err := client.Status(t.Context(), e.ID); err != nil || st.Status != replication.Replicated || st.Digest != e.Digest || st.Size != e.Size {
		t.Errorf("%+v: stored %+v, %v", e, st, err)
	}
	var published cloudevents.Event
	if err := json.Unmarshal(w.Events[w.Topic[0]], &published); err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	source, err := url.Parse(published.Source())
	if err := errors.Join(err, published.Validate()); err != nil {
		t.Errorf("%+v: %v", e, err)
	}
	if e.Registry != "" && (source.Scheme != "https" || source.Host != e.Registry || source.String() != "https://"+e.Registry) {
		t.Errorf("source %q for %q", source, e.Registry)
	}
	if len(published.ID()) > 128 {
		t.Errorf("%s is too long for Service Bus", published.ID())
	}
}

// turns are the actor's turns, called without Dapr. They are over when they are
// answered.
type turns map[string]actor.Method

func (m turns) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := m[method](ctx, id, body)
	if err == nil && turn.After != nil {
		turn.After(ctx)
		turn.Settle(ctx)
	}
	return turn.Reply, err
}

func BenchmarkParsePayload(b *testing.B) {
	body, err := os.ReadFile(filepath.Join("testdata", "payloads", "push.json"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := parsePayload(body); err != nil {
			b.Fatal(err)
		}
	}
}

// Everything that a webhook costs here, without the actor.
func BenchmarkWebhook(b *testing.B) {
	body, err := os.ReadFile(filepath.Join("testdata", "payloads", "push.json"))
	if err != nil {
		b.Fatal(err)
	}
	back := &backend{result: started()}
	h := newHandler(back, io.Discard)
	b.ReportAllocs()
	for b.Loop() {
		back.added = back.added[:0]
		if w := call(h, "POST", "/webhooks/acr?region=eastus", string(body)); w.Code != 202 {
			b.Fatal(w.Code)
		}
	}
}
