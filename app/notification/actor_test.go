package notification

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
	"allregions/app/catalog"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

var (
	t0   = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)
	plan = replication.Plan{Awaited: replication.Awaited{Expected: []replication.Region{"westeurope", "eastus", "japaneast"}}, Timeout: 2 * time.Minute}
)

// due is when a notification that began at t0 is timedOut.
var due = t0.Add(plan.Timeout + plan.Grace())

func event(r replication.Region) replication.Event {
	return replication.Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1", Digest: "sha256:aa", MediaType: "m", Size: 1<<53 + 1, Original: "{\"action\": \"push\"}\n", Region: r, Time: t0.Add(-time.Second)}
}

// accepted is an event that was accepted then, and reaches its actor now.
func accepted(r replication.Region, at time.Time) replication.Event {
	e := event(r)
	e.ReceivedAt, e.Via = at, replication.ViaQueue
	return e
}

// world is everything outside an Actor, in memory.
type world struct {
	*fake.World
	timeout time.Duration
	sent    []string // the names of an image that were sent to the index, in order
}

func newWorld() *world { return &world{World: fake.New(t0), timeout: plan.Timeout} }

// actor is a process that lives in w.
func (w *world) actor() *Actor {
	return &Actor{Records: w, Reminders: w, Topic: w, Catalog: w, Timeout: w.timeout,
		Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}
}

func (w *world) Send(entries []catalog.Entry, listed catalog.Listed) (settled func(context.Context) error) {
	for _, e := range entries {
		w.sent = append(w.sent, e.Notification+" "+e.Digest+e.Tag)
	}
	return w.World.Send(entries, listed)
}

// Invoke makes the world a Dapr whose turns are over when they are answered.
func (w *world) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	p := fake.Process{Methods: w.actor().Methods()}
	defer p.End()
	return p.Invoke(ctx, id, method, body)
}

func (w *world) client() *Client { return &Client{Actors: w, Records: w, Index: w} }

// add is a webhook: it tells whether the caller got a 2xx.
func (w *world) add(t *testing.T, r replication.Region) (accepted bool) {
	t.Helper()
	return w.addTo(t, w.actor(), event(r))
}

// addTo brings an event to a, and tells whether it is safe. What follows is done.
func (w *world) addTo(t *testing.T, a *Actor, e replication.Event) (accepted bool) {
	t.Helper()
	defer fake.Survive()
	p := fake.Process{Methods: a.Methods()}
	_, err := (&Client{Actors: &p}).Add(t.Context(), e, plan.Awaited)
	if err != nil && !errors.Is(err, fake.Err) {
		t.Errorf("add %s: %v", e.Region, err)
	}
	accepted = err == nil
	p.End()
	return accepted
}

// pass lets time go by, firing reminders on the way.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range w.Pass(d, "n1", func(name string) error { return fake.Fire(t.Context(), w.actor().Remind, "n1", name) }) {
		t.Errorf("reminder: %v", err)
	}
	if w.Period != 0 && w.Period != Period {
		t.Errorf("the reminder's period is %v", w.Period)
	}
}

// passTo is pass, until then.
func (w *world) passTo(t *testing.T, then time.Time) {
	t.Helper()
	w.pass(t, then.Sub(w.Now))
}

