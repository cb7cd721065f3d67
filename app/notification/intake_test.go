package notification

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// memoryTopic is a topic that keeps what it takes, unless it is told to fail.
type memoryTopic struct {
	ids, events []string
	fail        error
}

func (m *memoryTopic) Publish(_ context.Context, id string, event []byte) error {
	if m.fail == nil {
		m.ids, m.events = append(m.ids, id), append(m.events, string(event))
	}
	return m.fail
}

// away is a sidecar that has no way to the actors.
type away struct{ err error }

func (a away) Invoke(ctx context.Context, _, _ string, _ []byte) ([]byte, error) {
	if a.err != nil {
		return nil, a.err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (w *world) intake(actors actor.Invoker) (*Intake, *memoryTopic, *memoryTopic) {
	queue, dead := &memoryTopic{}, &memoryTopic{}
	return &Intake{Client: &Client{Actors: actors, Records: w}, Queue: queue, Dead: dead,
		Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}, queue, dead
}

// An actor that does not answer costs a webhook its patience and no more; the
// event comes back from the queue, and counts from when it came.
func TestQueueAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		blocked, queue, _ := w.intake(away{})
		for _, r := range plan.Expected {
			begin := time.Now()
			result, err := blocked.Add(t.Context(), event(r), plan.Expected)
			if err != nil || !result.Queued || !result.New() || time.Since(begin) != CallTimeout {
				t.Fatalf("%s: %+v, %v after %v", r, result, err, time.Since(begin))
			}
			w.Now = w.Now.Add(10 * time.Second)
		}
		if want := []string{"n1/westeurope", "n1/eastus", "n1/japaneast"}; !slices.Equal(queue.ids, want) || len(w.Writes) != 0 {
			t.Fatalf("queued %q, wrote %q", queue.ids, w.Writes)
		}
		w.Now = w.Now.Add(time.Hour) // long past the deadline

		open, _, dead := w.intake(w)
		for _, e := range queue.events {
			for range 2 { // brokers deliver twice
				if err := open.Deliver(t.Context(), []byte(e)); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.pass(t, time.Minute)
		w.check(t, plan.Expected)
		st := w.status(t)
		if st.Status != replication.Replicated || *st.DurationMS != 20_000 || !st.StartedAt.Equal(t0) || len(dead.ids) != 0 {
			t.Errorf("%+v, dead %q", st, dead.ids)
		}
		for _, r := range st.Regions {
			if r.Via != replication.ViaQueue {
				t.Errorf("%+v", r)
			}
		}
	})
}

// The queue's time is its own, and nobody else's if there is none.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			within time.Duration
			queue  bool
			want   time.Duration
		}{
			{4300 * time.Millisecond, true, CallTimeout},
			{3 * time.Second, true, 3*time.Second - queuePatience}, // a part of the time is gone
			{time.Second, true, 0},
			{4300 * time.Millisecond, false, 4300 * time.Millisecond},
		} {
			i, queue, _ := newWorld().intake(away{})
			if !tt.queue {
				i.Queue = nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), tt.within)
			begin := time.Now()
			result, err := i.Add(ctx, event("eastus"), plan.Expected)
			if took := time.Since(begin); took != tt.want || result.Queued != tt.queue || len(queue.ids) == 1 != tt.queue || (err == nil) != tt.queue {
				t.Errorf("%+v: %+v, %v after %v", tt, result, err, took)
			}
			cancel()
		}
	})
}

func TestBothWaysFail(t *testing.T) {
	w := newWorld()
	i, queue, _ := w.intake(away{fake.Err})
	queue.fail = errors.New("no broker")
	if result, err := i.Add(t.Context(), event("eastus"), plan.Expected); !errors.Is(err, fake.Err) || !errors.Is(err, queue.fail) {
		t.Errorf("%+v, %v", result, err)
	}
	i.Queue = nil
	if result, err := i.Add(t.Context(), event("eastus"), plan.Expected); !errors.Is(err, fake.Err) {
		t.Errorf("no queue: %+v, %v", result, err)
	}
}

// What the actor answers needs no queue, a refusal included.
func TestNothingToQueue(t *testing.T) {
	w := newWorld()
	i, queue, _ := w.intake(w)
	for region, wantErr := range map[replication.Region]bool{"eastus": false, "mars": true} {
		_, err := i.Add(t.Context(), event(region), plan.Expected)
		if _, refused := errors.AsType[*RefusedError](err); refused != wantErr || !wantErr && err != nil {
			t.Errorf("%s: %v", region, err)
		}
	}
	if len(queue.ids) != 0 {
		t.Errorf("queued %q", queue.ids)
	}
}

