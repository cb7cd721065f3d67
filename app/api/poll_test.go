package api

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// changing is a Statuses whose answer can be set, and which counts.
type changing struct {
	mu    sync.Mutex
	st    notification.Status
	err   error
	reads atomic.Int64
}

func (c *changing) set(s replication.Status, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st, c.err = notification.Status{ID: "a", Status: s}, err
}

func (c *changing) Status(context.Context, string) (notification.Status, error) {
	c.reads.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.st, c.err
}

func get(h *Handler, target string) *httptest.ResponseRecorder {
	return call(h, "GET", target, "")
}

func waiting(c *changing) *Handler {
	return newHandler(&backend{
		status: c.Status,
		find: func(ctx context.Context, image catalog.Image) (notification.Status, error) {
			return c.Status(ctx, image.Tag)
		},
	}, io.Discard)
}

func TestWaitEndsWithTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		begin := time.Now()
		go func() {
			time.Sleep(20 * time.Second)
			c.set(replication.Replicated, nil)
			h.Concluded("a")
		}()
		w := get(h, "/notifications/a?wait=60s")
		if !strings.Contains(w.Body.String(), `"replicated"`) || time.Since(begin) != 20*time.Second {
			t.Errorf("after %v: %s", time.Since(begin), w.Body)
		}
	})
}

// An outcome that another replica decides wakes nobody here.
func TestWaitFindsTheOutcomeOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		begin := time.Now()
		go func() {
			time.Sleep(20*time.Second + 1)
			c.set(replication.TimedOut, nil)
		}()
		get(h, "/notifications/a?wait=60s")
		if late := time.Since(begin) - 20*time.Second; late > pollInterval {
			t.Errorf("%v after the outcome", late)
		}
	})
}

func TestWaitIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		begin := time.Now()
		w := get(waiting(c), "/notifications/a?wait=3s")
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"collecting"`) || time.Since(begin) != 3*time.Second {
			t.Errorf("%d after %v: %s", w.Code, time.Since(begin), w.Body)
		}
	})
}

func TestNothingToWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		h := waiting(c)
		begin := time.Now()
		c.set("", notification.ErrNotFound)
		if w := get(h, "/notifications/a?wait=3s"); w.Code != 404 {
			t.Errorf("unknown: %d", w.Code)
		}
		c.set(replication.Recovered, nil)
		if w := get(h, "/notifications/a?wait=3s"); w.Code != 200 {
			t.Errorf("concluded: %d", w.Code)
		}
		if time.Since(begin) != 0 || h.polls.count() != 0 {
			t.Errorf("waited %v, %d polls", time.Since(begin), h.polls.count())
		}
	})
}

// comes begins the notification in 10 s, and concludes it 10 s later.
func (c *changing) comes(h *Handler) {
	time.Sleep(10*time.Second + 1)
	c.set(replication.Collecting, nil)
	time.Sleep(10 * time.Second)
	c.set(replication.Replicated, nil)
	h.Concluded("a")
}

// Who waits for an image may begin before its first webhook comes.
func TestWaitForAnImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set("", notification.ErrNotFound)
		h := waiting(c)
		begin := time.Now()
		go c.comes(h)
		w := get(h, "/images/shop/cart?tag=v1&wait=60&require=replicated")
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"replicated"`) || time.Since(begin) != 20*time.Second+1 {
			t.Errorf("%d after %v: %s", w.Code, time.Since(begin), w.Body)
		}

		c.set("", notification.ErrNotFound)
		begin = time.Now()
		if w = get(h, "/images/shop/cart?tag=v1&wait=5s"); w.Code != 404 || time.Since(begin) != 5*time.Second {
			t.Errorf("it never came: %d after %v", w.Code, time.Since(begin))
		}
		c.set(replication.Collecting, nil)
		begin = time.Now()
		if w = get(h, "/images/shop/cart?tag=v1&wait=5s&require=replicated"); w.Code != 503 || time.Since(begin) != 5*time.Second {
			t.Errorf("it is not everywhere: %d after %v", w.Code, time.Since(begin))
		}
		time.Sleep(2 * pollInterval) // the last reading was planned
		if h.polls.count() != 0 {
			t.Error("a poll is left")
		}
	})
}

