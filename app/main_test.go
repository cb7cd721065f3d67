package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func freePort(t *testing.T) (Port, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return Port(l.Addr().(*net.TCPAddr).Port), l
}

func testConfig(t *testing.T) (c Config, release func()) {
	t.Helper()
	port, l1 := freePort(t)
	appPort, l2 := freePort(t)
	return Config{Port: port, AppPort: appPort, Regions: Regions{"eastus"}, Timeout: Timeout(time.Minute), Keys: Keys{"k"},
		StateStore: "s", ImageStore: "i", PubSub: "p", Topic: "t", DaprGRPCPort: 1}, func() { l1.Close(); l2.Close() }
}

func code(t *testing.T, url string) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			return resp.StatusCode
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The process lives without a sidecar, says that it is not ready, and ends when
// it is told to.
func TestServe(t *testing.T) {
	c, release := testConfig(t)
	release()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, c, slog.New(slog.DiscardHandler)) }()

	public, private := fmt.Sprintf("http://localhost:%d", c.Port), fmt.Sprintf("http://127.0.0.1:%d", c.AppPort)
	for url, want := range map[string]int{
		public + "/healthz":      200,
		public + "/readyz":       503,
		public + "/dapr/config":  404,
		private + "/healthz":     200,
		private + "/dapr/config": 200,
		private + "/readyz":      404,
	} {
		if got := code(t, url); got != want {
			t.Errorf("%s: %d, want %d", url, got, want)
		}
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(drainTimeout + 5*time.Second):
		t.Fatal("it does not end")
	}
}

// Without targets the outcomes are taken from the topic, too, and are done with:
// they must not wait there for targets that are switched on later.
func TestOutcomesAreTakenWithoutTargets(t *testing.T) {
	c, release := testConfig(t)
	c.WebhookTopic = off
	release()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, c, slog.New(slog.DiscardHandler)) }()
	defer func() { stop(); <-ended }()

	private := fmt.Sprintf("http://127.0.0.1:%d", c.AppPort)
	if got := code(t, private+"/dapr/subscribe"); got != http.StatusOK {
		t.Fatalf("/dapr/subscribe: %d", got)
	}
	resp, err := http.Get(private + "/dapr/subscribe")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []struct{ PubSubName, Topic, Route string }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || len(got) != 1 || got[0].PubSubName != "p" || got[0].Topic != "t" {
		t.Fatalf("subscribed: %+v, %v", got, err)
	}
	for _, event := range []string{
		`{"specversion":"1.0","id":"n1/replicated","type":"acr.replication.completed","source":"s","data":{"id":"n1","action":"push","repository":"r","status":"replicated"}}`,
		`{"specversion":"1.0","id":"n1/x/failed/1","type":"acr.delivery.failed","source":"s","data":{}}`,
		`{`,
	} {
		body := fmt.Sprintf(`{"entries":[{"entryId":"1","event":%q}]}`, base64.StdEncoding.EncodeToString([]byte(event)))
		resp, err := http.Post(private+got[0].Route, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(answer), `"SUCCESS"`) {
			t.Errorf("%s: %d %s, %v", event, resp.StatusCode, answer, err)
		}
	}
}

func TestArguments(t *testing.T) {
	environment(t, nil)
	release(t, "v1.2.3")
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 1, "WEBHOOK_KEYS: not set"},
		{[]string{"check"}, 0, ""},
		{[]string{"version"}, 0, "v1.2.3\n"},
		{[]string{"help"}, 2, "usage: "},
		{[]string{"check", "now"}, 2, "usage: "},
	} {
		t.Run(strings.Join(append([]string{"allregions"}, tt.args...), " "), func(t *testing.T) {
			var said strings.Builder
			if code := run(tt.args, &said, &said); code != tt.code || !strings.Contains(said.String(), tt.says) {
				t.Errorf("%q: %d\n%s", tt.args, code, said.String())
			}
		})
	}
}

func TestPortTaken(t *testing.T) {
	c, _ := testConfig(t)
	if err := serve(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "PORT: ") {
		t.Errorf("%v", err)
	}
	port, l := freePort(t)
	l.Close()
	c.Port = port
	if err := serve(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "APP_PORT: ") {
		t.Errorf("%v", err)
	}
}
