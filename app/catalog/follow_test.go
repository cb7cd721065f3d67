package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"allregions/app/replication"
)

// states are the ids and statuses, in order of the ids.
func states(t *testing.T, all []json.RawMessage) (got []string) {
	t.Helper()
	for _, data := range all {
		var s status
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		got = append(got, s.ID+" "+string(s.Status))
	}
	slices.Sort(got)
	return got
}

func TestFollow(t *testing.T) {
	r := newRecents()
	f := r.list(t).Follow()
	late := began("late", 20*time.Hour) // timed out: it may recover
	r.put(t, listing(1, 1, replication.Collecting), listing(2, 5, replication.Replicated), began("old", 5*time.Hour, "timedOut", "replicated"), late)
	poll := func(at time.Time, want ...string) {
		t.Helper()
		changed, err := f.Poll(t.Context(), at)
		if got := states(t, changed); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	poll(t0)
	if got, want := states(t, f.Open()), []string{"n1 collecting"}; !slices.Equal(got, want) {
		t.Errorf("open: got %q, want %q", got, want)
	}
	poll(t0)

	r.put(t, listing(1, 2, replication.Replicated), listing(3, 1, replication.Collecting))
	poll(t0, "n1 replicated", "n3 collecting")
	poll(t0)
	late.Saves, late.Status = 2, began("late", 20*time.Hour, "timedOut", "recovered").Status
	r.put(t, late)
	poll(t0, "late recovered")

	// The next window, and the one before.
	next := listing(600_000, 1, replication.Collecting)
	r.put(t, next, listing(3, 2, replication.TimedOut))
	poll(t0.Add(10*time.Minute), "n3 timedOut", "n600000 collecting")

	// What waited in a queue begins in the past.
	r.put(t, began("queued", 30*time.Minute))
	poll(t0.Add(10*time.Minute), "queued timedOut")

	r.put(t, listing(4, 1, replication.Collecting))
	r.set(func(string, string, int) what { return lost })
	if _, err := f.Poll(t.Context(), t0.Add(10*time.Minute)); err == nil {
		t.Error("no error without a store")
	}
	r.set(nil)
	poll(t0.Add(10*time.Minute), "n4 collecting")
}

// However many windows have something open, a Poll reads a few, and all of them by turns.
func TestFollowReadsFew(t *testing.T) {
	r := newRecents()
	f := r.list(t).Follow()
	for i := range 50 {
		r.put(t, began(fmt.Sprintf("n%d", i), time.Duration(i)*windowLength))
	}
	if _, err := f.Poll(t.Context(), t0); err != nil {
		t.Fatal(err)
	}
	read := map[string]int{}
	for range 10 {
		r.store.calls = nil
		if _, err := f.Poll(t.Context(), t0); err != nil {
			t.Fatal(err)
		}
		if n := len(r.store.calls); n > followed+2 {
			t.Errorf("%d windows are read", n)
		}
		for _, call := range r.store.calls {
			read[call]++
		}
	}
	if len(read) < 50 {
		t.Errorf("%d of 50 windows are read", len(read))
	}
}

// A Follower keeps no window for longer than it needs it.
func TestFollowForgets(t *testing.T) {
	r := newRecents()
	f := r.list(t).Follow()
	r.put(t, began("late", 10*time.Hour), began("open", 0, "timedOut", "collecting"))
	for at := t0; at.Before(t0.Add(30 * time.Hour)); at = at.Add(time.Minute) {
		if _, err := f.Poll(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if n := len(f.windows); n > listedLate+5 {
			t.Fatalf("%d windows at %v", n, at)
		}
	}
	if got := f.Open(); len(got) > 0 {
		t.Errorf("open after a day: %s", got)
	}
}
