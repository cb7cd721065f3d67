package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

const contoso = "contoso"

// turns is everything outside the actor, and two processes that do its work at once.
type turns struct {
	*fake.World
	woken int
	did   []string // the work, by whom, in order
}

func newTurns() *turns { return &turns{World: fake.New(t0)} }

func (w *turns) actor() *Actor {
	return &Actor{Records: w, Reminders: w, Wake: func(string) { w.woken++ }, Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}
}

func (w *turns) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := w.actor().Methods()[method](ctx, id, body)
	return turn.Reply, err
}

func (w *turns) call(t *testing.T, holder, method string, m result) (record, reply, error) {
	return call(t.Context(), w, contoso, method, request{Holder: holder, Duties: Duties{Webhooks: true}, Result: m})
}

// work is a process that asks for work, and does it.
func (w *turns) work(t *testing.T, holder string) error {
	r, answer, err := w.call(t, holder, methodTake, result{})
	for err == nil && answer.Decision.granted() {
		m := result{Work: answer.Due[0].Work, Asked: r.Asked}
		if m.Work == readReplicas {
			m.Observed = &observed{Home: "westeurope", Replicas: []word{{Region: "westeurope", State: "Succeeded"}}}
		} else {
			m.Webhooks = map[replication.Region]hook{"westeurope": {Name: "w", Registered: true}}
		}
		w.did = append(w.did, holder+" "+answer.Due[0].String())
		r, answer, err = w.call(t, holder, methodReturn, m)
	}
	return err
}

// pass lets the time pass. Whoever is woken works.
func (w *turns) pass(t *testing.T, d time.Duration, holder string) {
	t.Helper()
	for _, err := range w.Pass(d, contoso, func(name string) error {
		woken := w.woken
		err := w.actor().Remind(t.Context(), contoso, name)
		if w.woken > woken {
			err = errors.Join(err, w.work(t, holder))
		}
		return err
	}) {
		t.Error(err)
	}
}

func (w *turns) record(t *testing.T) record {
	t.Helper()
	r, err := decodeRecord(w.Records[contoso])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The work is given out to one process at a time, and is done in its time.
func TestWorkIsGivenOut(t *testing.T) {
	w := newTurns()
	_, answer, err := w.call(t, "a", methodTake, result{})
	if err != nil || answer.Decision != taken || fmt.Sprint(answer.Due) != "[replicas: first]" || !slices.Equal(w.Writes, []string{"register", "save"}) {
		t.Fatalf("%+v, %v, %q", answer, err, w.Writes)
	}
	if _, answer, _ = w.call(t, "b", methodTake, result{}); answer.Decision != held || answer.Due != nil || len(w.Writes) != 2 {
		t.Errorf("while a has it: %+v, %q", answer, w.Writes)
	}
	w.pass(t, time.Minute, "b") // a has died
	w.pass(t, time.Hour, "b")
	if want := []string{"b replicas: first", "b webhooks: first", "b replicas: interval"}; !slices.Equal(w.did[:3], want) || len(w.did) != 9 || w.did[8] != "b webhooks: interval" {
		t.Errorf("%q, want %q, and so on", w.did, want)
	}
	if r := w.record(t); r.Lease != (lease{}) || len(w.Reminders) != 1 || w.woken != 61 {
		t.Errorf("%+v, %v, woken %d times", r.Lease, w.Reminders, w.woken)
	}

	// What a comes back with is refused, and changes nothing.
	writes := len(w.Writes)
	if _, answer, err = w.call(t, "a", methodReturn, result{Work: readReplicas, Observed: &observed{LoginServer: "old"}}); err != nil || answer.Decision != lost || len(w.Writes) != writes {
		t.Errorf("%+v, %v, %q", answer, err, w.Writes[writes:])
	}
}

// An unexpected region has the replicas read once, and not within a minute of the last time.
func TestRecheckTurn(t *testing.T) {
	w := newTurns()
	if err := w.work(t, "a"); err != nil {
		t.Fatal(err)
	}
	step := func(after time.Duration, holder, method string, m result, want string) (r record) {
		t.Helper()
		w.Now = t0.Add(after)
		r, answer, err := w.call(t, holder, method, m)
		if got := fmt.Sprintf("%s %v, asked %v", answer.Decision, answer.Due, !r.Asked.IsZero()); err != nil || got != want {
			t.Errorf("%s of %s after %v: got %s, %v, want %s", method, holder, after, got, err, want)
		}
		return r
	}
	step(recheckInterval-1, "b", methodRecheck, result{}, "idle [], asked false")
	r := step(recheckInterval, "b", methodRecheck, result{}, "taken [replicas: asked], asked true")
	if again := step(recheckInterval+1, "c", methodRecheck, result{}, "held [], asked true"); !again.Asked.Equal(r.Asked) {
		t.Errorf("asked at %v, then at %v", r.Asked, again.Asked)
	}
	step(recheckInterval+2, "b", methodReturn, result{Work: readReplicas, Asked: r.Asked, Error: "429", RetryAfter: 10 * time.Minute}, "done [], asked false")
	step(5*time.Minute, "b", methodRecheck, result{}, "idle [], asked false") // ARM wants to be left alone
}

// Whatever becomes of a write, the work is done at last, and one reminder is left.
func TestEachWriteOfTheRegistryCanFail(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed, fake.Late} {
		for n := range 6 {
			t.Run(fmt.Sprintf("write %d %v", n, how), func(t *testing.T) {
				w := newTurns()
				w.Fail, w.Delay = fake.At(n, how), 20*time.Second
				crashed := true
				func() {
					defer fake.Survive()
					for try := 0; w.work(t, "a") != nil && try < 3; try++ { // as Worker.Run does
						w.Now = w.Now.Add(startPause)
					}
					crashed = false
				}()
				if crashed { // it starts again, under a new name
					if err := w.work(t, "b"); err != nil {
						t.Fatal(err)
					}
				}
				w.pass(t, 15*time.Minute, "c")
				r := w.record(t)
				if w.Now.Sub(r.Replicas.At) > 11*time.Minute || r.Webhooks.At.IsZero() || r.Lease != (lease{}) {
					t.Errorf("%+v", r)
				}
				if _, ok := w.Reminders[fake.Reminder{ID: contoso, Name: r.Reminder}]; !ok || len(w.Reminders) != 1 {
					t.Errorf("reminders %v, the record names %s", w.Reminders, r.Reminder)
				}
			})
		}
	}
}

