package chaos

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

// A rolling restart under load: each service is told to stop, one after the
// other, and comes back. Whoever balances load looks at /readyz; nobody who is
// sent to a replica then misses an answer, or gets another one than a 2xx or a
// 503, and what had a 2xx is there afterwards.
func TestRollingRestart(t *testing.T) {
	if raceEnabled {
		t.Skip("as TestChaos")
	}
	if _, err := LookForRedis(); err != nil {
		t.Skip(err)
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
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

	// What the load balancer knows, and its looking.
	stop := make(chan struct{})
	up := make([]atomic.Bool, len(c.replicas))
	var balancer, senders sync.WaitGroup
	for i, r := range c.replicas {
		up[i].Store(true)
		balancer.Go(func() {
			for {
				_, err := get(t.Context(), r.url("/readyz"))
				up[i].Store(err == nil)
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}

	var mu sync.Mutex
	var accepted []string
	answers := map[int]int{}
	for n := range 6 {
		senders.Go(func() {
			for turn := n; ; turn++ {
				select {
				case <-stop:
					return
				default:
				}
				i := turn % len(c.replicas)
				if !up[i].Load() {
					time.Sleep(time.Millisecond)
					continue
				}
				p := acr.NewPush("shop/cart", "v1")
				registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: c.replicas[i].url(""), Key: key}
				status, body, err := registry.Fire(t.Context(), p, testAll[0])
				mu.Lock()
				answers[status]++
				switch {
				case err != nil || status != http.StatusAccepted && status != http.StatusServiceUnavailable:
					t.Errorf("replica %d: %d %s %v", i+1, status, body, err)
				case status == http.StatusAccepted:
					accepted = append(accepted, p.ID)
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(accepted) }
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(startTimeout); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within %v", what, startTimeout)
			}
		}
	}
	for i := range c.replicas {
		before, name := count(), numbered(serviceName, i)
		wait("webhooks are accepted", func() bool { return count() >= before+100 })
		if err := c.members[name].locked(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wait(name+" ends", func() bool { return c.restarts()[name] == 1 })
		wait(name+" is ready", func() bool { return up[i].Load() })
	}
	close(stop)
	senders.Wait()
	balancer.Wait()

	for _, id := range accepted {
		wait("what was accepted is there", func() bool {
			st, ok, err := c.status(t.Context(), 0, id)
			return err == nil && ok && len(st.Regions) == 1
		})
	}
	t.Logf("answers: %v", answers)
}