// The longest wait is answered before Azure Container Apps ends the request, with a
// store as slow as it may be, and an image that is found at the last moment.
func TestTheLongestWaitIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow, ingress = callTimeout - time.Millisecond, 240 * time.Second
		begin := time.Now()
		h := newHandler(&backend{
			find: func(context.Context, catalog.Image) (notification.Status, error) {
				time.Sleep(slow)
				if time.Since(begin) < maxWait {
					return notification.Status{}, notification.ErrNotFound
				}
				return notification.Status{ID: "a", Action: "push", Status: replication.Collecting}, nil
			},
			status: func(context.Context, string) (notification.Status, error) {
				time.Sleep(slow)
				return notification.Status{ID: "a", Action: "push", Status: replication.Collecting}, nil
			},
		}, io.Discard)
		for _, target := range []string{"/images/shop/cart?tag=v1&wait=230s&require=replicated", "/notifications/a?wait=230s&require=replicated"} {
			begin = time.Now()
			if w := get(h, target); w.Code != 503 || time.Since(begin) < maxWait || time.Since(begin) >= ingress {
				t.Errorf("%s: %d after %s, want 503 after 230 s and before 240 s", target, w.Code, time.Since(begin))
			}
		}
	})
}

// Who requires something may know the id before the first webhook comes.
func TestWaitForANotification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set("", notification.ErrNotFound)
		h := waiting(c)
		begin := time.Now()
		go c.comes(h)
		w := get(h, "/notifications/a?wait=60&require=replicated")
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"replicated"`) || time.Since(begin) != 20*time.Second+1 {
			t.Errorf("%d after %v: %s", w.Code, time.Since(begin), w.Body)
		}
	})
}

// A replica that stops lets nobody wait for it, and does not pass what it knows
// so far off as the end of the wait.
func TestWaitEndsWithTheReplica(t *testing.T) {
	for name, tt := range map[string]struct {
		status replication.Status
		err    error
		target string
	}{
		"required notification":     {replication.Collecting, nil, "/notifications/a?wait=60s&require=replicated"},
		"image":                     {replication.Collecting, nil, "/images/shop/cart?tag=v1&wait=60s"},
		"image without webhook":     {"", notification.ErrNotFound, "/images/shop/cart?tag=v1&wait=60s"},
		"required, without webhook": {"", notification.ErrNotFound, "/notifications/a?wait=60s&require=replicated"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &changing{}
				c.set(tt.status, tt.err)
				h := waiting(c)
				time.AfterFunc(2*time.Second, h.Stop)
				begin := time.Now()
				w := get(h, tt.target)
				if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "stopping") || time.Since(begin) != 2*time.Second {
					t.Errorf("got %d after %v: %s, want 503 after 2s", w.Code, time.Since(begin), w.Body)
				}
			})
		})
	}
}

// A replica that stops still answers questions, and is not ready.
func TestAnswersWhileStopping(t *testing.T) {
	c := &changing{}
	h := waiting(c)
	h.Stop()
	c.set(replication.Collecting, nil)
	if w := get(h, "/notifications/a"); w.Code != 200 {
		t.Errorf("without a wait: got %d, want 200", w.Code)
	}
	if w := get(h, "/notifications/a?wait=60s"); w.Code != 503 {
		t.Errorf("with a wait: got %d, want 503", w.Code)
	}
	c.set(replication.Replicated, nil)
	if w := get(h, "/notifications/a?wait=60s"); w.Code != 200 {
		t.Errorf("decided, with a wait: got %d, want 200", w.Code)
	}
	if w := get(h, "/readyz"); w.Code != 503 {
		t.Errorf("/readyz: got %d, want 503", w.Code)
	}
}

// Many who wait for different things do not storm the store.
func TestManyPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		ps := polls{stopping: t.Context(), byKey: map[string]*reading{}}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				read := func(ctx context.Context) (notification.Status, error) { return c.Status(ctx, "") }
				ps.wait(ctx, strconv.Itoa(i), read, notification.Status.Concluded)
			})
		}
		time.Sleep(time.Minute)
		if reads := c.reads.Load(); reads > 2000+70*200 {
			t.Errorf("%d reads in a minute", reads)
		}
		cancel()
		wg.Wait()
	})
}

// A sidecar that is away for a moment does not end a wait.
func TestWaitOutlivesFailedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		go func() {
			time.Sleep(5 * time.Second)
			c.set("", errors.New("away"))
			time.Sleep(5 * time.Second)
			c.set(replication.Replicated, nil)
		}()
		if w := get(h, "/notifications/a?wait=60s"); w.Code != 200 || !strings.Contains(w.Body.String(), `"replicated"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// Many who wait for one notification cost what one does.
func TestWaitersShareAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		const n = 500
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() { get(h, "/notifications/a?wait=60s") })
		}
		time.Sleep(30*time.Second + 1)
		if reads := c.reads.Load(); reads > n+35 { // at most one for each caller, and then one a second
			t.Errorf("%d reads", reads)
		}
		c.set(replication.Replicated, nil)
		h.Concluded("a")
		wg.Wait()
		if h.polls.count() != 0 {
			t.Error("a poll is left")
		}
	})
}

func TestWaitEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, "GET", "/notifications/a?wait=60s&code="+key1, nil)
		begin := time.Now()
		time.AfterFunc(2500*time.Millisecond, cancel) // between two reads
		h.ServeHTTP(httptest.NewRecorder(), r)
		if time.Since(begin) != 2500*time.Millisecond {
			t.Errorf("after %v", time.Since(begin))
		}
		reads := c.reads.Load()
		time.Sleep(time.Minute)
		if now := c.reads.Load(); now > reads+1 || h.polls.count() != 0 { // one was planned
			t.Errorf("%d reads since, %d polls", now-reads, h.polls.count())
		}
	})
}

// However many wait, there is one reading at a time. Who is woken while it runs gets
// another one at once: it may have begun before the outcome was saved.
func TestReadingsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := polls{stopping: t.Context(), byKey: map[string]*reading{}}
		var running, begun atomic.Int64
		decided := time.Now().Add(2500 * time.Millisecond)
		read := func(context.Context) (st notification.Status, err error) {
			if begun.Add(1); running.Add(1) > 1 {
				t.Error("two readings at a time")
			}
			defer running.Add(-1)
			if st.Status = replication.Collecting; !time.Now().Before(decided) {
				st.Status = replication.Replicated
			}
			time.Sleep(time.Second)
			return st, nil
		}
		begin := time.Now()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				st, err := ps.wait(t.Context(), "n1", read, notification.Status.Concluded)
				if err != nil || time.Since(begin) != 4*time.Second {
					t.Errorf("%d: got %v, %v after %v, want the outcome after 4s", i, st.Status, err, time.Since(begin))
				}
			})
		}
		time.Sleep(time.Until(decided))
		ps.wake("n1") // the second reading runs: from 2 s to 3 s
		all.Wait()
		if n := begun.Load(); n != 3 || ps.count() != 0 {
			t.Errorf("got %d readings, and %v is left; want 3 and nothing", n, ps.byKey)
		}
	})
}

// A question that comes while somebody waits is answered at once.
func TestOnceDoesNotWaitForThePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{}
		c.set(replication.Collecting, nil)
		h := waiting(c)
		ctx, cancel := context.WithCancel(t.Context())
		go h.polls.wait(ctx, "a", h.read("a"), notification.Status.Concluded)
		time.Sleep(pollInterval / 2)
		begin := time.Now()
		if w := get(h, "/notifications/a"); w.Code != 200 || time.Since(begin) != 0 {
			t.Errorf("got %d after %v, want 200 at once", w.Code, time.Since(begin))
		}
		cancel()
	})
}

// A caller that goes away takes nobody along, and a reading that hangs ends.
func TestReadingsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := polls{stopping: t.Context(), byKey: map[string]*reading{}}
		hangs := true
		read := func(ctx context.Context) (notification.Status, error) {
			if hangs {
				hangs = false
				<-ctx.Done()
				return notification.Status{}, ctx.Err()
			}
			time.Sleep(time.Second)
			return notification.Status{ID: "n1"}, ctx.Err()
		}
		any := func(notification.Status) bool { return true }
		gone, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		go func() {
			if _, err := ps.wait(gone, "n1", read, any); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("gone: got %v, want %v", err, context.DeadlineExceeded)
			}
		}()
		synctest.Wait()
		begin := time.Now()
		if st, err := ps.wait(t.Context(), "n1", read, any); err != nil || st.ID != "n1" || time.Since(begin) != callTimeout+pollInterval+time.Second {
			t.Errorf("who stays: got %+v, %v after %v", st, err, time.Since(begin))
		}
		hangs = true
		var hang readFunc = read
		begin = time.Now()
		if _, err := hang.once(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != callTimeout {
			t.Errorf("once: got %v after %v, want an error after %v", err, time.Since(begin), callTimeout)
		}
	})
}

// count is how many things are waited for, when what is over is forgotten.
func (ps *polls) count() int {
	time.Sleep(pollInterval)
	synctest.Wait()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.byKey)
}