func (w *world) status(t *testing.T) Status {
	t.Helper()
	st, err := w.client().Status(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// state is what is stored.
func (w *world) state(t *testing.T) record {
	t.Helper()
	s, err := decodeRecord(w.Records["n1"])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wrote complains if what was written since it was asked last is not this.
func (w *world) wrote(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.Writes, want) {
		t.Errorf("writes: got %q, want %q", w.Writes, want)
	}
	w.Writes, w.Reads, w.Calls = nil, nil, nil
}

// reminders are when they fire, by name.
func (w *world) reminders(t *testing.T, want map[string]time.Time) {
	t.Helper()
	got := map[string]time.Time{}
	for r, at := range w.Reminders {
		got[r.Name] = at
	}
	if !maps.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("reminders: got %v, want %v", got, want)
	}
}

// published complains if the topic has not exactly these outcomes, in order.
func (w *world) published(t *testing.T, want ...replication.Status) {
	t.Helper()
	var ids []string
	for _, outcome := range want {
		ids = append(ids, EventID("n1", outcome))
	}
	if !slices.Equal(w.Topic, ids) {
		t.Errorf("topic: got %q, want %q", w.Topic, ids)
	}
}

// missing complains if an event does not lack exactly these regions.
func (w *world) missing(t *testing.T, outcome replication.Status, want ...replication.Region) {
	t.Helper()
	var e struct{ Data Status }
	if err := json.Unmarshal(w.Events[EventID("n1", outcome)], &e); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.Data.Missing, want) {
		t.Errorf("missing in %s: got %v, want %v", outcome, e.Data.Missing, want)
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

// timedOut is a world in which a notification of one region is timedOut, and done.
func timedOut(t *testing.T) *world {
	t.Helper()
	w := newWorld()
	w.add(t, "westeurope")
	w.passTo(t, due)
	w.reminders(t, nil)
	w.wrote(t, "register", "save", "save", "publish n1/timedOut", "save", "index", "unregister")
	return w
}

func TestWriteOrderOfACompletePush(t *testing.T) {
	w := newWorld()
	for _, r := range plan.Expected {
		if !w.add(t, r) {
			t.Fatal("refused")
		}
		w.Now = w.Now.Add(time.Second)
	}
	want := []string{
		"load", "register", "save",
		"load", "save",
		"load", "save", "publish n1/replicated", "index", "unregister",
	}
	if !slices.Equal(w.Calls, want) {
		t.Errorf("calls: got %q, want %q", w.Calls, want)
	}
	if st := w.status(t); st.Status != replication.Replicated || *st.DurationMS != 2000 {
		t.Errorf("got %+v, want it replicated after 2 s", st)
	}
	w.reminders(t, nil)
	n := len(w.Writes)
	if w.pass(t, time.Hour); len(w.Writes) != n {
		t.Errorf("nothing was left to do, and it wrote %q", w.Writes[n:])
	}
}

// The event is safe before anything follows it, and a process that dies then has
// answered.
func TestReplyBeforeWhatFollows(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	n := len(w.Calls)
	turn, err := w.actor().add(t.Context(), "n1", addBody(t, event("japaneast")))
	if got, want := w.Calls[n:], []string{"load", "save"}; err != nil || !slices.Equal(got, want) || turn.After == nil {
		t.Fatalf("before the reply: got %q, %v, want %q", got, err, want)
	}
	var r reply
	if err := json.Unmarshal(turn.Reply, &r); err != nil || r.Status.Status != replication.Replicated || len(w.sent) != 4 {
		t.Errorf("got %s, %v, sent %q, want it replicated, and the index of two turns", turn.Reply, err, w.sent)
	}
	turn.After(t.Context())
	w.published(t, replication.Replicated)
}

func addBody(t *testing.T, e replication.Event) []byte {
	t.Helper()
	body, err := json.Marshal(NewMessage(e, plan.Awaited))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// A first event has its reminder at due, and one whose outcome is already known soon.
func TestReminderOfAFirstEvent(t *testing.T) {
	one := []replication.Region{"westeurope"}
	for _, tt := range []struct {
		name     string
		timeout  time.Duration
		expected []replication.Region
		waited   time.Duration
		want     time.Duration // from now
	}{
		{"just accepted", plan.Timeout, plan.Expected, 0, 150 * time.Second},
		{"a short timeout has a short grace", 8 * time.Second, plan.Expected, 0, 10 * time.Second},
		{"a long timeout", 30 * 24 * time.Hour, plan.Expected, 0, 30*24*time.Hour + 30*time.Second},
		{"it had to wait", plan.Timeout, plan.Expected, time.Minute, 90 * time.Second},
		{"it had to wait for longer than the timeout", plan.Timeout, plan.Expected, time.Hour, 30 * time.Second},
		{"the only region", plan.Timeout, one, 0, Soon},
		{"the only region, after an hour", plan.Timeout, one, time.Hour, Soon},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.timeout = tt.timeout
			w.Fail = lose("unregister")
			if _, err := w.client().Add(t.Context(), accepted("westeurope", t0.Add(-tt.waited)), replication.Awaited{Expected: tt.expected}); err != nil {
				t.Fatal(err)
			}
			w.reminders(t, map[string]time.Time{w.state(t).Reminder: t0.Add(tt.want)})
			if w.Period != Period || w.Writes[0] != "register" || w.Writes[1] != "save" {
				t.Errorf("period %v, writes %q", w.Period, w.Writes)
			}
		})
	}
}

func TestTimeoutThenRecovery(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.wrote(t, "register", "save", "save")
	w.passTo(t, due.Add(-1))
	w.wrote(t)
	if len(w.Reads) != 0 {
		t.Errorf("somebody read before it was due: %q", w.Reads)
	}
	if st := w.status(t); st.Status != replication.Collecting || !st.Deadline.Equal(t0.Add(plan.Timeout)) {
		t.Errorf("before it is due: %+v", st)
	}
	w.passTo(t, due)
	w.wrote(t, "save", "publish n1/timedOut", "save", "index", "unregister")
	w.missing(t, replication.TimedOut, "japaneast")
	if st := w.status(t); st.Status != replication.TimedOut || !slices.Equal(st.Missing, []replication.Region{"japaneast"}) || !st.ConcludedAt.Equal(due) || !st.Deadline.Equal(t0.Add(plan.Timeout)) {
		t.Errorf("at due: %+v", st)
	}
	w.reminders(t, nil)
	w.pass(t, time.Hour)
	w.Writes = nil
	w.add(t, "japaneast")
	w.wrote(t, "register", "save", "publish n1/recovered", "index", "unregister")
	w.published(t, replication.TimedOut, replication.Recovered)
	w.missing(t, replication.TimedOut, "japaneast")
	w.missing(t, replication.Recovered)
	if st := w.status(t); st.Status != replication.Recovered {
		t.Errorf("got %+v", st)
	}
	w.reminders(t, nil)
}

// A reminder that fires before its notification is due writes nothing, and stays.
func TestFiringBeforeDue(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	name := w.state(t).Reminder
	w.wrote(t, "register", "save")
	for _, after := range []time.Duration{0, plan.Timeout, plan.Timeout + plan.Grace() - 1} {
		w.Now = t0.Add(after)
		if err := fake.Fire(t.Context(), w.actor().Remind, "n1", name); err != nil {
			t.Error(err)
		}
	}
	w.wrote(t)
	w.reminders(t, map[string]time.Time{name: due})
}

// A late event is recorded, and decides nothing until due.
func TestLateBeforeDue(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.passTo(t, t0.Add(plan.Timeout))
	w.add(t, "eastus")
	w.wrote(t, "register", "save", "save")
	if st := w.status(t); st.Status != replication.Collecting || !slices.Equal(st.Missing, []replication.Region{"japaneast"}) {
		t.Errorf("after a late event: %+v", st)
	}
	w.passTo(t, due.Add(-1))
	w.wrote(t)
	w.passTo(t, due)
	w.wrote(t, "save", "publish n1/timedOut", "save", "index", "unregister")
	w.missing(t, replication.TimedOut, "eastus", "japaneast") // eastus is there by now, and was late
	w.add(t, "japaneast")
	w.published(t, replication.TimedOut, replication.Recovered)
	w.missing(t, replication.Recovered)
	w.reminders(t, nil)
}

// A late event that completes the set decides both outcomes, in one save.
func TestLateCompletesBeforeDue(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.passTo(t, t0.Add(plan.Timeout+time.Second))
	w.wrote(t, "register", "save", "save")
	w.add(t, "japaneast")
	w.wrote(t, "save", "publish n1/timedOut", "publish n1/recovered", "index", "unregister")
	w.missing(t, replication.TimedOut, "japaneast")
	w.missing(t, replication.Recovered)
	w.reminders(t, nil)
}

// In time is what was accepted before the deadline, whenever it comes.
func TestAcceptedInTime(t *testing.T) {
	deadline := t0.Add(plan.Timeout)
	for _, tt := range []struct {
		name     string
		accepted time.Time
		comes    time.Time
		want     []replication.Status
	}{
		{"just before it is due", deadline.Add(-1), due.Add(-1), []replication.Status{replication.Replicated}},
		{"after it is due, and before the reminder", deadline.Add(-1), due.Add(time.Hour), []replication.Status{replication.Replicated}},
		{"accepted at the deadline", deadline, due.Add(-1), []replication.Status{replication.TimedOut, replication.Recovered}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.add(t, "westeurope")
			w.add(t, "eastus")
			w.Now = tt.comes
			w.addTo(t, w.actor(), accepted("japaneast", tt.accepted))
			w.pass(t, time.Hour)
			w.published(t, tt.want...)
			w.check(t, plan.Expected)
		})
	}
	t.Run("behind a late one", func(t *testing.T) {
		w := newWorld()
		w.add(t, "westeurope")
		w.Now = deadline
		w.add(t, "eastus")
		w.addTo(t, w.actor(), accepted("japaneast", deadline.Add(-1)))
		w.published(t, replication.TimedOut, replication.Recovered)
		w.missing(t, replication.TimedOut, "eastus")
	})
	t.Run("after timedOut", func(t *testing.T) {
		w := timedOut(t)
		w.addTo(t, w.actor(), accepted("eastus", deadline.Add(-1)))
		w.addTo(t, w.actor(), accepted("japaneast", deadline.Add(-1)))
		w.published(t, replication.TimedOut, replication.Recovered)
		w.missing(t, replication.TimedOut, "eastus", "japaneast")
	})
}

// The one reminder of a record that changes after its outcome is a new one, which is
// registered before the save, and fires soon.
func TestLateAfterTimedOut(t *testing.T) {
	w := timedOut(t)
	old := w.state(t).Reminder
	w.Now = w.Now.Add(time.Minute)
	w.Fail = fake.At(2, fake.Crashed)
	if !w.add(t, "eastus") {
		t.Fatal("refused")
	}
	w.wrote(t, "register", "save", "index")
	name := w.state(t).Reminder
	if name == old {
		t.Errorf("the new reminder is called %s like the old one", name)
	}
	w.reminders(t, map[string]time.Time{name: w.Now.Add(Soon)})
	w.Fail = nil
	w.pass(t, Soon)
	w.wrote(t, "index", "unregister")
	w.reminders(t, nil)
	w.published(t, replication.TimedOut)

	// Two in one instant have two.
	w.add(t, "japaneast")
	w.wrote(t, "register", "save", "publish n1/recovered", "index", "unregister")
	if next := w.state(t).Reminder; next == name || next == old {
		t.Errorf("the third reminder is called %s, as one of %s, %s", next, old, name)
	}
}

// The removal of a reminder that is under way, or lost, takes no other's, and keeps
// nobody from his.
func TestRemovalAndALateEvent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		removal fake.Failure
		delay   time.Duration
	}{
		{"lost", fake.Lost, 0},
		{"reported lost", fake.Reported, 0},
		{"after the late event", fake.Late, 2 * time.Second},
		{"after the late event's reminder", fake.Late, 15 * time.Second},
		{"much later", fake.Late, 2 * time.Minute},
	} {
		for _, broker := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, broker %v", tt.name, broker), func(t *testing.T) {
				w := newWorld()
				w.Delay = tt.delay
				w.add(t, "westeurope")
				w.add(t, "eastus")
				removals := 0
				w.Fail = func(_ int, what string) fake.Failure {
					if what == "unregister" {
						if removals++; removals == 1 {
							return tt.removal
						}
					}
					if !broker && what == "publish n1/recovered" && w.Now.Before(due.Add(time.Second+Soon)) {
						return fake.Lost
					}
					return fake.None
				}
				w.passTo(t, due.Add(time.Second))
				if !w.add(t, "japaneast") {
					t.Fatal("refused")
				}
				soon := w.Now.Add(Soon)
				w.passTo(t, soon)
				w.published(t, replication.TimedOut, replication.Recovered)
				if at := w.PublishedAt["n1/recovered"]; at.After(soon) {
					t.Errorf("recovered is published at %v, want it by %v", at, soon)
				}
				w.pass(t, time.Hour)
				w.published(t, replication.TimedOut, replication.Recovered)
				w.check(t, plan.Expected)
			})
		}
	}
}

