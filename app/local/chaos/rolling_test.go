package chaos

import (
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

// A deploy under load, as Container Apps does it: SIGTERM to service and sidecar of a
// replica at once, and the balancer goes on to send requests there. Every webhook gets a
// 2xx all the same, and is in its notification in time.
func TestRollingDeploy(t *testing.T) {
	c := startTest(t, time.Minute)
	eventually(t, "the balancer has every replica", c.balancer.all)
	var senders sync.WaitGroup
	var mu sync.Mutex
	var pushes []string
	stop := make(chan struct{})
	var accepted, refused atomic.Int64
	registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: c.balancer.url(), Key: c.Key}
	fire := func(p acr.Push, region string) (ok bool) {
		status, body, err := registry.Fire(t.Context(), p, region)
		if err != nil || status != http.StatusAccepted && status != http.StatusOK {
			refused.Add(1)
			t.Errorf("%s of %s: %d %s %v", region, p.ID, status, body, err)
			return false
		}
		accepted.Add(1)
		return true
	}
	for range 4 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, all := acr.NewPush("shop/cart", "v1"), true
				for _, region := range testAll {
					all = fire(p, region) && all
				}
				if all {
					mu.Lock()
					pushes = append(pushes, p.ID)
					mu.Unlock()
				}
			}
		})
	}
	for i := range c.Replicas {
		before := accepted.Load()
		eventually(t, "webhooks are accepted", func() bool { return accepted.Load() >= before+100 })
		names := []string{stack.Numbered(stack.ServiceProcess, i), stack.Numbered(stack.SidecarProcess, i)}
		for _, name := range names {
			if err := c.Hold(name, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			if err := c.Release(name); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the replica is back", c.balancer.all)
	}
	close(stop)
	senders.Wait()
	hops := 0
	for i := range c.Replicas {
		hops += linesOf(t, c.LogPath(stack.Numbered(stack.ServiceProcess, i)), "handed over")
	}
	t.Logf("%d webhooks had a 2xx, %d of them by another replica, and %d had none", accepted.Load(), hops, refused.Load())
	if hops == 0 {
		t.Error("no webhook was handed over: nothing was shown")
	}
	for _, id := range pushes {
		eventually(t, id+" is replicated", func() bool {
			st, ok, err := c.status(t.Context(), 0, id)
			if ok && (st.Status == "timedOut" || st.Status == "recovered") {
				t.Fatalf("%s is %s, and every webhook had a 2xx", id, st.Status)
			}
			return err == nil && ok && st.Status == "replicated"
		})
	}
}