// The whole story with a queue: each write fails in each way, the webhook's
// event comes back as often as it must, and nothing that was answered is lost.
func TestEveryWriteFailsWithAQueue(t *testing.T) {
	story := func(t *testing.T, w *world) (accepted []replication.Region) {
		i, queue, _ := w.intake(nil)
		turn := func(do func() error) error {
			err := fake.Err // of a process that dies before it answers
			func() {
				defer fake.Survive()
				p := &process{Actor: w.actor()}
				i.Client.Actors = p
				err = do()
				p.end()
			}()
			return err
		}
		for _, r := range plan.Expected {
			turn(func() error {
				_, err := i.Add(t.Context(), event(r), plan.Expected)
				if err == nil {
					accepted = append(accepted, r)
				}
				return err
			})
			w.pass(t, 5*time.Second)
		}
		for _, e := range queue.events {
			for tries := 0; turn(func() error { return i.Deliver(t.Context(), []byte(e)) }) != nil; tries++ {
				if tries > 3 {
					t.Fatalf("%s cannot be delivered", e)
				}
			}
		}
		return accepted
	}
	clean := newWorld()
	story(t, clean)
	if len(clean.Writes) != 7 {
		t.Fatalf("writes %q", clean.Writes)
	}
	for at, what := range clean.Writes {
		for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed} {
			t.Run(fmt.Sprintf("%d %s %s", at, what, how), func(t *testing.T) {
				w := newWorld()
				w.Fail = fake.At(at, how)
				accepted := story(t, w)
				w.pass(t, time.Hour)
				want := replication.Replicated
				if len(accepted) != 3 {
					want = replication.TimedOut
					if how != fake.Crashed {
						t.Errorf("only %v got a 2xx", accepted)
					}
				}
				// ACR does not post again what died in its process; it may have been saved.
				if st := w.status(t); st.Status != want && st.Status != replication.Replicated {
					t.Errorf("got %s, want %s", st.Status, want)
				}
				w.check(t, accepted)
			})
		}
	}
}

func TestDeadLetters(t *testing.T) {
	w := newWorld()
	i, queue, dead := w.intake(away{fake.Err})
	if _, err := i.Add(t.Context(), event("mars"), plan.Expected); err != nil {
		t.Fatal(err)
	}
	i.Client.Actors = w
	for _, message := range []string{"", "{", "{}", strings.ReplaceAll(queue.events[0], "n1", "../n1"), `{"type":"acr.webhook.received","id":"x"}`,
		strings.Replace(queue.events[0], TypeReceived, "com.example.other", 1), queue.events[0]} {
		if err := i.Deliver(t.Context(), []byte(message)); err != nil {
			t.Errorf("%q: %v", message, err)
		}
		var e struct {
			Type string
			Data struct{ Reason, Message string }
		}
		if len(dead.events) == 0 {
			t.Fatalf("%q: not among the dead", message)
		}
		if err := json.Unmarshal([]byte(dead.events[len(dead.events)-1]), &e); err != nil || e.Type != TypeDead || e.Data.Message != message || e.Data.Reason == "" {
			t.Errorf("%q: %+v, %v", message, e, err)
		}
	}
	if len(dead.ids) != 7 || len(w.Writes) != 0 {
		t.Errorf("%d dead, wrote %q", len(dead.ids), w.Writes)
	}
	// One that cannot be buried comes again.
	dead.fail = fake.Err
	if err := i.Deliver(t.Context(), nil); !errors.Is(err, fake.Err) {
		t.Errorf("%v", err)
	}
	// One that can be delivered later does, too.
	i.Client.Actors = away{fake.Err}
	good, _ := envelope("n1/eastus", TypeReceived, Message{event("eastus"), plan.Expected})
	if err := i.Deliver(t.Context(), good); !errors.Is(err, fake.Err) {
		t.Errorf("%v", err)
	}
}

func FuzzDeliver(f *testing.F) {
	good, _ := envelope("n1/eastus", TypeReceived, Message{event("eastus"), plan.Expected})
	f.Add(good)
	f.Add([]byte("{"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, message []byte) {
		w := newWorld()
		i, _, dead := w.intake(w)
		if err := i.Deliver(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		if delivered := len(w.Records) > 0; delivered == (len(dead.ids) > 0) {
			t.Errorf("delivered %v, dead %q", delivered, dead.ids)
		}
		if len(dead.events) > 0 && !bytes.Contains([]byte(dead.events[0]), []byte(TypeDead)) {
			t.Errorf("%s", dead.events[0])
		}
	})
}

// An event leaves the queue only when the record shows it, whatever was said on the
// way: a reply without a turn, a save that was reported and is not there, a store that
// cannot be read.
func TestTheQueueKeepsWhatTheRecordDoesNotShow(t *testing.T) {
	for name, tt := range map[string]struct {
		forget func(w *world) // what happened is undone
		kept   bool           // the event stays in the queue
	}{
		"it is there":            {func(*world) {}, false},
		"there is no record":     {func(w *world) { clear(w.Records) }, true},
		"the record is older":    {func(w *world) { w.Records["n1"] = w.before }, true},
		"the store does not say": {func(w *world) { w.FailRead = func(int, string) fake.Failure { return fake.Lost } }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			i, queue, _ := w.intake(away{fake.Err})
			if _, err := i.Add(t.Context(), event("eastus"), plan.Expected); err != nil {
				t.Fatal(err)
			}
			w.add(t, "westeurope")
			w.before = slices.Clone(w.Records["n1"])
			i.Client.Actors = forgetful{w, func() { tt.forget(w) }}
			if err := i.Deliver(t.Context(), []byte(queue.events[0])); (err != nil) != tt.kept {
				t.Errorf("got %v, want an error: %v", err, tt.kept)
			}
		})
	}
}

// forgetful answers as the actor does, and then forgets.
type forgetful struct {
	*world
	forget func()
}

func (f forgetful) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	reply, err := f.world.Invoke(ctx, id, method, body)
	f.forget()
	return reply, err
}