// What the broker did not take behind the last save, the reminder publishes, and saves
// that before it goes.
func TestPublicationLostAfterTheLastSave(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed} {
		t.Run(how.String(), func(t *testing.T) {
			w := newWorld()
			w.add(t, "westeurope")
			w.add(t, "eastus")
			w.wrote(t, "register", "save", "save")
			w.Fail = fake.At(1, how)
			if !w.add(t, "japaneast") {
				t.Fatal("refused")
			}
			w.wrote(t, "save", "publish n1/replicated")
			w.Fail = nil
			w.reminders(t, map[string]time.Time{w.state(t).Reminder: due})
			w.passTo(t, due)
			w.wrote(t, "publish n1/replicated", "save", "index", "unregister")
			if s := w.state(t); len(s.Unpublished()) != 0 || s.Status() != replication.Replicated {
				t.Errorf("saved %+v", s)
			}
			w.check(t, plan.Expected)
		})
	}
}

// Whatever the reminder could not do, it does a period later, and not more than that.
func TestReminderGoesOn(t *testing.T) {
	all := []string{"save", "publish n1/timedOut", "save", "index", "unregister"}
	for _, tt := range []struct {
		name  string
		lost  int // which of all
		again []string
	}{
		{"the outcome", 0, all},
		{"the publication", 1, all[1:]},
		{"that it is published", 2, all[1:]},
		{"the index", 3, all[3:]},
		{"the removal", 4, all[3:]},
	} {
		for _, how := range []fake.Failure{fake.Lost, fake.Crashed} {
			t.Run(tt.name+" "+how.String(), func(t *testing.T) {
				w := newWorld()
				w.add(t, "westeurope")
				w.Writes = nil
				w.Fail = fake.At(tt.lost, how)
				w.passTo(t, due)
				w.wrote(t, all[:tt.lost+1]...)
				w.Fail = nil
				again := tt.again
				if how == fake.Crashed { // it was done
					again = map[int][]string{0: all[1:], 1: all[1:], 2: all[3:], 3: all[3:], 4: nil}[tt.lost]
				}
				w.pass(t, Period-1)
				w.wrote(t)
				w.pass(t, 1)
				w.wrote(t, again...)
				w.reminders(t, nil)
				w.missing(t, replication.TimedOut, "eastus", "japaneast")
			})
		}
	}
}

// A reminder that is more than three minutes ahead is advanced before an outcome
// relies on it: the same one, for there may be no other.
func TestReminderFarAhead(t *testing.T) {
	const timeout = time.Hour
	due := t0.Add(timeout + 30*time.Second)
	for _, tt := range []struct {
		name   string
		before time.Duration // due
		want   []string
	}{
		{"far", time.Hour, []string{"register", "save", "publish n1/replicated", "index", "unregister"}},
		{"just far enough", 3*time.Minute + 1, []string{"register", "save", "publish n1/replicated", "index", "unregister"}},
		{"near", 3 * time.Minute, []string{"save", "publish n1/replicated", "index", "unregister"}},
		{"overdue", -time.Second, []string{"save", "publish n1/replicated", "index", "unregister"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.timeout = timeout
			w.add(t, "westeurope")
			name := w.state(t).Reminder
			w.Now = due.Add(-tt.before)
			w.addTo(t, w.actor(), accepted("eastus", t0.Add(time.Second))) // decides nothing, and advances nothing
			w.wrote(t, "register", "save", "save")
			w.reminders(t, map[string]time.Time{name: due})

			fires := due
			w.Before = func(_ int, what string) {
				if what != "save" {
					return
				}
				if tt.want[0] == "register" {
					fires = w.Now.Add(Soon)
				}
				w.reminders(t, map[string]time.Time{name: fires})
			}
			w.addTo(t, w.actor(), accepted("japaneast", t0.Add(time.Second)))
			w.wrote(t, tt.want...)
			w.reminders(t, nil)
			if got := w.state(t).Reminder; got != name {
				t.Errorf("relies on %s, not on %s", got, name)
			}
		})
	}
}

// An outcome does not wait for a reminder that is far ahead: whatever fails in the
// turn that decides it, it is on the topic soon.
func TestOutcomeAdvancesTheReminder(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed, fake.Late} {
		for after, what := range []string{"register", "save", "publish", "index", "unregister"} {
			t.Run(what+" "+how.String(), func(t *testing.T) {
				w := newWorld()
				w.timeout = time.Hour
				w.Delay = 2 * time.Second
				w.add(t, "westeurope")
				w.pass(t, 10*time.Minute)
				w.add(t, "eastus")
				w.Writes = nil
				w.Fail = fake.At(after, how)
				for tries := 0; !w.add(t, "japaneast"); tries++ {
					if tries > 0 {
						t.Fatal("twice refused")
					}
				}
				if w.Writes[after] != what && !strings.HasPrefix(w.Writes[after], what+" ") {
					t.Fatalf("writes %q", w.Writes)
				}
				w.pass(t, Soon)
				if got := slices.Compact(slices.Clone(w.Topic)); !slices.Equal(got, []string{"n1/replicated"}) {
					t.Errorf("topic %v after %q", w.Topic, w.Writes)
				}
				w.pass(t, 2*time.Hour)
				w.check(t, plan.Expected)
			})
		}
	}
}

// A reminder that was advanced for nothing waits for due like any other.
func TestAdvancedForNothing(t *testing.T) {
	w := newWorld()
	w.timeout = time.Hour
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.wrote(t, "register", "save", "save")
	w.Fail = fake.At(1, fake.Lost)
	if w.add(t, "japaneast") {
		t.Fatal("accepted without a save")
	}
	w.Fail = nil
	w.wrote(t, "register", "save")
	w.pass(t, time.Hour+30*time.Second-1)
	w.wrote(t)
	w.pass(t, 30*time.Second)
	w.wrote(t, "save", "publish n1/timedOut", "save", "index", "unregister")
	w.check(t, plan.Expected[:2])
}

// Who adds no outcome publishes nothing, and leaves what an earlier turn could not
// publish to the reminder.
func TestLateEventWithoutAnOutcome(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.Fail = lose("publish")
	w.passTo(t, due)
	w.Fail = nil
	w.wrote(t, "register", "save", "save", "publish n1/timedOut")
	old := w.state(t).Reminder
	if !w.add(t, "eastus") {
		t.Fatal("refused")
	}
	w.wrote(t, "register", "save")
	name := w.state(t).Reminder
	w.reminders(t, map[string]time.Time{old: due.Add(Period), name: due.Add(Soon)})
	w.pass(t, Soon)
	w.wrote(t, "publish n1/timedOut", "save", "index", "unregister")
	w.missing(t, replication.TimedOut, "eastus", "japaneast")
	w.pass(t, Period)
	w.wrote(t, "unregister") // the old one, which nobody relies on
	w.reminders(t, nil)
	w.published(t, replication.TimedOut)
}

// Who adds an outcome publishes all that the record does not show as published, in
// order.
func TestRecoveryPublishesTheTimeout(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.Fail = lose("publish")
	w.passTo(t, due)
	w.wrote(t, "register", "save", "save", "save", "publish n1/timedOut")
	w.Fail = nil
	w.add(t, "japaneast")
	w.wrote(t, "register", "save", "publish n1/timedOut", "publish n1/recovered", "index", "unregister")
	w.pass(t, time.Hour)
	w.check(t, plan.Expected)

	// A timeout that the broker refuses holds up what comes after it.
	w = newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.Fail = lose("publish n1/timedOut")
	w.passTo(t, due)
	w.add(t, "japaneast")
	w.published(t)
	w.Fail = nil
	w.pass(t, time.Hour)
	w.published(t, replication.TimedOut, replication.Recovered)
	w.check(t, plan.Expected)
}

