package registry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
	"allregions/app/replication"
)

// world is a registry and a store that can both be away.
type world struct {
	mu      sync.Mutex
	regions []replication.Region
	sourceErr,
	storeErr error
	asked int
	docs  map[string][]byte
}

func (w *world) set(regions []replication.Region, sourceErr, storeErr error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.regions, w.sourceErr, w.storeErr = regions, sourceErr, storeErr
}

func (w *world) Regions(context.Context) ([]replication.Region, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return w.regions, w.sourceErr
}

// Load takes the document itself for its version.
func (w *world) Load(_ context.Context, key string) (value []byte, version string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.docs[key], string(w.docs[key]), w.storeErr
}

func (w *world) Save(_ context.Context, key string, doc []byte, version string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.storeErr != nil:
		return w.storeErr
	case version != string(w.docs[key]):
		return actor.ErrConflict
	}
	w.docs[key] = doc
	return nil
}

func (w *world) saved() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.docs[savedKey])
}

// run starts a Discovery in w.
func (w *world) run(t *testing.T, fallback Static) (d *Discovery, stop func()) {
	d = NewDiscovery(w, w, fallback, time.Now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	go d.Run(ctx)
	synctest.Wait()
	return d, cancel
}

func expect(t *testing.T, d *Discovery, want ...replication.Region) {
	t.Helper()
	got, err := d.Expected(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

var errAway = errors.New("away")

func TestDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{docs: map[string][]byte{}}
		w.set([]replication.Region{"westeurope", "eastus"}, nil, nil)
		d, stop := w.run(t, Static{"uksouth"})
		expect(t, d, "westeurope", "eastus")

		// A new replica is seen by itself; a failed reading changes nothing.
		w.set([]replication.Region{"westeurope", "eastus", "japaneast"}, nil, nil)
		time.Sleep(refreshInterval + time.Second)
		expect(t, d, "westeurope", "eastus", "japaneast")
		w.set(nil, errAway, nil)
		time.Sleep(refreshInterval + time.Second)
		expect(t, d, "westeurope", "eastus", "japaneast")
		stop()
		synctest.Wait()

		// After a restart while Azure is away, the last answer counts, not the list.
		d, stop = w.run(t, Static{"uksouth"})
		expect(t, d, "westeurope", "eastus", "japaneast")
		w.set([]replication.Region{"westeurope"}, nil, nil)
		time.Sleep(retryInterval + time.Second)
		expect(t, d, "westeurope")

		// A store that forgets what is old (Cosmos DB's TTL) does not forget them.
		w.mu.Lock()
		delete(w.docs, savedKey)
		w.mu.Unlock()
		time.Sleep(refreshInterval + time.Second)
		if w.saved() == "" {
			t.Error("not saved again")
		}
		stop()
	})
}

func TestDiscoveryStartsWithNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{docs: map[string][]byte{}}
		w.set(nil, errAway, nil)
		d, stop := w.run(t, nil)
		if _, err := d.Expected(t.Context()); err == nil || !strings.Contains(err.Error(), "not known: away") {
			t.Errorf("%v", err)
		}
		time.Sleep(10 * time.Second)
		if w.asked != 1 {
			t.Errorf("asked %d times in 10 s", w.asked)
		}
		w.set([]replication.Region{"eastus"}, nil, nil)
		time.Sleep(retryInterval)
		expect(t, d, "eastus")
		stop()

		d, stop = (&world{sourceErr: errAway, docs: map[string][]byte{}}).run(t, Static{"uksouth"})
		expect(t, d, "uksouth")
		stop()
	})
}

// The sidecar may start after the service: what it has saved wins over the list
// all the same, and what could not be saved is saved when it is there.
func TestDiscoveryAwaitsTheSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{docs: map[string][]byte{}}
		w.set([]replication.Region{"westeurope", "eastus"}, nil, errAway)
		d, stop := w.run(t, nil)
		expect(t, d, "westeurope", "eastus")
		w.set(nil, errAway, nil)
		time.Sleep(2 * time.Second)
		if w.saved() == "" {
			t.Error("not saved")
		}
		stop()

		w.set(nil, errAway, errAway)
		d, stop = w.run(t, Static{"uksouth"})
		if _, err := d.Expected(t.Context()); err == nil {
			t.Error("the list won before the saved answer could be read")
		}
		w.set(nil, errAway, nil)
		time.Sleep(2 * time.Second)
		expect(t, d, "westeurope", "eastus")
		stop()
	})
}

func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{docs: map[string][]byte{}}
		w.set([]replication.Region{"westeurope"}, nil, nil)
		d, stop := w.run(t, nil)
		defer stop()
		w.set([]replication.Region{"westeurope", "eastus"}, nil, nil)
		if d.Recheck(t.Context(), "eastus") || w.asked != 1 {
			t.Errorf("asked %d times within a minute", w.asked)
		}
		time.Sleep(recheckInterval)
		if !d.Recheck(t.Context(), "eastus") || w.asked != 2 {
			t.Errorf("a new region is not found, after %d readings", w.asked)
		}
		for range 1000 {
			if d.Recheck(t.Context(), "mars") {
				t.Fatal("mars is expected")
			}
		}
		if w.asked != 2 {
			t.Errorf("asked %d times", w.asked)
		}
		time.Sleep(storeInterval)
		synctest.Wait()
		if doc := w.saved(); !strings.Contains(doc, "eastus") {
			t.Errorf("not saved: %s", doc)
		}
	})
}

func TestStaticLearnsNothing(t *testing.T) {
	s := Static{"eastus"}
	if !s.Recheck(t.Context(), "eastus") || s.Recheck(t.Context(), "mars") {
		t.Error("a fixed list has changed")
	}
}

// slow is a registry that takes its time.
type slow struct{ *world }

func (s slow) Regions(ctx context.Context) ([]replication.Region, error) {
	time.Sleep(time.Second)
	return s.world.Regions(ctx)
}

// The webhooks of a new region come for many pushes at once: one of them has the
// regions read, and all of them get what it learns.
func TestRecheckAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{docs: map[string][]byte{}}
		w.set([]replication.Region{"westeurope"}, nil, nil)
		d := NewDiscovery(slow{w}, w, nil, time.Now, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go d.Run(ctx)
		time.Sleep(recheckInterval + 2*time.Second)
		w.set([]replication.Region{"westeurope", "eastus"}, nil, nil)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if !d.Recheck(t.Context(), "eastus") {
					t.Error("a new region was refused while it was being read")
				}
			})
		}
		wg.Wait()
		if w.asked != 2 {
			t.Errorf("asked %d times", w.asked)
		}

		// Who cannot wait for a reading does not.
		time.Sleep(recheckInterval)
		brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wg.Go(func() { d.Recheck(t.Context(), "mars") })
		synctest.Wait()
		begin := time.Now()
		if d.Recheck(brief, "mars") || time.Since(begin) != 100*time.Millisecond {
			t.Errorf("answered after %v", time.Since(begin))
		}
		wg.Wait()
	})
}
