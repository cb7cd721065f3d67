package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/target"
)

// echo is another side that sends back all that it gets, or fails with it.
type echo struct {
	status int // 0 is a connection that breaks
}

func (e echo) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, err := httputil.DumpRequestOut(r, true)
	if err != nil {
		return nil, err
	}
	if e.status == 0 {
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: errors.New("broken: " + string(sent))}
	}
	header := http.Header{"Location": {r.URL.String()}, "Retry-After": {"1"}}
	return &http.Response{StatusCode: e.status, Header: header, Body: io.NopCloser(bytes.NewReader(append([]byte(r.URL.String()), sent...))), Request: r}, nil
}

// Every type of target, through every way to fail, and through everything that
// tells about it: no secret and no path comes out anywhere.
func TestNoSecretComesOut(t *testing.T) {
	const path, header, token, key = "/services/T0PATH1/B0PATH2", "h34der-s3cr3t", "gh-t0ken-s3cr3t", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	settings := fmt.Sprintf(`[
		{"name": "webhook", "type": "webhook", "url": "https://example.com%[1]s", "secret": "whsec_%[4]s", "headers": {"X-Key": "%[2]s"}},
		{"name": "acr", "type": "acr", "url": "https://example.com%[1]s", "headers": {"Authorization": "Bearer %[2]s"}},
		{"name": "slack", "type": "slack", "url": "https://example.com%[1]s", "headers": {"X-Key": "%[2]s"}},
		{"name": "teams", "type": "teams", "url": "https://example.com%[1]s", "headers": {"X-Key": "%[2]s"}},
		{"name": "github", "type": "github", "url": "https://api.github.com/repos/owner/repo-s3cr3t/dispatches", "secret": "%[3]s", "headers": {"X-Key": "%[2]s"}}
	]`, path, header, token, key)
	targets, err := target.Load(settings, func(string) (string, bool) { return "", false }, nil)
	if err != nil {
		t.Fatal(err)
	}
	event := outcome(notification.TypeCompleted, "replicated", "shop/cart")
	cases := 0
	for _, status := range []int{0, 200, 302, 400, 401, 403, 404, 408, 410, 425, 429, 500, 503} {
		for _, tt := range targets {
			var out bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
			now := time.Now()
			w := fake.New(now)
			d := &Dispatcher{Targets: target.NewSet(targets, echo{status}, time.Now), Log: log}
			a := withActor(d, w)
			id := ID("n1/replicated", tt.Name)
			begin(t, d, tt.Name, Message{EventID: "n1/replicated", Event: event, Original: `{"id":"n1"}`})
			for _, err := range w.Pass(48*time.Hour, id, func(name string) error { return a.Remind(t.Context(), id, name) }) {
				fmt.Fprintln(&out, err)
			}
			found, _, err := load(t.Context(), w, id)
			if err != nil || found.Total == 0 {
				t.Fatalf("%+v, %v", found, err)
			}
			st, _ := json.Marshal(found.status())
			health, _ := json.Marshal(d.Health())
			out.Write(st)
			out.Write(health)
			for _, e := range w.Events { // of the failure
				out.Write(e)
			}
			fmt.Fprintf(&out, "%v %+v %#v", tt, d.Targets.All, d.Health())
			for _, secret := range []string{path, "T0PATH1", "B0PATH2", header, token, key, "repo-s3cr3t"} {
				if strings.Contains(out.String(), secret) {
					t.Errorf("%s, %d: %q is in\n%s", tt.Name, status, secret, &out)
				}
			}
			cases++
		}
	}
	if cases != 13*5 {
		t.Errorf("%d cases", cases)
	}
}
