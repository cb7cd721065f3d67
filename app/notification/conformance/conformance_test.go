package conformance

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification"
	"allregions/app/replication"
)

// stride is larger where everything is ten times slower.
var stride = 1

// All cases, on the fakes, as many at the same time as there are processors; with
// -short one in 20.
func TestFakes(t *testing.T) {
	if testing.Short() {
		stride *= 20
	}
	// Most of what a case allocates is JSON that is garbage when the case is over.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	parts := runtime.GOMAXPROCS(0)
	var cases atomic.Int64
	t.Run("parts", func(t *testing.T) {
		for part := range parts {
			t.Run(fmt.Sprint(part), func(t *testing.T) {
				t.Parallel()
				cases.Add(int64(runFrom(t, nil, part, parts*stride)))
			})
		}
	})
	if got, want := cases.Load(), int64(40000/stride); got < want {
		t.Errorf("got %d cases, want at least %d", got, want)
	}
}

// Actors that are broken in one way each: the cases that are about that find it.
func TestBrokenActorsAreFound(t *testing.T) {
	for name, tt := range map[string]struct {
		broken func(*notification.Actor)
		by     func(trial) bool
	}{
		"saves over what it has not loaded": {
			func(a *notification.Actor) { a.Records = overwriting{a.Records} },
			func(c trial) bool { return c.overlap != nil && c.fail == nil },
		},
		"takes what it cannot read for nothing": {
			func(a *notification.Actor) { a.Records = guessing{a.Records} },
			func(c trial) bool { return c.failRead != nil && c.fail == nil },
		},
		"does not ask the event log": {
			func(a *notification.Actor) { a.EventLog = nil },
			func(c trial) bool { return c.log == logAnswers && c.wrong == "" },
		},
		"takes an event log that answers in part for one that does not": {
			func(a *notification.Actor) { a.EventLog = impatient{a.EventLog} },
			func(c trial) bool { return c.log == logPartly },
		},
	} {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for c := range all() {
				if !tt.by(c) {
					continue
				}
				tried++
				if complaints := c.run(t, nil, tt.broken); len(complaints) > 0 {
					t.Logf("after %d cases: %s", tried, complaints[0])
					return
				}
			}
			t.Errorf("not found in %d cases", tried)
		})
	}
}

// overwriting knows the version of what is there at the save, and not of what the turn
// has loaded.
type overwriting struct{ actor.Records }

func (r overwriting) Save(ctx context.Context, id string, value []byte, _ string) error {
	_, version, err := r.Load(ctx, id)
	if err != nil {
		return err
	}
	return r.Records.Save(ctx, id, value, version)
}

type guessing struct{ actor.Records }

func (r guessing) Load(ctx context.Context, id string) ([]byte, string, error) {
	value, version, err := r.Records.Load(ctx, id)
	if err != nil {
		return nil, "", nil
	}
	return value, version, nil
}

type impatient struct{ notification.EventLog }

func (l impatient) Fired(ctx context.Context, registry, id string, began time.Time, of []replication.Region) ([]replication.Event, error) {
	if l.EventLog == nil {
		return nil, nil
	}
	events, err := l.EventLog.Fired(ctx, registry, id, began, of)
	if err != nil {
		return nil, err
	}
	return events, nil
}
