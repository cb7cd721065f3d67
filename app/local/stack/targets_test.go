package stack

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/local/acr"
)

// receiver is the other side of some targets: a path is a target.
type receiver struct {
	mu       sync.Mutex
	requests map[string][]*http.Request
	bodies   map[string][]string
	hang     chan struct{} // until the test ends
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.requests[req.URL.Path] = append(r.requests[req.URL.Path], req)
	r.bodies[req.URL.Path] = append(r.bodies[req.URL.Path], string(body))
	n := len(r.bodies[req.URL.Path])
	r.mu.Unlock()
	switch req.URL.Path {
	case "/second": // takes it at the second attempt
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/never":
		w.WriteHeader(http.StatusNotFound)
	case "/slow": // takes it, after more than a turn of another actor, a reminder's period and an actor's idle time
		select {
		case <-time.After(35 * time.Second):
		case <-r.hang:
		case <-req.Context().Done():
		}
	case "/hangs":
		select {
		case <-r.hang:
		case <-req.Context().Done():
		}
	}
}

func (r *receiver) got(path string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies[path])
}

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// Targets get what they want, in spite of others that fail or hang.
func TestTargets(t *testing.T) {
	t.Parallel()
	r := &receiver{requests: map[string][]*http.Request{}, bodies: map[string][]string{}, hang: make(chan struct{})}
	server := httptest.NewServer(r)
	t.Cleanup(func() { close(r.hang); server.Close() })

	var targets []map[string]any
	for _, name := range []string{"good", "second", "never", "hangs", "slow", "filtered", "broken"} {
		target := map[string]any{"name": name, "type": "webhook", "url": server.URL + "/" + name, "secret": secret}
		switch name {
		case "filtered":
			target["filter"] = `repository.startsWith("other/")`
		case "slow":
			target["filter"], target["timeout"] = `tag == "v1"`, "60s"
		case "broken":
			target["filter"] = `missing[7] == "eastus"`
		}
		targets = append(targets, target)
	}
	targets = append(targets, map[string]any{"name": "as-acr", "type": "acr", "url": server.URL + "/acr"})
	setting, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	sub := newSubscriber()
	s, registry := start(t, Options{Events: sub.take, Settings: map[string]string{"NOTIFY_TARGETS": string(setting)}})
	if got := subscribed(t, s); !slices.Equal(got, []string{Topic}) {
		t.Errorf("with targets: subscribed to %q", got)
	}

	p := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		regional := *registry
		regional.LoginServer = "contoso." + region + ".geo.azurecr.io"
		fire(t, &regional, p, region, http.StatusAccepted)
	}
	eventID := p.ID + "/replicated"

	eventually(t, soon, "all who take it have it", func() bool {
		return len(r.got("/good")) == 1 && len(r.got("/second")) == 2 && len(r.got("/acr")) == 1 && len(r.got("/never")) == 1 && len(r.got("/hangs")) >= 1
	})
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/good", "/second"} {
		for i, body := range r.got(path) {
			req := r.requests[path][i]
			if err := wh.Verify([]byte(body), req.Header); err != nil || req.Header.Get("webhook-id") != eventID {
				t.Errorf("%s: %v, webhook-id %q", path, err, req.Header.Get("webhook-id"))
			}
		}
	}
	var e cloudEvent
	if err := json.Unmarshal([]byte(r.got("/good")[0]), &e); err != nil || !strings.Contains(r.got("/good")[0], `"registry":"contoso.azurecr.io"`) || e.ID != eventID || len(e.Data.Regions) != 3 || strings.Contains(r.got("/good")[0], "pubsubname") {
		t.Errorf("%s, %v", r.got("/good")[0], err)
	}
	if got := r.got("/acr")[0]; got != string(registry.Payload(p)) || !strings.HasPrefix(r.requests["/acr"][0].UserAgent(), "AzureContainerRegistry/") {
		t.Errorf("as ACR: %s", got)
	}

	// It is a webhook as ACR sends it: our own service takes it for one.
	if code, body, err := registry.Post(t.Context(), "/webhooks/acr?region="+regions[0], []byte(r.got("/acr")[0])); code != http.StatusOK || err != nil {
		t.Errorf("as ACR, to ourselves: %d %s %v", code, body, err)
	}

	// What is final is on the topic. What hangs is not, and holds nothing up.
	for _, id := range []string{eventID + "/never/failed/1", eventID + "/broken/failed/0"} {
		eventually(t, soon, id+" is on the topic", func() bool {
			return slices.ContainsFunc(sub.all(), func(e cloudEvent) bool { return e.Type == "acr.delivery.failed" && e.ID == id })
		})
	}
	for _, e := range sub.all() {
		if e.Type == "acr.delivery.failed" {
			conforms(t, "DeliveryFailedEvent", []byte(e.body))
		}
	}
	next := acr.NewPush("shop/cart", "v2")
	for _, region := range regions {
		fire(t, registry, next, region, http.StatusAccepted)
	}
	sub.wait(t, next.ID, 1, soon)
	eventually(t, soon, "the next one is delivered", func() bool { return len(r.got("/good")) == 2 })

	var list struct {
		Deliveries []struct {
			Target, Status string
			AttemptsMade   int
		}
	}
	look := func() map[string]string {
		code, body := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID+"/deliveries", s.Key)
		if code != http.StatusOK || json.Unmarshal(body, &list) != nil {
			t.Fatalf("%d %s", code, body)
		}
		found := map[string]string{}
		for _, d := range list.Deliveries {
			found[d.Target] = fmt.Sprint(d.Status, " ", d.AttemptsMade)
		}
		return found
	}
	eventually(t, soon, "the deliveries are listed", func() bool {
		got := look()
		return len(got) == 7 && got["broken"] == "failed 0" && got["good"] == "delivered 1" && got["second"] == "delivered 2" && got["never"] == "failed 1" && strings.HasPrefix(got["hangs"], "pending ") && got["as-acr"] == "delivered 1" && got["slow"] == "pending 0"
	})

	// Sent again, it is the same event.
	for target, want := range map[string]int{"good": 202, "nobody": 404, "filtered": 404} {
		resp, err := post(t, s, "/notifications/"+p.ID+"/deliveries/"+target)
		if err != nil || resp != want {
			t.Errorf("again to %s: %d, %v", target, resp, err)
		}
	}
	eventually(t, soon, "it is sent again", func() bool { return len(r.got("/good")) == 3 && look()["good"] == "delivered 2" })
	if got := r.got("/good"); got[2] != got[0] {
		t.Errorf("the second time:\n%s\n%s", got[0], got[2])
	}
	if len(r.got("/filtered"))+len(r.got("/broken")) != 0 {
		t.Error("a target got what its filter does not take")
	}

	// What needs its time gets it, once.
	eventually(t, time.Minute, "what is slow is delivered", func() bool { return look()["slow"] == "delivered 1" })
	if n := len(r.got("/slow")); n != 1 {
		t.Errorf("%d requests to what is slow, want 1", n)
	}

	code, body := request(t, http.MethodGet, s.URL+"/targets", s.Key)
	if code != http.StatusOK || strings.Count(string(body), `"name"`) != 8 || strings.Contains(string(body), "whsec") || strings.Contains(string(body), server.URL) {
		t.Errorf("%d %s", code, body)
	}
	log := tail(s.LogPath(ServiceProcess), 10_000)
	for _, secret := range []string{secret, strings.TrimPrefix(secret, "whsec_"), server.URL + "/"} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

func post(t *testing.T, s *Stack, path string) (int, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.Key)
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// subscribed are the topics that the service asks the sidecar for.
func subscribed(t *testing.T, s *Stack) (topics []string) {
	t.Helper()
	_, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/dapr/subscribe", s.Replicas[0].Sidecar.AppPort), "")
	var list []struct{ Topic string }
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	for _, one := range list {
		topics = append(topics, one.Topic)
	}
	return topics
}

// The broker in memory keeps nothing that would have to be drained. Those that do are
// in TestTargetsSwitchedOnLater.
func TestNothingToDrain(t *testing.T) {
	s, _ := start(t, Options{})
	if got := subscribed(t, s); len(got) > 0 {
		t.Errorf("without targets: subscribed to %q", got)
	}
}
