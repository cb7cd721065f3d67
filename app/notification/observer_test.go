package notification

import (
	"fmt"
	"slices"
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

func (o *observed) Repeated() { o.told = append(o.told, "repeated publish") }

func (o *observed) actor() *Actor {
	a := o.world.actor()
	a.Observer = o
	return a
}

func (o *observed) add(t *testing.T, r replication.Region) {
	t.Helper()
	o.addTo(t, o.actor(), event(r))
}

func (o *observed) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range o.Pass(d, "n1", func(name string) error { return fake.Fire(t.Context(), o.actor().Remind, "n1", name) }) {
		t.Error(err)
	}
}

func TestObserver(t *testing.T) {
	begun := []string{"saved 0 to 1 of collecting", "saved 1 to 2 of collecting"}
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
		}, append(slices.Clone(begun), "saved 2 to 3 of replicated", "published replicated after 0s")},
		// What a reminder does anyway is no repetition; that the outcome is published is
		// no decision.
		{"timed out", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 1 of timedOut", "published timedOut after 0s"}},
		{"late", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.add(t, "westeurope")
			o.Now = t0.Add(plan.Timeout)
			o.add(t, "japaneast")
		}, append(slices.Clone(begun), "saved 2 to 3 of recovered", "published timedOut after 0s", "published recovered after 0s")},
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
		}, append(slices.Clone(begun), "saved 2 to 3 of replicated", "published replicated after 2m30s", "repeated publish")},
		{"the broker is away at due", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.Fail = lose("publish")
			o.Now = due
			o.pass(t, 0)
			o.Fail = nil
			o.pass(t, time.Hour)
		}, []string{"saved 0 to 1 of collecting", "saved 1 to 1 of timedOut", "published timedOut after 30s", "repeated publish"}},
		// Only what an earlier turn has left is a repetition.
		{"the broker takes one of two", func(t *testing.T, o *observed) {
			o.add(t, "eastus")
			o.add(t, "westeurope")
			o.Now = t0.Add(plan.Timeout)
			o.Fail = lose("publish n1/recovered")
			o.add(t, "japaneast")
			o.Fail = nil
			o.pass(t, time.Hour)
		}, append(slices.Clone(begun), "saved 2 to 3 of recovered", "published timedOut after 0s",
			"published timedOut after 30s", "published recovered after 30s", "repeated publish", "repeated publish")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &observed{world: newWorld()}
			tt.play(t, o)
			if !slices.Equal(o.told, tt.want) {
				t.Errorf("told\n got %q\nwant %q", o.told, tt.want)
			}
		})
	}
}
