package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// Targets that are switched on later get no outcome from before: without targets
// the services have taken it from the broker, which keeps what nobody takes.
func TestTargetsSwitchedOnLater(t *testing.T) {
	prepare(t)
	var mu sync.Mutex
	var told []string
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, r.Header.Get("webhook-id"))
	}))
	defer target.Close()

	settings := map[string]string{}
	c, err := stack.Start(t.Context(), stack.Options{Replicas: replicas, Regions: testAll, Timeout: 10 * time.Minute, Key: "k", Redis: true, Cosmos: true,
		Settings: settings, Ended: func(name, state string) { t.Logf("%s ended (%s)", name, state) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	within, stop := context.WithTimeout(t.Context(), readyTimeout)
	defer stop()
	replicate := func() (id string) {
		p := acr.NewPush("shop/cart", "v1")
		registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: c.URL, Key: c.Key}
		for _, region := range testAll {
			if err := process.Until(within, "a webhook is not accepted", func() error {
				status, body, err := registry.Fire(within, p, region)
				if err == nil && status/100 != 2 {
					err = &stack.AnswerError{Status: status, Body: string(body)}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return p.ID
	}

	before := replicate()
	if err := process.Until(within, "the outcome is not taken", func() error { return taken(within, c.Redis, stack.Topic) }); err != nil {
		t.Fatal(err)
	}

	var names []string
	for i := range c.Replicas {
		names = append(names, stack.Numbered(stack.SidecarProcess, i), stack.Numbered(stack.ServiceProcess, i))
	}
	for _, name := range names {
		if err := c.Hold(name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	settings["NOTIFY_TARGETS"] = fmt.Sprintf(`[{"name":"later","type":"webhook","url":%q,"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]`, target.URL)
	for _, name := range names {
		if err := c.Release(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Ready(within); err != nil {
		t.Fatal(err)
	}
	after := replicate()
	if err := process.Until(within, "the target is not told", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(told, after+"/replicated") {
			return fmt.Errorf("told of %q", told)
		}
		return taken(within, c.Redis, stack.Topic)
	}); err != nil {
		t.Fatal(err)
	}
	// What is taken has its deliveries begun, whether or not they are made yet.
	var body json.RawMessage
	if err := stack.Get(within, c.URL+"/notifications/"+before+"/deliveries", c.Key, &body); err != nil || strings.TrimSpace(string(body)) != `{"deliveries":[]}` {
		t.Errorf("deliveries of what was before the target: %s, %v; told of %q", body, err, told)
	}
}

// taken is nil when the services have taken everything from a topic.
func taken(ctx context.Context, redis stack.Redis, topic string) error {
	messages, err := redis.Messages(ctx, topic, "")
	if err != nil {
		return err
	}
	if len(messages) == 0 {
		return fmt.Errorf("nothing is on %s", topic)
	}
	last := messages[len(messages)-1].ID
	var groups []struct {
		Name    string
		Pending int
		Last    string `json:"last-delivered-id"`
	}
	if err := redis.Do(ctx, &groups, "XINFO", "GROUPS", topic); err != nil {
		return err
	}
	for _, g := range groups {
		if g.Name == stack.AppID && g.Pending == 0 && g.Last == last {
			return nil
		}
	}
	return fmt.Errorf("the last of %s is %s, taken is %+v", topic, last, groups)
}
