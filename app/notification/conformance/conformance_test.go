package conformance

import (
	"context"
	"testing"

	"allregions/app/notification"
	"allregions/app/replication"
)

// stride is larger where everything is ten times slower.
var stride = 1

// All cases, on the fakes.
func TestFakes(t *testing.T) {
	for part, name := range []string{"even", "odd"} { // at the same time
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if cases := runFrom(t, nil, part, 2*stride); cases < 10000/stride {
				t.Errorf("only %d cases", cases)
			}
		})
	}
}

// Actors that are broken in one way each: the cases that are about that find it.
func TestBrokenActorsAreFound(t *testing.T) {
	for name, tt := range map[string]struct {
		broken func(*notification.Actor)
		by     func(trial) bool
	}{
		"saves over what it has not loaded": {
			func(a *notification.Actor) { a.Store = overwriting{a.Store} },
			func(c trial) bool { return c.overlap != nil && c.fail == nil },
		},
		"takes what it cannot read for nothing": {
			func(a *notification.Actor) { a.Store = guessing{a.Store} },
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
type overwriting struct{ notification.Store }

func (s overwriting) Save(ctx context.Context, id string, state []byte) error {
	if _, err := s.Load(ctx, id); err != nil {
		return err
	}
	return s.Store.Save(ctx, id, state)
}

type guessing struct{ notification.Store }

func (s guessing) Load(ctx context.Context, id string) ([]byte, error) {
	state, err := s.Store.Load(ctx, id)
	if err != nil {
		return nil, nil
	}
	return state, nil
}

type impatient struct{ notification.EventLog }

func (l impatient) Fired(ctx context.Context, id string, of []replication.Region) ([]replication.Event, error) {
	if l.EventLog == nil {
		return nil, nil
	}
	events, err := l.EventLog.Fired(ctx, id, of)
	if err != nil {
		return nil, err
	}
	return events, nil
}
