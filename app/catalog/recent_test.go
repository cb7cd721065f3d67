package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/replication"
)

// look is what a look finds.
type look struct {
	now  Listed
	left bool
	err  error
	hang bool // until it is given up
}

// recents are the actors of the list, and everything outside them, in memory.
type recents struct {
	*store
	turns     chan struct{} // has room for the one that runs
	now       func() time.Time
	reminders map[string]time.Time // next firing, by window and name
	looked    []string
	found     map[string]look // what a look finds, by notification
	dropped   Dropped
	rescued   int
}

func newRecents() *recents {
	return &recents{store: newStore(), turns: make(chan struct{}, 1), now: func() time.Time { return t0 }, reminders: map[string]time.Time{}, found: map[string]look{}}
}

func (r *recents) actor() *Recent {
	return &Recent{Records: r, Reminders: r, Notifications: r, Observer: r, Now: r.now, Log: slog.New(slog.DiscardHandler)}
}

// Invoke is a Dapr that gives an actor one turn at a time, and of which the calls fail
// as those of the store do.
func (r *recents) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	do := func() ([]byte, error) {
		r.turns <- struct{}{}
		defer func() { <-r.turns }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		turn, err := r.actor().Methods()[method](ctx, id, body)
		return turn.Reply, err
	}
	switch r.note("invoke", id) {
	case lost:
		return nil, errAway
	case reported:
		do()
		return nil, errAway
	case late:
		time.AfterFunc(1500*time.Millisecond, func() { do() })
		return nil, errAway
	case hangs:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return do()
}

func (r *recents) Register(_ context.Context, id, name string, due time.Time, period time.Duration) error {
	if w := r.note("register", id); w == lost || period != Period {
		return errAway
	}
	r.reminders[id+" "+name] = due
	return nil
}

func (r *recents) Unregister(_ context.Context, id, name string) error {
	if r.note("unregister", id) == lost {
		return errAway
	}
	delete(r.reminders, id+" "+name)
	return nil
}

func (r *recents) Look(ctx context.Context, id string) (Listed, bool, error) {
	r.looked = append(r.looked, id)
	l := r.found[id]
	if l.hang {
		<-ctx.Done()
		return Listed{}, false, ctx.Err()
	}
	return l.now, l.left, l.err
}

func (r *recents) Dropped(d Dropped) {
	r.dropped.Concluded += d.Concluded
	r.dropped.Open += d.Open
}

func (r *recents) Rescued() { r.rescued++ }

// add is one call with these entries.
func (r *recents) add(t *testing.T, entries ...Listed) error {
	t.Helper()
	body, err := json.Marshal(map[string]any{"entries": entries})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.actor().add(t.Context(), theWindow, body)
	return err
}

// window is what is stored.
func (r *recents) window(t *testing.T, id string) window {
	t.Helper()
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	w, err := decodeWindow(r.records[id].value)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// listed are the notifications in a window, with their saves.
func (r *recents) listed(t *testing.T, id string) (all []string) {
	t.Helper()
	for _, e := range r.window(t, id).Entries {
		all = append(all, fmt.Sprint(e.ID, " ", e.Saves))
	}
	return all
}

// reminder is the one that the window names, and when it fires; it complains of others.
func (r *recents) reminder(t *testing.T) (name string, at time.Time) {
	t.Helper()
	w := r.window(t, theWindow)
	at, ok := r.reminders[theWindow+" "+w.Reminder]
	if want := map[bool]int{true: 1}[ok]; len(r.reminders) != want || ok == w.Fires.IsZero() {
		t.Errorf("reminders %v, the record names %q, which fires at %v", r.reminders, w.Reminder, w.Fires)
	}
	return w.Reminder, at
}

var update = flag.Bool("update", false, "write the testdata of this format")

// theWindow is that of t0.
const theWindow = "2026-11-17T16:50Z"

// listing is an entry of the nth notification, after so many saves, at the last of which
// it had that status.
func listing(n, saves int, status replication.Status) Listed {
	at := t0.Add(time.Duration(n) * time.Millisecond)
	l := Listed{ID: fmt.Sprintf("n%d", n), Saves: saves, StartedAt: at}
	if status == replication.Collecting {
		l.Due = at.Add(150 * time.Second)
	}
	l.Status = fmt.Appendf(nil, `{"id":%q,"registry":"contoso.azurecr.io","repository":"shop/cart","tag":"v%d","status":%q,"startedAt":%q,"deadline":%q,"regions":[{"region":"westeurope","receivedAt":%q}],"missing":["eastus"]}`,
		l.ID, n, status, at.Format(time.RFC3339Nano), at.Add(2*time.Minute).Format(time.RFC3339Nano), at.Format(time.RFC3339Nano))
	return l
}

func TestWindowID(t *testing.T) {
	for at, want := range map[time.Time]string{
		t0:                                     theWindow,
		t0.In(time.FixedZone("", 5*3600+1800)): theWindow,
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC):      "2026-01-01T00:00Z",
		time.Date(2025, 12, 31, 23, 59, 59, 9, time.UTC): "2025-12-31T23:50Z",
	} {
		if got := windowID(at); got != want {
			t.Errorf("%v: got %s, want %s", at, got, want)
		}
	}
}