// Reads take no turn, decide nothing and repair nothing, whatever the time.
func TestReadsTakeNoTurn(t *testing.T) {
	w := newWorld()
	client := &Client{Records: w, Index: w} // without a way to an actor
	image := catalog.Image{Registry: "contoso.azurecr.io", Repository: "shop/cart", Digest: "sha256:aa", Tag: "v1"}
	read := func(want replication.Status) {
		t.Helper()
		n := len(w.Writes)
		st, err := client.Status(t.Context(), "n1")
		if err != nil || st.Status != want {
			t.Errorf("status: got %s, %v, want %s", st.Status, err, want)
		}
		if got, err := client.Original(t.Context(), "n1"); err != nil || got != event("eastus").Original {
			t.Errorf("original: got %q, %v", got, err)
		}
		if found, err := client.Find(t.Context(), image); err != nil || !reflect.DeepEqual(found, st) {
			t.Errorf("by image: got %+v, %v, want %+v", found, err, st)
		}
		if len(w.Writes) != n || len(w.Topic) != 0 {
			t.Errorf("wrote %q", w.Writes[n:])
		}
	}
	w.add(t, "eastus")
	if err := w.World.Send(catalog.Entries(image, "n1", t0), catalog.Listed{})(t.Context()); err != nil {
		t.Fatal(err)
	}
	read(replication.Collecting)
	w.Now = due.Add(time.Hour)
	read(replication.Collecting)
	w.Fail = lose("publish")
	w.pass(t, 0)
	read(replication.TimedOut)
}

