package notification

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// observed is a world that writes down what its actors' observer is told.
type observed struct {
	*world
	told []string
}

func (o *observed) Saved(before, after replication.State) {
	o.told = append(o.told, fmt.Sprintf("saved %d to %d of %s", len(before.Arrivals), len(after.Arrivals), after.Status()))
}

func (o *observed) Published(out replication.Outcome, lag time.Duration) {
	o.told = append(o.told, fmt.Sprintf("published %s after %v", out.Status, lag))
}

func (o *observed) Repeated(work string) { o.told = append(o.told, "repeated "+work) }

func (o *observed) actor() *Actor {
	a := o.world.actor()
	a.Observer = o
	return a
}

func (o *observed) add(t *testing.T, r replication.Region) {
	t.Helper()
	e := event(r)
	_, _, err := o.actor().step(t.Context(), "n1", r, "", func(s replication.State, now time.Time) (replication.State, replication.Decision) {
		return replication.Add(s, e, plan, now)
	})
	if err != nil && !strings.Contains(err.Error(), fake.Err.Error()) {
		t.Fatal(err)
	}
}

func (o *observed) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range o.Pass(d, "n1", func(name string) error { return o.actor().Remind(t.Context(), "n1", name) }) {
		t.Error(err)
	}
}

// lose makes the writes fail that begin with this.
func lose(what string) func(int, string) fake.Failure {
	return func(_ int, name string) fake.Failure {
		if strings.HasPrefix(name, what) {
			return fake.Lost
		}
		return fake.None
	}
}

func TestObserver(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(t *testing.T, o *observed)
		want []string
	}{
		{"complete", func(t *testing.T, o *observed) {
			for _, r := range plan.Expected {
				o.add(t, r)
			}
			o.add(t, "eastus") // a repeat saves nothing
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 2 of collecting", "saved 2 to 3 of replicated", "published replicated after 0s"}},
		// What a reminder does anyway is no repetition.
		{"timed out", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 1 of timedOut", "published timedOut after 0s"}},
		{"a save fails", func(t *testing.T, o *observed) {
			o.Fail = lose("save")
			o.add(t, "eastus")
		}, nil},
		{"the broker is away", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.add(t, "westeurope")
			o.Fail = lose("publish")
			o.add(t, "japaneast")
			o.Fail = nil
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 2 of collecting", "saved 2 to 3 of replicated",
			"published replicated after 30s", "repeated publish", "repeated document"}}, // it was written, but not noted
		{"the document store is away", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.add(t, "westeurope")
			o.Fail = lose("document")
			o.add(t, "japaneast")
			o.Fail = nil
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 2 of collecting", "saved 2 to 3 of replicated", "published replicated after 0s", "repeated document"}},
		{"the index is away", func(t *testing.T, o *observed) {
			o.Fail = lose("index")
			o.add(t, "eastus")
			o.Fail = nil
			o.pass(t, 31*time.Second)
		}, []string{"saved 0 to 1 of collecting", "repeated index"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &observed{world: newWorld()}
			tt.play(t, o)
			if !slices.Equal(o.told, tt.want) {
				t.Errorf("told\n %q, want\n %q", o.told, tt.want)
			}
		})
	}
}

// Each try to deliver from the queue is told, with a region only if the
// notification expects that.
func TestDelivered(t *testing.T) {
	w := newWorld()
	in, queue, _ := w.intake(away{fake.Err})
	for _, r := range []replication.Region{"eastus", "mars"} {
		if _, err := in.Add(t.Context(), event(r), plan.Expected); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	deliver := func(actors Invoker, message string) {
		in, _, _ := w.intake(actors)
		in.Delivered = func(region replication.Region, result string) { told = append(told, string(region)+" "+result) }
		in.Deliver(t.Context(), []byte(message))
	}
	deliver(away{fake.Err}, queue.events[0])
	deliver(w, queue.events[0])
	deliver(w, queue.events[0])
	deliver(away{fake.Err}, queue.events[1])
	deliver(w, queue.events[1])
	deliver(w, "{")
	deliver(w, "{}")
	if want := []string{"eastus failed", "eastus started", "eastus duplicate", " failed", " dead", " dead", " dead"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}