// Whatever the order, of two entries the one after more saves stands, and what is no news
// is not saved.
func TestLaterEntryStands(t *testing.T) {
	r := newRecents()
	add := func(want []string, saves int, entries ...Listed) {
		t.Helper()
		before := r.records[theWindow].n
		if err := r.add(t, entries...); err != nil {
			t.Fatal(err)
		}
		if got := r.listed(t, theWindow); !slices.Equal(got, want) || r.records[theWindow].n-before != saves {
			t.Errorf("got %q after %d saves, want %q", got, r.records[theWindow].n-before, want)
		}
	}
	add([]string{"n1 2"}, 1, listing(1, 2, replication.Replicated))
	add([]string{"n1 2"}, 0, listing(1, 1, replication.Collecting))
	add([]string{"n1 2"}, 0, listing(1, 2, replication.Collecting))
	add([]string{"n1 2", "n2 1"}, 1, listing(2, 1, replication.Collecting), listing(1, 1, replication.Collecting))
	add([]string{"n1 2", "n2 3"}, 1, listing(2, 3, replication.Recovered), listing(2, 2, replication.TimedOut))
	if _, at := r.reminder(t); !at.Equal(listing(2, 1, replication.Collecting).Due.Add(time.Minute)) {
		t.Errorf("the reminder fires at %v", at)
	}
	for _, body := range []string{"", "[]", `{"entries":[1]}`, `{"entries":[{"id":1}]}`} {
		if _, err := r.actor().add(t.Context(), theWindow, []byte(body)); err == nil {
			t.Errorf("%s: no error", body)
		}
	}
}

// A window has its bounds. What is concluded goes first, the oldest of it, and then the
// oldest; the observer counts.
func TestBounds(t *testing.T) {
	var many []Listed
	big := func(n int, status replication.Status) Listed {
		l := listing(n, 1, status)
		l.Status = fmt.Appendf(nil, `{"id":%q,"note":%q}`, l.ID, strings.Repeat("x", maxBytes/4))
		return l
	}
	small := func(n int, status replication.Status) Listed {
		l := listing(n, 1, status)
		l.Status = json.RawMessage(`{}`)
		return l
	}
	for n := range maxListed {
		many = append(many, small(n, map[bool]replication.Status{true: replication.Collecting, false: replication.Replicated}[n%2 == 0]))
	}
	var open []Listed
	for n := range maxListed + 3 {
		open = append(open, small(n, replication.Collecting))
	}
	for _, tt := range []struct {
		name    string
		entries []Listed
		gone    []string
		dropped Dropped
	}{
		{"as many as there may be", many, nil, Dropped{}},
		{"two more", append(slices.Clone(many), small(5000, replication.Collecting), small(5001, replication.Replicated)), []string{"n1", "n3"}, Dropped{Concluded: 2}},
		{"all are open", open, []string{"n0", "n1", "n2"}, Dropped{Open: 3}},
		{"too large", []Listed{big(0, replication.Collecting), big(1, replication.Replicated), big(2, replication.Replicated), big(3, replication.Replicated)}, []string{"n1"}, Dropped{Concluded: 1}},
		{"too large, and open", []Listed{big(0, replication.Collecting), big(1, replication.Collecting), big(2, replication.Collecting), big(3, replication.Replicated), big(4, replication.Collecting)}, []string{"n3", "n0"}, Dropped{Concluded: 1, Open: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecents()
			if err := r.add(t, tt.entries...); err != nil {
				t.Fatal(err)
			}
			w := r.window(t, theWindow)
			for _, l := range tt.entries {
				there := slices.ContainsFunc(w.Entries, func(e entry) bool { return e.ID == l.ID })
				if gone := slices.Contains(tt.gone, l.ID); gone == there {
					t.Errorf("%s: there %v", l.ID, there)
				}
			}
			if len(w.Entries)+len(tt.gone) != len(tt.entries) || r.dropped != tt.dropped {
				t.Errorf("%d entries, dropped %+v, want %+v", len(w.Entries), r.dropped, tt.dropped)
			}
			if size := len(r.records[theWindow].value); size > maxBytes+maxListed+1000 {
				t.Errorf("%d bytes", size)
			}
		})
	}
}