func TestReadsFail(t *testing.T) {
	w := newWorld()
	w.add(t, "eastus")
	w.World.Send(catalog.Entries(catalog.Image{Registry: "contoso.azurecr.io", Repository: "shop/cart", Tag: "v1"}, "n1", t0), catalog.Listed{})(t.Context())
	read := map[string]func() error{
		"status":   func() error { _, err := w.client().Status(t.Context(), "n1"); return err },
		"original": func() error { _, err := w.client().Original(t.Context(), "n1"); return err },
		"image": func() error {
			_, err := w.client().Find(t.Context(), catalog.Image{Registry: "contoso.azurecr.io", Repository: "shop/cart", Tag: "v1"})
			return err
		},
	}
	for name, do := range read {
		t.Run(name, func(t *testing.T) {
			w.FailRead = func(int, string) fake.Failure { return fake.Lost }
			if err := do(); !errors.Is(err, fake.Err) || errors.Is(err, ErrNotFound) {
				t.Errorf("the store is away: %v", err)
			}
			w.FailRead = nil
			for _, broken := range []string{"{", "{}", `{"actor":{"first":{"id":"n1"}}}`} {
				good := w.Records["n1"]
				w.Records["n1"] = []byte(broken)
				if err := do(); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("a record %s: %v", broken, err)
				}
				w.Records["n1"] = good
			}
			if err := do(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	for name, do := range read {
		delete(w.Records, "n1")
		if err := do(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
}

// The same reminder that fires twice at once decides once: of two saves of one
// version one is refused. Before any of its calls another firing may come, and run to
// its end.
func TestTheSameReminderTwiceAtOnce(t *testing.T) {
	calls := []string{"load", "save", "publish n1/timedOut", "load", "save", "index", "unregister"}
	for at, what := range calls {
		t.Run("before "+what, func(t *testing.T) {
			w := newWorld()
			w.add(t, "westeurope")
			name := w.state(t).Reminder
			w.Now = due
			w.Writes, w.Calls = nil, nil
			var second error
			w.Before = func(n int, call string) {
				if n != at {
					return
				}
				if call != what {
					t.Errorf("call %d is %s", n, call)
				}
				w.Before = nil
				second = fake.Fire(t.Context(), w.actor().Remind, "n1", name)
			}
			first := fake.Fire(t.Context(), w.actor().Remind, "n1", name)
			if second != nil || w.Before != nil {
				t.Errorf("the second firing: %v", second)
			}
			if refused := errors.Is(first, actor.ErrConflict); refused != (what == "save" && at == 1) || first != nil && !refused {
				t.Errorf("the first firing: %v", first)
			}
			if first != nil {
				w.published(t, replication.TimedOut)
			}
			if err := fake.Fire(t.Context(), w.actor().Remind, "n1", name); err != nil { // Dapr tries again
				t.Errorf("the third firing: %v", err)
			}
			w.Writes = nil
			w.pass(t, time.Hour)
			w.wrote(t)
			if got := slices.Compact(slices.Clone(w.Topic)); !slices.Equal(got, []string{"n1/timedOut"}) || len(w.Topic) > 2 {
				t.Errorf("topic %q", w.Topic)
			}
			w.check(t, plan.Expected[:1])
			if s := w.state(t); len(s.Unpublished()) != 0 {
				t.Errorf("saved %+v", s)
			}
		})
	}
}

// Of two events at once one is refused: it is decided again with what the other has
// saved, once.
func TestTwoEventsAtOnce(t *testing.T) {
	w := newWorld()
	a := w.actor()
	told := 0
	a.Concluded = func(string) { told++ }
	others := func(regions ...replication.Region) {
		w.Before = func(_ int, what string) {
			if what == "save" && len(regions) > 0 {
				before := w.Before
				w.Before = nil
				w.add(t, regions[0])
				w.Before, regions = before, regions[1:]
			}
		}
	}

	others("eastus", "japaneast")
	turn, err := a.add(t.Context(), "n1", addBody(t, event("westeurope")))
	if !errors.Is(err, actor.ErrConflict) || turn.After != nil || turn.Reply != nil {
		t.Errorf("twice: %s, %v", turn.Reply, err)
	}
	w.wrote(t, "register", "register", "save", "save", "save", "save") // two of the saves are refused
	if len(w.sent) != 4 || told != 0 {
		t.Errorf("sent %q, told of %d outcomes", w.sent, told)
	}

	w.add(t, "westeurope")
	w.check(t, plan.Expected)

	w = newWorld()
	for _, tt := range []struct{ other, region replication.Region }{{"westeurope", "westeurope"}, {"eastus", "japaneast"}} {
		others(tt.other)
		if !w.addTo(t, w.actor(), event(tt.region)) {
			t.Errorf("%s while %s is saved: it is not safe", tt.region, tt.other)
		}
	}
	w.check(t, plan.Expected)
}

// That an outcome is published is saved in what is there by then, and into nothing
// that cannot be read.
func TestPublishedIsSavedInWhatIsThere(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.Writes = nil
	w.Before = func(_ int, what string) {
		if what == "publish n1/timedOut" {
			w.Before = nil
			w.add(t, "japaneast")
		}
	}
	w.passTo(t, due)
	w.Before = nil
	s := w.state(t)
	if s.Status() != replication.Recovered || !s.Outcomes[0].Published {
		t.Errorf("saved %+v", s)
	}
	w.pass(t, time.Hour)
	w.check(t, plan.Expected)

	// A replica of the store lags, or the record has expired.
	w = newWorld()
	w.Fail = lose("publish")
	one := plan.Expected[:1]
	if _, err := w.client().Add(t.Context(), event(one[0]), replication.Awaited{Expected: one}); err != nil {
		t.Fatal(err)
	}
	w.Fail = nil
	w.FailRead = func(n int, _ string) fake.Failure { return map[int]fake.Failure{2: fake.Stale}[n] }
	w.pass(t, Soon)
	if len(w.Records) != 1 || len(w.Reminders) != 1 {
		t.Errorf("after a read of nothing: records %q, reminders %v", slices.Collect(maps.Keys(w.Records)), w.Reminders)
	}
	w.FailRead = nil
	w.pass(t, Period)
	w.check(t, one)
}

// Who cannot read decides nothing.
func TestLoadFails(t *testing.T) {
	w := newWorld()
	w.FailRead = fake.At(0, fake.Lost)
	if w.add(t, "westeurope") {
		t.Error("accepted")
	}
	w.wrote(t)
	w.FailRead = nil
	w.add(t, "westeurope")
	w.wrote(t, "register", "save")
	name := w.state(t).Reminder
	w.Now = due
	w.FailRead = fake.At(0, fake.Lost)
	if err := fake.Fire(t.Context(), w.actor().Remind, "n1", name); !errors.Is(err, fake.Err) {
		t.Errorf("a firing: %v", err)
	}
	w.wrote(t)
	w.FailRead = fake.At(1, fake.Lost) // before it saves what is published
	if err := fake.Fire(t.Context(), w.actor().Remind, "n1", name); err != nil {
		t.Error(err)
	}
	w.wrote(t, "save", "publish n1/timedOut")
	w.FailRead = nil
	if len(w.Reminders) != 1 {
		t.Errorf("reminders %v", w.Reminders)
	}
	w.pass(t, Period)
	w.check(t, plan.Expected[:1])
}

// Every turn that saves sends the names of the image to the index, and no other one.
func TestIndexIsSentByEveryTurnThatSaves(t *testing.T) {
	w := newWorld()
	a := w.actor()
	names := []string{"n1 sha256:aa", "n1 v1"}
	sent := func(what string, want bool) {
		t.Helper()
		if want && !slices.Equal(w.sent, names) || !want && len(w.sent) != 0 {
			t.Errorf("%s: sent %q", what, w.sent)
		}
		w.sent = nil
	}
	w.addTo(t, a, event("westeurope"))
	sent("the first event", true)
	w.addTo(t, a, event("westeurope"))
	sent("a duplicate", false)
	w.addTo(t, a, event("eastus"))
	sent("another region", true)
	w.Fail = lose("save")
	w.addTo(t, a, event("japaneast"))
	sent("a save that is lost", false)
	w.Fail = nil
	differs := event("eastus")
	differs.Digest = "sha256:bb"
	w.addTo(t, a, differs)
	sent("a region that says something else", true)
	if err := fake.Fire(t.Context(), a.Remind, "n1", w.state(t).Reminder); err != nil {
		t.Fatal(err)
	}
	sent("a firing before it is due", false)
	w.passTo(t, due)
	sent("timedOut", true)
	w.addTo(t, a, event("japaneast"))
	sent("recovered", true)
}

// An index that cannot be written keeps the reminder, which goes on trying.
func TestIndexIsNotSettled(t *testing.T) {
	w := newWorld()
	w.Fail = lose("index")
	for _, r := range plan.Expected {
		if !w.add(t, r) {
			t.Fatal("refused")
		}
	}
	w.wrote(t, "register", "save", "save", "save", "publish n1/replicated", "index")
	name := w.state(t).Reminder
	w.reminders(t, map[string]time.Time{name: due})
	w.passTo(t, due)
	w.wrote(t, "publish n1/replicated", "save", "index") // the record did not show it
	w.reminders(t, map[string]time.Time{name: due.Add(Period)})
	w.pass(t, 2*Period)
	w.wrote(t, "index", "index")
	w.Fail = nil
	w.pass(t, Period)
	w.wrote(t, "index", "unregister")
	w.check(t, plan.Expected)
}

// Each outcome is told where it is saved, once.
func TestConcludedIsTold(t *testing.T) {
	w := newWorld()
	a := w.actor()
	var told []string
	a.Concluded = func(id string) { told = append(told, id) }
	for _, r := range plan.Expected {
		if len(told) != 0 {
			t.Errorf("told before %s", r)
		}
		w.addTo(t, a, event(r))
	}
	w.addTo(t, a, event("eastus"))
	if want := []string{"n1"}; !slices.Equal(told, want) {
		t.Errorf("replicated: told %q, want %q", told, want)
	}

	w, told = newWorld(), nil
	w.addTo(t, a, event("eastus"))
	a.Records, a.Reminders, a.Topic, a.Catalog, a.Now = w, w, w, w, func() time.Time { return w.Now }
	w.addTo(t, a, event("eastus"))
	w.Fail = lose("save")
	w.Pass(due.Sub(w.Now), "n1", func(name string) error { return fake.Fire(t.Context(), a.Remind, "n1", name) })
	if len(told) != 0 {
		t.Errorf("told of an outcome that is not saved: %q", told)
	}
	w.Fail = nil
	w.Pass(time.Hour, "n1", func(name string) error { return fake.Fire(t.Context(), a.Remind, "n1", name) })
	if want := []string{"n1"}; !slices.Equal(told, want) {
		t.Errorf("timedOut: told %q, want %q", told, want)
	}
}

// Who wants what ACR sent gets that, byte by byte, of the first region.
func TestOriginal(t *testing.T) {
	w := newWorld()
	if got, err := w.client().Original(t.Context(), "n1"); got != "" || !errors.Is(err, ErrNotFound) {
		t.Errorf("of nothing: %q, %v", got, err)
	}
	w.add(t, "eastus")
	other := event("westeurope")
	other.Original = "other"
	w.addTo(t, w.actor(), other)
	if got, err := w.client().Original(t.Context(), "n1"); got != event("eastus").Original || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRefusalWritesNothing(t *testing.T) {
	w := newWorld()
	_, err := w.client().Add(t.Context(), event("mars"), plan.Awaited)
	var refused *RefusedError
	if !errors.As(err, &refused) || !slices.Equal(refused.Expected, plan.Expected) {
		t.Errorf("first event: %v", err)
	}
	if _, err := w.client().Status(t.Context(), "n1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("status: %v", err)
	}
	w.wrote(t)
	w.add(t, "eastus")
	w.wrote(t, "register", "save")
	if _, err = w.client().Add(t.Context(), event("mars"), plan.Awaited); !errors.As(err, &refused) {
		t.Errorf("later event: %v", err)
	}
	w.wrote(t)
	if len(w.sent) != 2 {
		t.Errorf("sent %q", w.sent)
	}
}

// An answer that does not show the event is no promise to pass on.
func TestAnswerOfAnother(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	other := event("eastus")
	other.ID = "n2"
	for _, e := range []replication.Event{other, event("eastus")} {
		client := &Client{Actors: answersWith{w, event("westeurope")}}
		if result, err := client.Add(t.Context(), e, plan.Awaited); err == nil {
			t.Errorf("%s of %s: %+v", e.Region, e.ID, result)
		}
	}
}

// answersWith asks for another event than that which it was given.
type answersWith struct {
	*world
	event replication.Event
}

func (a answersWith) Invoke(ctx context.Context, _, method string, _ []byte) ([]byte, error) {
	body, err := json.Marshal(NewMessage(a.event, plan.Awaited))
	if err != nil {
		return nil, err
	}
	return a.world.Invoke(ctx, a.event.ID, method, body)
}

// A duplicate changes nothing, and nothing follows it, whatever there is to do.
func TestDuplicateWritesNothing(t *testing.T) {
	duplicate := func(t *testing.T, w *world) {
		t.Helper()
		w.Writes, w.sent = nil, nil
		turn, err := w.actor().add(t.Context(), "n1", addBody(t, event("eastus")))
		var r reply
		if json.Unmarshal(turn.Reply, &r); err != nil || r.Reason != replication.Duplicate || turn.After != nil {
			t.Errorf("%s, %v", turn.Reply, err)
		}
		w.wrote(t)
		if len(w.sent) != 0 {
			t.Errorf("sent %q", w.sent)
		}
	}
	t.Run("collecting", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		duplicate(t, w)
		if result, err := w.client().Add(t.Context(), event("eastus"), plan.Awaited); err != nil || result.New() {
			t.Errorf("%+v, %v", result, err)
		}
		w.Now = due.Add(time.Hour) // the reminder is late
		duplicate(t, w)
		if st := w.status(t); st.Status != replication.Collecting {
			t.Errorf("a duplicate decides %s", st.Status)
		}
	})
	t.Run("unpublished", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		w.Fail = lose("publish")
		w.passTo(t, due)
		w.Fail = nil
		duplicate(t, w)
	})
	t.Run("replicated", func(t *testing.T) {
		w := newWorld()
		for _, r := range plan.Expected {
			w.add(t, r)
		}
		duplicate(t, w)
	})
	t.Run("a region that was not expected then", func(t *testing.T) {
		w := newWorld()
		if _, err := w.client().Add(t.Context(), event("eastus"), replication.Awaited{Expected: plan.Expected[:2]}); err != nil {
			t.Fatal(err)
		}
		w.wrote(t, "register", "save")
		if result, err := w.client().Add(t.Context(), event("japaneast"), plan.Awaited); err != nil || result.Reason != replication.NotAwaited {
			t.Errorf("%+v, %v", result, err)
		}
		w.wrote(t)
	})
	t.Run("another digest is written once", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		w.Writes = nil
		differs := event("eastus")
		differs.Digest = "sha256:bb"
		w.addTo(t, w.actor(), differs)
		w.wrote(t, "save")
		w.addTo(t, w.actor(), differs)
		w.wrote(t)
	})
}

func TestBrokenInputToTheActor(t *testing.T) {
	w := newWorld()
	for _, body := range []string{"", "{", `{"event":{"id":"other","region":"eastus"}}`} {
		if _, err := w.actor().add(t.Context(), "n1", []byte(body)); err == nil {
			t.Errorf("add %q: no error", body)
		}
	}
	for _, broken := range []string{"{", "{}", "null", `{"actor":{"first":{"id":"n1"}}}`} {
		w.Records["n1"] = []byte(broken)
		if turn, err := w.actor().add(t.Context(), "n1", addBody(t, event("eastus"))); err == nil || turn.After != nil {
			t.Errorf("an event over %s: %s, %v", broken, turn.Reply, err)
		}
		if err := fake.Fire(t.Context(), w.actor().Remind, "n1", "check-1"); err == nil {
			t.Errorf("a reminder of %s: no error", broken)
		}
	}
	w.wrote(t)
}

func (w *world) check(t *testing.T, accepted []replication.Region) {
	t.Helper()
	s := w.state(t)
	for _, r := range accepted {
		if slices.Contains(s.Missing(), r) {
			t.Errorf("%s was accepted and is missing", r)
		}
	}
	if s.Status() == replication.Collecting {
		t.Errorf("stuck: %s", s.Status())
	}
	if len(w.Reminders) != 0 {
		t.Errorf("a reminder is left: %v", w.Reminders)
	}
	var want []string
	for _, o := range s.Outcomes {
		want = append(want, EventID("n1", o.Status))
	}
	var got []string // each for the first time
	for _, id := range w.Topic {
		if !slices.Contains(got, id) {
			got = append(got, id)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("topic: %v, outcomes %v", w.Topic, want)
	}
	for name, image := range map[string]catalog.Image{"digest": {Registry: "contoso.azurecr.io", Repository: "shop/cart", Digest: "sha256:aa"}, "tag": {Registry: "contoso.azurecr.io", Repository: "shop/cart", Tag: "v1"}, "both": {Registry: "contoso.azurecr.io", Repository: "shop/cart", Digest: "sha256:aa", Tag: "v1"}} {
		if st, err := w.client().Find(t.Context(), image); err != nil || st.ID != "n1" {
			t.Errorf("by %s: %q, %v", name, st.ID, err)
		}
	}
	if len(w.Records) != 1 {
		t.Errorf("records of %q", slices.Collect(maps.Keys(w.Records)))
	}
}

// A broker that is down for a while costs no webhook anything but time.
func TestBrokerDown(t *testing.T) {
	w := newWorld()
	a := w.actor()
	a.Topic = brokenTopic{}
	for _, r := range plan.Expected {
		if !w.addTo(t, a, event(r)) {
			t.Fatalf("%s is refused", r)
		}
	}
	if len(w.Topic) != 0 || len(w.Reminders) != 1 {
		t.Fatalf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
	w.passTo(t, due) // the broker is back
	w.check(t, plan.Expected)
}

type brokenTopic struct{}

func (brokenTopic) Publish(context.Context, string, []byte) error { return fake.Err }

// While the scheduler was frozen, a first event's turn was given up. Its reminder was
// registered all the same, fired, found no notification, and its removal came when the
// event had come again and had been saved.
func TestARemovalCannotTakeAnotherTurnsReminder(t *testing.T) {
	w := newWorld()
	w.Fail = fake.Orphan
	w.Delay = 2 * time.Second
	if w.add(t, "eastus") {
		t.Fatal("accepted without a reminder")
	}
	for len(w.Writes) < 2 || w.Writes[len(w.Writes)-1] != "unregister" {
		if w.pass(t, time.Second); w.Now.After(t0.Add(5 * time.Minute)) {
			t.Fatalf("the reminder of nothing stays: %q", w.Writes)
		}
	}
	w.Fail = nil
	if !w.add(t, "eastus") {
		t.Fatal("refused")
	}
	w.pass(t, 10*time.Minute)
	if want := []string{"n1/timedOut"}; !slices.Equal(w.Topic, want) || len(w.Reminders) != 0 {
		t.Errorf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
}

// A save that was given up comes when the reminder has fired already, and found
// nothing. A short timeout lets the reminder fire before that.
func TestAReminderWaitsForItsState(t *testing.T) {
	w := newWorld()
	w.timeout = 2 * time.Second
	w.Fail = func(_ int, what string) fake.Failure {
		if what == "save" {
			return fake.Late
		}
		return fake.None
	}
	w.Delay = 35 * time.Second
	if w.add(t, "eastus") {
		t.Fatal("accepted without a state")
	}
	w.Fail = nil
	w.pass(t, 34*time.Second)
	if want := []string{"load", "register", "save", "load", "load"}; !slices.Equal(w.Calls, want) {
		t.Errorf("before the state comes: got %q, want %q", w.Calls, want)
	}
	w.pass(t, 10*time.Minute)
	if want := []string{"n1/timedOut"}; !slices.Equal(w.Topic, want) || len(w.Reminders) != 0 {
		t.Errorf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
}

// After a hard restart the scheduler is deaf for 20 s. A webhook whose event is
// saved must be answered all the same, at once; what follows holds the actor no longer
// than an event waits before it is queued, and what settles it does not hold it.
func TestDeafAfterTheSave(t *testing.T) {
	for name, deafen := range map[string]func(*Actor, deaf){
		"topic":      func(a *Actor, d deaf) { a.Topic = d },
		"index":      func(a *Actor, d deaf) { a.Catalog = d },
		"unregister": func(a *Actor, d deaf) { a.Reminders = d },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				for _, r := range plan.Expected[:2] {
					w.add(t, r)
				}
				a := w.actor()
				deafen(a, deaf{w})
				begin := time.Now()
				turn, err := a.add(t.Context(), "n1", addBody(t, event(plan.Expected[2])))
				if err != nil || time.Since(begin) != 0 {
					t.Fatalf("%v after %v", err, time.Since(begin))
				}
				turn.After(context.WithoutCancel(t.Context()))
				want := map[string]time.Duration{"topic": followTimeout}[name]
				if took := time.Since(begin); took != want || took >= CallTimeout {
					t.Errorf("what follows takes %v", took)
				}
				settling, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				turn.Settle(settling)
				w.passTo(t, due) // it hears again
				w.check(t, plan.Expected)
			})
		})
	}
}

// A firing does not hold the actor until index and list are written: events come meanwhile.
func TestAFiringDoesNotWaitForTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.add(t, "westeurope")
		w.Now = due
		a := w.actor()
		a.Catalog = deaf{w}
		begin := time.Now()
		turn, err := a.Remind(t.Context(), "n1", w.state(t).Reminder)
		if err != nil || time.Since(begin) != 0 {
			t.Fatalf("%v after %v", err, time.Since(begin))
		}
		w.published(t, replication.TimedOut)
		settling, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		turn.Settle(settling)
		if time.Since(begin) != time.Second || len(w.Reminders) != 1 {
			t.Errorf("settled after %v, reminders %v", time.Since(begin), w.Reminders)
		}
	})
}