// Turns can overlap while the actor moves: the one that loaded an old record fails.
func TestTurnsOfTheRegistryOverlap(t *testing.T) {
	w := newTurns()
	w.Before = func(n int, what string) {
		if what == "save" {
			w.Before = nil
			if err := w.work(t, "b"); err != nil {
				t.Error(err)
			}
		}
	}
	if err := w.work(t, "a"); !errors.Is(err, actor.ErrConflict) {
		t.Errorf("%v", err)
	}
	if r := w.record(t); r.Replicas.At.IsZero() || !slices.Equal(w.did, []string{"b replicas: first", "b webhooks: first"}) {
		t.Errorf("%+v, %q", r, w.did)
	}
}

// A reminder that the scheduler has lost is set again when work is overdue.
func TestLostReminderOfTheRegistry(t *testing.T) {
	w := newTurns()
	if err := w.work(t, "a"); err != nil {
		t.Fatal(err)
	}
	clear(w.Reminders)
	w.Now = w.Now.Add(every[readReplicas] - slack + stalledAfter - time.Second)
	if r := w.record(t); stalled(r, Duties{}, w.Now) || !stalled(r, Duties{}, w.Now.Add(time.Second)) {
		t.Errorf("%+v", r)
	}
	w.Now = w.Now.Add(time.Second)
	if err := w.work(t, "b"); err != nil || len(w.Reminders) != 1 {
		t.Errorf("%v, %v", err, w.Reminders)
	}
	writes := len(w.Writes)
	if err := w.work(t, "a"); err != nil || len(w.Writes) != writes {
		t.Errorf("%v, %q", err, w.Writes[writes:])
	}
}

func TestRegistryRefusesNonsense(t *testing.T) {
	w := newTurns()
	for _, body := range []string{"", "{", "{}", `{"holder":3}`} {
		if _, err := w.Invoke(t.Context(), contoso, methodTake, []byte(body)); err == nil || !strings.Contains(err.Error(), "Take of registry contoso: decode: ") {
			t.Errorf("%q: %v", body, err)
		}
	}
	w.Records[contoso] = []byte(`{"format":"x"}`)
	if err := w.work(t, "a"); err == nil || len(w.Writes) != 0 {
		t.Errorf("%v, %q", err, w.Writes)
	}
}
