package chaos

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

// Targets that are switched on later get no outcome from before: without targets
// the services have taken it from the broker, which keeps what nobody takes.
func TestTargetsSwitchedOnLater(t *testing.T) {
	if raceEnabled {
		t.Skip("as TestChaos")
	}
	if _, err := LookForRedis(); err != nil {
		t.Skip(err)
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []string
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, r.Header.Get("webhook-id"))
	}))
	defer target.Close()

	dir := t.TempDir()
	log, err := newLog(filepath.Join(dir, "chaos.log"), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := startCluster(ctx, dir, Options{Seed: testSeed, Timeout: 10 * time.Minute, Regions: testAll}, log)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	defer func() { cancel(); c.kill() }()
	within, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	replicate := func() (id string) {
		p := acr.NewPush("shop/cart", "v1")
		registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: c.replicas[0].url(""), Key: key}
		for _, region := range testAll {
			if err := until(within, "a webhook is not accepted", func() error {
				status, body, err := registry.Fire(within, p, region)
				if err == nil && status/100 != 2 {
					err = &answerError{status, string(body)}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return p.ID
	}

	before := replicate()
	if err := until(within, "the outcome is not taken", func() error { return c.taken(within, stack.Topic) }); err != nil {
		t.Fatal(err)
	}

	setting := fmt.Sprintf(`[{"name":"later","type":"webhook","url":%q,"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]`, target.URL)
	for i := range c.replicas {
		for _, name := range []string{numbered(daprdName, i), numbered(serviceName, i)} {
			m := c.members[name]
			if err := m.hold(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-m.running.Done()
		}
		m := c.members[numbered(serviceName, i)]
		without := m.command
		m.command = func() *exec.Cmd {
			cmd := without()
			cmd.Env = append(cmd.Env, "NOTIFY_TARGETS="+setting)
			return cmd
		}
	}
	for i := range c.replicas {
		c.members[numbered(daprdName, i)].release()
		c.members[numbered(serviceName, i)].release()
	}
	if err := c.ready(within); err != nil {
		t.Fatal(err)
	}
	after := replicate()
	if err := until(within, "the target is not told", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(told, after+"/replicated") {
			return fmt.Errorf("told of %q", told)
		}
		return c.taken(within, stack.Topic)
	}); err != nil {
		t.Fatal(err)
	}
	// What is taken has its deliveries begun, whether or not they are made yet.
	if body, err := get(within, c.replicas[0].url("/notifications/"+before+"/deliveries")); err != nil || strings.TrimSpace(string(body)) != `{"deliveries":[]}` {
		t.Errorf("deliveries of what was before the target: %s, %v; told of %q", body, err, told)
	}
}

// taken is nil when the services have taken everything from a topic.
func (c *cluster) taken(ctx context.Context, topic string) error {
	entries, err := c.broker.entries(ctx, topic, "")
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("nothing is on %s", topic)
	}
	reply, err := c.broker.do(ctx, "XINFO", "GROUPS", topic)
	if err != nil {
		return err
	}
	groups, _ := reply.([]any)
	for _, g := range groups {
		fields, _ := g.([]any)
		group := map[any]any{}
		for i := 0; i+1 < len(fields); i += 2 {
			group[fields[i]] = fields[i+1]
		}
		if group["name"] == stack.AppID {
			if group["pending"] == int64(0) && group["last-delivered-id"] == entries[len(entries)-1].id {
				return nil
			}
			return fmt.Errorf("the last of %s is %s, taken is %v", topic, entries[len(entries)-1].id, group)
		}
	}
	return fmt.Errorf("nobody takes anything from %s", topic)
}