// deaf never answers.
type deaf struct{ *world }

func (deaf) Publish(ctx context.Context, _ string, _ []byte) error { <-ctx.Done(); return ctx.Err() }
func (deaf) Unregister(ctx context.Context, _, _ string) error     { <-ctx.Done(); return ctx.Err() }
func (deaf) Send([]catalog.Entry, catalog.Listed) func(context.Context) error {
	return func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
}

// recorded is a state in which everything is set.
func recorded(t *testing.T) record {
	t.Helper()
	first := event("eastus")
	first.Via = replication.ViaWebhook
	s, _ := replication.Add(replication.State{}, first, plan, t0)
	other := accepted("japaneast", t0.Add(time.Second))
	other.Digest, other.Tag, other.Time = "sha256:bb", "v2", time.Time{}
	s, _ = replication.Add(s, other, plan, t0.Add(2*time.Second))
	s, _ = replication.Tick(s, due)
	s = s.Traced(replication.State{}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 vendor=x").Published(s.Outcomes[0])
	s, _ = replication.Add(s, event("westeurope"), plan, due.Add(time.Second))
	if err := s.Check(); err != nil || s.Status() != replication.Recovered || !s.Mismatch {
		t.Fatalf("%+v, %v", s, err)
	}
	return record{State: s, Reminder: "check-1", Saves: 4}
}

// What a record is read as is what it was written from, and the fields that people
// read say the same. The form of format 1 does not change, nor does that of an event
// on its way to the actor, which may wait in the queue.
func TestRecord(t *testing.T) {
	s := recorded(t)
	data, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string][]byte{fmt.Sprintf("record-%d.json", format): data, "add.json": addBody(t, accepted("japaneast", t0))} {
		if *update {
			os.WriteFile("testdata/"+file, append(got, '\n'), 0o644)
		}
		want, err := os.ReadFile("testdata/" + file)
		if err != nil || string(got) != strings.TrimSuffix(string(want), "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s, %v", file, got, want, err)
		}
	}
	if got, err := decodeRecord(data); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, s)
	}

	// Cosmos keeps numbers as 64-bit floats.
	var loose any
	json.Unmarshal(data, &loose)
	floats, _ := json.Marshal(loose)
	if !bytes.Contains(floats, []byte(`"size":9007199254740992,`)) {
		t.Fatalf("not as Cosmos does it: %s", floats)
	}
	if got, err := decodeRecord(floats); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("through Cosmos: got %+v, %v\nwant %+v", got, err, s)
	}
	if got, err := decodeRecord(nil); err != nil || got.Exists() {
		t.Errorf("nothing stored: %+v, %v", got, err)
	}
}