// The reminder fires when the first entry is overdue, and is there before the entry.
func TestReminderBeforeTheEntry(t *testing.T) {
	r := newRecents()
	if err := r.add(t, listing(1, 3, replication.Replicated)); err != nil || len(r.reminders) != 0 {
		t.Fatalf("nothing is open: reminders %v, %v", r.reminders, err)
	}
	r.becomes = func(call, _ string, _ int) what {
		if call == "register" {
			return lost
		}
		return done
	}
	if err := r.add(t, listing(2, 1, replication.Collecting)); !errors.Is(err, errAway) {
		t.Fatalf("got %v", err)
	}
	if got := r.listed(t, theWindow); len(got) != 1 {
		t.Fatalf("without a reminder: %q", got)
	}
	r.becomes = nil
	r.add(t, listing(2, 1, replication.Collecting))
	name, at := r.reminder(t)
	if want := listing(2, 1, replication.Collecting).Due.Add(patience); !at.Equal(want) {
		t.Errorf("fires at %v, want %v", at, want)
	}
	r.add(t, listing(3, 1, replication.Collecting)) // later
	if again, _ := r.reminder(t); again != name {
		t.Errorf("another reminder, %q", again)
	}
	sooner := listing(1, 5, replication.Collecting)
	sooner.Due = t0.Add(time.Second) // the timeout is shorter now
	r.add(t, sooner)
	delete(r.reminders, theWindow+" "+name) // an orphan, which removes itself
	if again, at := r.reminder(t); again == name || !at.Equal(sooner.Due.Add(patience)) {
		t.Errorf("reminder %q fires at %v", again, at)
	}
}

// remind fires the window's reminder then.
func (r *recents) remind(t *testing.T, at time.Time) error {
	t.Helper()
	name, _ := r.reminder(t)
	r.now = func() time.Time { return at }
	r.looked = nil
	err := r.actor().Remind(t.Context(), theWindow, name)
	slices.Sort(r.looked)
	return err
}

