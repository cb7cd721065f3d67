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

// A rolling restart under load: each service is told to stop, one after the
// other, and comes back. Whoever balances load looks at /readyz; nobody who is
// sent to a replica then misses an answer, or gets another one than a 2xx or a
// 503, and what had a 2xx is there afterwards.
func TestRollingRestart(t *testing.T) {
	c := startTest(t)
	// What the load balancer knows, and its looking.
	stop := make(chan struct{})
	up := make([]atomic.Bool, replicas)
	var balancer, senders sync.WaitGroup
	for i, r := range c.Replicas {
		up[i].Store(true)
		balancer.Go(func() {
			for {
				err := stack.Get(t.Context(), r.URL+"/readyz", "", nil)
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
				i := turn % replicas
				if !up[i].Load() {
					time.Sleep(time.Millisecond)
					continue
				}
				p := acr.NewPush("shop/cart", "v1")
				status, body, err := c.registry(i).Fire(t.Context(), p, testAll[0])
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
	for i := range c.Replicas {
		before, name := count(), stack.Numbered(stack.ServiceProcess, i)
		eventually(t, "webhooks are accepted", func() bool { return count() >= before+100 })
		if err := c.Process(name).Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" ends", func() bool { return c.ended.counts()[name] == 1 })
		eventually(t, name+" is ready", func() bool { return up[i].Load() })
	}
	close(stop)
	senders.Wait()
	balancer.Wait()

	for _, id := range accepted {
		eventually(t, "what was accepted is there", func() bool {
			st, ok, err := c.status(t.Context(), 0, id)
			return err == nil && ok && len(st.Regions) == 1
		})
	}
	t.Logf("answers: %v", answers)
}