func TestRecordOfPeople(t *testing.T) {
	w := newWorld()
	top := map[string]string{
		"format": "1", "id": "n1", "timestamp": "2026-11-17T16:52:00.343145347Z", "action": "push", "loginServer": "contoso.azurecr.io",
		"image": "shop/cart", "tag": "v1", "digest": "sha256:aa", "mediaType": "m", "size": "9.007199254740992e+15", "status": "collecting",
		"startedAt": "2026-11-17T16:52:01.343145347Z", "deadline": "2026-11-17T16:54:01.343145347Z",
		"regions":  "[map[eventTime:2026-11-17T16:52:00.343145347Z receivedAt:2026-11-17T16:52:01.343145347Z region:eastus]]",
		"missing":  "[westeurope japaneast]",
		"mismatch": "false",
	}
	check := func(want map[string]string) {
		t.Helper()
		var record map[string]any
		if err := json.Unmarshal(w.Records["n1"], &record); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for key, value := range record {
			got[key] = fmt.Sprint(value)
		}
		if _, ok := record["actor"].(map[string]any); !ok {
			t.Errorf("the actor's own: %v", record["actor"])
		}
		delete(got, "actor")
		if !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
	w.add(t, "eastus")
	check(top)
	w.passTo(t, due)
	top["status"], top["concludedAt"], top["durationMs"] = "timedOut", "2026-11-17T16:54:31.343145347Z", "150000"
	check(top)

	// ACR gave no time.
	w = newWorld()
	e := event("eastus")
	e.Time = time.Time{}
	w.addTo(t, w.actor(), e)
	if !bytes.Contains(w.Records["n1"], []byte(`"timestamp":"2026-11-17T16:52:01.343145347Z"`)) {
		t.Errorf("%s", w.Records["n1"])
	}
}

// An image leads to its newest notification.
func TestFind(t *testing.T) {
	w := newWorld()
	client := w.client()
	add := func(id, tag, digest string) {
		for _, r := range plan.Expected {
			e := event(r)
			e.ID, e.Tag, e.Digest = id, tag, digest
			if _, err := client.Add(t.Context(), e, plan.Awaited); err != nil {
				t.Fatal(err)
			}
		}
		w.Now = w.Now.Add(time.Second)
	}
	find := func(digest, tag string) string {
		st, err := client.Find(t.Context(), catalog.Image{Registry: "contoso.azurecr.io", Repository: "shop/cart", Digest: digest, Tag: tag})
		if errors.Is(err, ErrNotFound) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		return st.ID
	}
	add("old", "v1", "sha256:aa")
	add("moved", "v1", "sha256:bb")
	add("untagged", "", "sha256:cc")
	for _, tt := range []struct{ digest, tag, want string }{
		{"sha256:aa", "", "old"}, {"sha256:bb", "", "moved"}, {"", "v1", "moved"},
		{"sha256:bb", "v1", "moved"}, {"sha256:aa", "v1", "none"}, {"sha256:cc", "", "untagged"},
		{"sha256:dd", "", "none"}, {"", "v2", "none"}, {"", "sha256:aa", "none"},
	} {
		if got := find(tt.digest, tt.tag); got != tt.want {
			t.Errorf("digest %q, tag %q: %s, want %s", tt.digest, tt.tag, got, tt.want)
		}
	}
	if _, err := client.Find(t.Context(), catalog.Image{Registry: "contoso.azurecr.io", Repository: "shop/car", Tag: "tv1"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another repository: %v", err)
	}
	// A newer push is one of the same tag, and no other.
	for _, tt := range []struct{ id, want string }{{"old", "moved"}, {"moved", ""}, {"untagged", ""}} {
		st, err := client.Status(t.Context(), tt.id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := client.Newer(t.Context(), st); err != nil || got != tt.want {
			t.Errorf("newer than %s: %q, %v, want %q", tt.id, got, err, tt.want)
		}
		// The index may not have the notification yet.
		st.ID, st.StartedAt = "newest", st.StartedAt.Add(time.Hour)
		if got, err := client.Newer(t.Context(), st); err != nil || got != "" {
			t.Errorf("newer than the newest: %q, %v", got, err)
		}
	}

	// A record that has expired leaves an index that leads nowhere.
	delete(w.Records, "untagged")
	if got := find("sha256:cc", ""); got != "none" {
		t.Errorf("leads nowhere: %s", got)
	}
}

func TestCloudEvent(t *testing.T) {
	w := newWorld()
	for _, r := range plan.Expected {
		w.add(t, r)
		w.Now = w.Now.Add(1500 * time.Millisecond)
	}
	const want = `{
  "specversion": "1.0",
  "id": "n1/replicated",
  "source": "https://contoso.azurecr.io",
  "type": "acr.replication.completed",
  "subject": "shop/cart:v1",
  "datacontenttype": "application/json",
  "time": "2026-11-17T16:52:04.343145347Z",
  "data": {
    "id": "n1",
    "action": "push",
    "registry": "contoso.azurecr.io",
    "repository": "shop/cart",
    "tag": "v1",
    "digest": "sha256:aa",
    "mediaType": "m",
    "size": 9007199254740993,
    "status": "replicated",
    "startedAt": "2026-11-17T16:52:01.343145347Z",
    "deadline": "2026-11-17T16:54:01.343145347Z",
    "concludedAt": "2026-11-17T16:52:04.343145347Z",
    "durationMs": 3000,
    "regions": [
      {
        "region": "westeurope",
        "receivedAt": "2026-11-17T16:52:01.343145347Z",
        "eventTime": "2026-11-17T16:52:00.343145347Z"
      },
      {
        "region": "eastus",
        "receivedAt": "2026-11-17T16:52:02.843145347Z",
        "eventTime": "2026-11-17T16:52:00.343145347Z"
      },
      {
        "region": "japaneast",
        "receivedAt": "2026-11-17T16:52:04.343145347Z",
        "eventTime": "2026-11-17T16:52:00.343145347Z"
      }
    ],
    "missing": [],
    "mismatch": false
  }
}`
	var got bytes.Buffer
	json.Indent(&got, w.Events["n1/replicated"], "", "  ")
	if got.String() != want {
		t.Errorf("got %s", &got)
	}
}

func TestCloudEventWithoutTagAndRegistry(t *testing.T) {
	e := event("eastus")
	e.Tag, e.Registry = "", ""
	s, _ := replication.Add(replication.State{}, e, plan, t0)
	s, d := replication.Tick(s, t0.Add(time.Hour))
	id, data, err := cloudEvent(s, d.New[0])
	if err != nil || id != "n1/timedOut" {
		t.Fatal(id, err)
	}
	for _, want := range []string{`"subject":"shop/cart@sha256:aa"`, `"source":"urn:azure:containerregistry"`,
		`"type":"acr.replication.timedout"`, `"missing":["westeurope","japaneast"]`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in %s", want, data)
		}
	}
}

// eventLog is ACR's record of what it has fired.
type eventLog struct {
	fired []replication.Event
	err   error
	slow  time.Duration
	asked []string
}

func (l *eventLog) Fired(ctx context.Context, registry, id string, _ time.Time, regions []replication.Region) ([]replication.Event, error) {
	if registry != "contoso.azurecr.io" {
		return nil, errors.New("another registry")
	}
	l.asked = append(l.asked, fmt.Sprint(regions))
	select {
	case <-time.After(l.slow):
		return l.fired, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func logged(r replication.Region, at time.Time) replication.Event {
	e := event(r)
	e.ReceivedAt, e.Via = at, replication.ViaEventLog
	return e
}

// What ACR has fired and we never got is no reason for an alarm.
func TestEventLogIsAskedBeforeTheTimeout(t *testing.T) {
	other := logged("japaneast", t0)
	other.ID = "n2"
	inTime := logged("eastus", t0.Add(time.Second))
	missing := []replication.Region{"eastus", "japaneast"}
	timedOut := []replication.Status{replication.TimedOut}
	for _, tt := range []struct {
		name    string
		log     eventLog
		took    time.Duration
		topic   []replication.Status
		missing []replication.Region // in timedOut
	}{
		{"all were fired", eventLog{fired: []replication.Event{inTime, logged("japaneast", t0.Add(9*time.Second))}}, 0, []replication.Status{replication.Replicated}, nil},
		{"one was fired", eventLog{fired: []replication.Event{inTime}}, 0, timedOut, missing[1:]},
		{"one was fired, the other not read", eventLog{fired: []replication.Event{inTime}, err: fake.Err}, 0, timedOut, missing[1:]},
		{"fired after the deadline", eventLog{fired: []replication.Event{inTime, logged("japaneast", t0.Add(plan.Timeout))}}, 0, []replication.Status{replication.TimedOut, replication.Recovered}, missing[1:]},
		{"fired in the other order", eventLog{fired: []replication.Event{logged("japaneast", t0.Add(plan.Timeout)), inTime}}, 0, []replication.Status{replication.TimedOut, replication.Recovered}, missing[1:]},
		{"one was fired after the deadline", eventLog{fired: []replication.Event{logged("japaneast", t0.Add(plan.Timeout))}}, 0, timedOut, missing},
		{"nothing was fired", eventLog{}, 0, timedOut, missing},
		{"of another notification", eventLog{fired: []replication.Event{other}}, 0, timedOut, missing},
		{"ARM is broken", eventLog{err: fake.Err}, 0, timedOut, missing},
		{"ARM is silent", eventLog{slow: time.Hour}, eventLogTimeout, timedOut, missing},
		{"ARM is slow", eventLog{slow: 7 * time.Second}, 7 * time.Second, timedOut, missing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.add(t, "westeurope")
				w.Writes = nil
				w.Now = due
				a := w.actor()
				a.EventLog = &tt.log
				told := 0
				a.Concluded = func(string) { told++ }
				begin := time.Now()
				if err := fake.Fire(t.Context(), a.Remind, "n1", w.state(t).Reminder); err != nil || time.Since(begin) != tt.took || tt.took > 10*time.Second {
					t.Errorf("%v after %v", err, time.Since(begin))
				}
				if want := []string{fmt.Sprint(missing)}; !slices.Equal(tt.log.asked, want) {
					t.Errorf("asked for %q, want %q", tt.log.asked, want)
				}
				w.published(t, tt.topic...)
				if told != 1 {
					t.Errorf("told of the end %d times", told)
				}
				if tt.missing != nil {
					w.missing(t, replication.TimedOut, tt.missing...)
				}
				for _, arrival := range w.state(t).Arrivals[1:] {
					if arrival.Via != replication.ViaEventLog {
						t.Errorf("%+v", arrival)
					}
				}
				if w.Writes[0] != "save" || len(w.state(t).Unpublished()) != 0 {
					t.Errorf("writes %q, saved %+v", w.Writes, w.state(t))
				}
				w.reminders(t, nil)
			})
		})
	}
}

// Who gives each region an id of its own is told so when a notification times out.
func TestOtherNotificationOfTheImage(t *testing.T) {
	for name, tt := range map[string]struct {
		region replication.Region // of the other one
		digest string
		fails  bool
		want   bool
	}{
		"a missing region": {"japaneast", "sha256:aa", false, true},
		"a region that is there: it is a push of its own": {"westeurope", "sha256:aa", false, false},
		"another image":     {"japaneast", "sha256:bb", false, false},
		"the store is away": {"japaneast", "sha256:aa", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.add(t, "westeurope")
			w.Now = w.Now.Add(time.Second)
			other := event(tt.region)
			other.ID, other.Digest = "n2", tt.digest
			w.addTo(t, w.actor(), other)
			newest := catalog.Entries(catalog.Image{Registry: other.Registry, Repository: other.Repository, Tag: other.Tag}, other.ID, w.Now)
			if err := w.World.Send(newest, catalog.Listed{})(t.Context()); err != nil {
				t.Fatal(err)
			}

			var log bytes.Buffer
			a := w.actor()
			a.Finder, a.Log = w, slog.New(slog.NewTextHandler(&log, nil))
			w.Now = due
			if tt.fails {
				w.FailRead = func(n int, _ string) fake.Failure { return map[bool]fake.Failure{true: fake.Lost}[n > 1] }
			}
			if err := fake.Fire(t.Context(), a.Remind, "n1", w.state(t).Reminder); err != nil && !tt.fails {
				t.Error(err)
			}
			if got := strings.Contains(log.String(), "level=ERROR"); got != tt.want {
				t.Errorf("told: %v, want %v:\n%s", got, tt.want, &log)
			}
			if want := `msg="the missing regions are in another notification of the same image" notification=n1 other=n2 regions=[japaneast]`; tt.want && !strings.Contains(log.String(), want) {
				t.Errorf("no %s in\n%s", want, &log)
			}
		})
	}
}

// Only a reminder asks, and only when the notification is due.
func TestWhenTheEventLogIsAsked(t *testing.T) {
	w, log := newWorld(), &eventLog{}
	a := w.actor()
	a.EventLog = log
	asked := func(what string, want int) {
		t.Helper()
		if got := len(log.asked); got != want {
			t.Errorf("%s: asked %d times, want %d", what, got, want)
		}
	}
	remind := func() {
		t.Helper()
		if err := fake.Fire(t.Context(), a.Remind, "n1", w.state(t).Reminder); err != nil {
			t.Error(err)
		}
	}
	w.addTo(t, a, event("westeurope"))
	w.Now = due.Add(-1)
	remind()
	asked("a firing before due", 0)
	w.Now = due
	w.addTo(t, a, event("westeurope"))
	w.addTo(t, a, event("eastus"))
	asked("events when it is due", 0)
	w.Fail = lose("publish")
	remind()
	asked("a firing at due", 1)
	w.Fail = nil
	remind()
	asked("a firing after the outcome", 1)
	w.addTo(t, a, event("japaneast"))
	asked("a late event", 1)
	w.published(t, replication.TimedOut, replication.Recovered)
}