// Only what is overdue by two periods is looked at, until nothing is left for its
// reminder; then the window's reminder goes.
func TestSecondNet(t *testing.T) {
	r := newRecents()
	r.add(t, listing(1, 1, replication.Collecting), listing(2, 3, replication.Replicated), listing(200000, 1, replication.Collecting))
	overdue := listing(1, 1, replication.Collecting).Due.Add(patience)
	look1 := func(l Listed, left bool, err error) { r.found["n1"] = look{now: l, left: left, err: err} }
	step := func(name string, at time.Time, looked []string, watched []string, rescued int) {
		t.Helper()
		r.rescued = 0
		if err := r.remind(t, at); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if w := r.window(t, theWindow); !slices.Equal(r.looked, looked) || !slices.Equal(w.Watched, watched) || r.rescued != rescued {
			t.Errorf("%s: looked at %q, watches %q, rescued %d", name, r.looked, w.Watched, r.rescued)
		}
	}
	n1 := []string{"n1"}
	step("too early", overdue.Add(-time.Nanosecond), nil, nil, 0)
	look1(Listed{}, false, errAway)
	step("the record cannot be read", overdue, n1, n1, 0)
	look1(listing(1, 1, replication.Collecting), true, nil)
	step("its reminder was lost", overdue.Add(Period), n1, n1, 1)
	step("and once more", overdue.Add(2*Period), n1, n1, 1)
	// It is decided, and the list knows; the outcome is not published, and the reminder
	// may be lost again.
	look1(listing(1, 2, replication.TimedOut), true, nil)
	r.add(t, listing(1, 2, replication.TimedOut))
	step("decided", overdue.Add(3*Period), n1, n1, 1)
	look1(listing(1, 3, replication.TimedOut), false, nil)
	step("published", overdue.Add(4*Period), n1, nil, 0)
	step("the other one is not due", overdue.Add(5*Period), nil, nil, 0)
	if got, want := r.listed(t, theWindow), []string{"n1 3", "n2 3", "n200000 1"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	// Its entry was lost on the way: the look brings it.
	r.found["n200000"] = look{now: listing(200000, 3, replication.Replicated)}
	step("the last one", overdue.Add(10*Period), []string{"n200000"}, nil, 0)
	if len(r.reminders) != 0 || !r.window(t, theWindow).Fires.IsZero() {
		t.Errorf("reminders %v of %+v", r.reminders, r.window(t, theWindow))
	}
	// What comes then has a reminder again.
	r.add(t, listing(3, 1, replication.Collecting))
	if _, at := r.reminder(t); at.IsZero() {
		t.Error("no reminder")
	}
	// A record that is gone, such as one that expired.
	step("gone", overdue.Add(20*Period), []string{"n3"}, nil, 0)
	if got, want := r.listed(t, theWindow), []string{"n1 3", "n2 3", "n200000 3"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

// What is decided and not published is watched, also if nothing else is open.
func TestWatchedUntilItIsPublished(t *testing.T) {
	r := newRecents()
	r.add(t, listing(2, 1, replication.Collecting), listing(1, 1, replication.Collecting))
	r.found["n2"] = look{now: listing(2, 2, replication.Replicated)}
	r.found["n1"] = look{now: listing(1, 2, replication.TimedOut), left: true}
	_, at := r.reminder(t)
	if want := listing(1, 1, replication.Collecting).Due.Add(patience); !at.Equal(want) {
		t.Errorf("the reminder fires at %v, want %v", at, want)
	}
	for range 2 {
		at = at.Add(Period)
		if err := r.remind(t, at); err != nil || len(r.reminders) != 1 {
			t.Fatalf("reminders %v, %v", r.reminders, err)
		}
	}
	r.found["n1"] = look{now: listing(1, 3, replication.TimedOut)}
	if err := r.remind(t, at.Add(Period)); err != nil || len(r.reminders) != 0 {
		t.Errorf("reminders %v, %v", r.reminders, err)
	}
}

// A store that hangs ends the looks of a firing, in time to save what was seen.
func TestLooksEndInTime(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRecents()
		r.add(t, listing(1, 1, replication.Collecting), listing(2, 1, replication.Collecting), listing(3, 1, replication.Collecting))
		r.found["n1"] = look{now: listing(1, 2, replication.TimedOut)}
		r.found["n2"] = look{hang: true}
		begin := time.Now()
		if err := r.remind(t, t0.Add(time.Hour)); err != nil || time.Since(begin) != lookTimeout {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if got, want := r.listed(t, theWindow), []string{"n1 2", "n2 1", "n3 1"}; !slices.Equal(got, want) || len(r.looked) != 2 || len(r.window(t, theWindow).Watched) != 0 {
			t.Errorf("listed %q, looked at %q, watches %q", got, r.looked, r.window(t, theWindow).Watched)
		}
	})
}

// A firing looks at a hundred, and the next one at others.
func TestLooksAreBounded(t *testing.T) {
	r := newRecents()
	var many []Listed
	for n := range maxLooked + 50 {
		l := listing(n, 1, replication.Collecting)
		many = append(many, l)
		r.found[l.ID] = look{now: l, left: true}
	}
	r.add(t, many...)
	seen := map[string]int{}
	for i := range 3 { // 100, 50 and 50, 100
		if err := r.remind(t, t0.Add(time.Hour)); err != nil || len(r.looked) != maxLooked {
			t.Fatalf("firing %d: %d looks, %v", i, len(r.looked), err)
		}
		for _, id := range r.looked {
			seen[id]++
		}
	}
	for n := range many {
		if id := fmt.Sprintf("n%d", n); seen[id] != 2 {
			t.Errorf("%s: %d looks", id, seen[id])
		}
	}
}

// A crash between two writes of the reminder's turn, or a write that fails, leaves
// nothing behind.
func TestReminderGoes(t *testing.T) {
	for _, failing := range []string{"save", "unregister"} {
		t.Run(failing+" fails", func(t *testing.T) {
			r := newRecents()
			r.add(t, listing(1, 1, replication.Collecting))
			r.add(t, listing(1, 2, replication.Replicated))
			name, at := r.reminder(t)
			r.becomes = func(call, _ string, _ int) what {
				if call == failing {
					return lost
				}
				return done
			}
			if err := r.remind(t, at); !errors.Is(err, errAway) || len(r.reminders) != 1 {
				t.Fatalf("got %v, reminders %v", err, r.reminders)
			}
			r.becomes = nil
			if err := r.actor().Remind(t.Context(), theWindow, name); err != nil || len(r.reminders) != 0 {
				t.Errorf("got %v, reminders %v", err, r.reminders)
			}
		})
	}
	r := newRecents()
	r.add(t, listing(1, 1, replication.Collecting))
	orphan := actor.ReminderName(t0.Add(-time.Hour), "")
	young := actor.ReminderName(t0.Add(-time.Second), "")
	for _, name := range []string{orphan, young} {
		r.reminders[theWindow+" "+name] = t0
		if err := r.actor().Remind(t.Context(), theWindow, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := r.reminders[theWindow+" "+young]; !ok {
		t.Error("a reminder is gone whose record may be on its way")
	}
	delete(r.reminders, theWindow+" "+young)
	if _, at := r.reminder(t); at.IsZero() {
		t.Error("the window's own reminder is gone")
	}
}

// This version reads the window that it writes, byte by byte the one in testdata, and
// keeps what a newer one has added to the window, its entries and their statuses.
func TestWindowFormat(t *testing.T) {
	r := newRecents()
	r.add(t, listing(1, 1, replication.Collecting), listing(2, 3, replication.Replicated))
	r.found["n1"] = look{now: listing(1, 1, replication.Collecting), left: true}
	if err := r.remind(t, t0.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("testdata/window-%d.json", format)
	if *update {
		os.WriteFile(file, append(slices.Clone(r.records[theWindow].value), '\n'), 0o644)
	}
	want, err := os.ReadFile(file)
	if got := string(r.records[theWindow].value) + "\n"; err != nil || got != string(want) {
		t.Errorf("got\n%s\nwant\n%s, %v", got, want, err)
	}

	newer := strings.NewReplacer(`{"format":1,`, `{"format":1,"new":[1],`, `{"id":"n1","saves"`, `{"new":2,"id":"n1","saves"`,
		`{"id":"n2","saves"`, `{"new":4,"id":"n2","saves"`, `"status":{"id":"n2"`, `"status":{"new":5,"id":"n2"`).Replace(string(want))
	r.records[theWindow] = record{[]byte(newer), 1}
	if err := r.add(t, listing(1, 2, replication.TimedOut), listing(3, 1, replication.Replicated)); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Format  int
		New     json.RawMessage
		Entries []struct {
			ID     string
			Saves  int
			Due    *time.Time
			New    json.RawMessage
			Status struct {
				ID, Status string
				New        json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(r.records[theWindow].value, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Entries) != 3 || string(got.New) != "[1]" || got.Format != format {
		t.Fatalf("got %s", r.records[theWindow].value)
	}
	if e := got.Entries[0]; e.Saves != 2 || e.Due != nil || e.Status.Status != "timedOut" || string(e.New) != "2" {
		t.Errorf("replaced: %+v", e)
	}
	if e := got.Entries[1]; e.Saves != 3 || string(e.New) != "4" || string(e.Status.New) != "5" {
		t.Errorf("left alone: %+v", e)
	}
	// The sender is newer than the actor.
	if _, err := r.actor().add(t.Context(), theWindow, []byte(`{"entries":[{"id":"n2","saves":4,"new":6,"status":{}}]}`)); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(r.records[theWindow].value, &got); err != nil || string(got.Entries[1].New) != "6" {
		t.Errorf("got %s, %v", r.records[theWindow].value, err)
	}
}
