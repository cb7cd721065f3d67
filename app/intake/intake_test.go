package intake

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
	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

var (
	t0   = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)
	plan = replication.Plan{Awaited: replication.Awaited{Expected: []replication.Region{"westeurope", "eastus", "japaneast"}}, Timeout: 2 * time.Minute}
)

func event(r replication.Region) replication.Event {
	return replication.Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1", Digest: "sha256:aa", MediaType: "m", Size: 1<<53 + 1, Original: "{\"action\": \"push\"}\n", Region: r, Time: t0.Add(-time.Second)}
}

// world is everything outside an actor, in memory.
type world struct{ *fake.World }

func newWorld() world { return world{fake.New(t0)} }

func (w world) actor() *notification.Actor {
	return &notification.Actor{Records: w, Reminders: w, Topic: w, Catalog: w, Timeout: plan.Timeout,
		Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}
}

// Invoke makes the world a Dapr whose turns are over when they are answered.
func (w world) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	p := fake.Process{Methods: w.actor().Methods()}
	defer p.End()
	return p.Invoke(ctx, id, method, body)
}

// pass lets time go by, firing reminders on the way.
func (w world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range w.Pass(d, "n1", func(name string) error { return fake.Fire(t.Context(), w.actor().Remind, "n1", name) }) {
		t.Errorf("reminder: %v", err)
	}
}

func (w world) status(t *testing.T) notification.Status {
	t.Helper()
	st, err := (&notification.Client{Records: w}).Status(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// check complains if an accepted region is missing, or if anything is left to do.
func (w world) check(t *testing.T, accepted []replication.Region) {
	t.Helper()
	st := w.status(t)
	for _, r := range accepted {
		if slices.Contains(st.Missing, r) {
			t.Errorf("%s was accepted and is missing", r)
		}
	}
	if !st.Concluded() || len(w.Reminders) != 0 {
		t.Errorf("got %s with the reminders %v, want an outcome and none", st.Status, w.Reminders)
	}
	if id := notification.EventID("n1", st.Status); !slices.Contains(w.Topic, id) {
		t.Errorf("got %q on the topic, want %s", w.Topic, id)
	}
}

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

func (w world) intake(actors actor.Invoker) (*Intake, *memoryTopic, *memoryTopic) {
	queue, dead := &memoryTopic{}, &memoryTopic{}
	return &Intake{Client: &notification.Client{Actors: actors, Records: w}, Queue: queue, Dead: dead, DeadLetters: &DeadLetters{Records: fake.New(t0)},
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
			result, err := blocked.Add(t.Context(), event(r), plan.Awaited)
			if err != nil || !result.Queued || !result.New() || time.Since(begin) != queueAfter {
				t.Fatalf("%s: %+v, %v after %v", r, result, err, time.Since(begin))
			}
			w.Now = w.Now.Add(10 * time.Second)
		}
		time.Sleep(notification.CallTimeout) // the actor's calls end
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

// The queue knows which regions are optional.
func TestOptionalRegionInTheQueue(t *testing.T) {
	w := newWorld()
	i, queue, _ := w.intake(away{fake.Err})
	awaited := replication.Awaited{Expected: []replication.Region{"westeurope"}, Optional: []replication.Region{"eastus"}}
	for _, r := range awaited.All() {
		if result, err := i.Add(t.Context(), event(r), awaited); err != nil || !result.Queued {
			t.Fatal(result, err)
		}
	}
	i.Client.Actors = w
	for _, e := range queue.events {
		if err := i.Deliver(t.Context(), []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
	if st := w.status(t); st.Status != replication.Replicated || len(st.Regions) != 1 || len(st.OptionalIn()) != 1 || st.Optional[0].Region != "eastus" {
		t.Errorf("%+v", st)
	}
}

// What ACR's log had was accepted when ACR fired it, on either way.
func TestFromTheEventLog(t *testing.T) {
	for _, queued := range []bool{false, true} {
		t.Run(fmt.Sprint("queued ", queued), func(t *testing.T) {
			w := newWorld()
			w.Now = t0.Add(time.Hour)
			i, queue, _ := w.intake(w)
			if queued {
				i.Client.Actors = away{fake.Err}
			}
			for n, r := range plan.Expected {
				e := event(r)
				e.Via, e.ReceivedAt = replication.ViaEventLog, t0.Add(time.Duration(n)*time.Second)
				if result, err := i.Add(t.Context(), e, plan.Awaited); err != nil || result.Queued != queued {
					t.Fatal(result, err)
				}
			}
			i.Client.Actors = w
			for _, e := range queue.events {
				if err := i.Deliver(t.Context(), []byte(e)); err != nil {
					t.Fatal(err)
				}
			}
			st := w.status(t)
			if st.Status != replication.Replicated || !st.StartedAt.Equal(t0) || *st.DurationMS != 2000 {
				t.Errorf("%+v", st)
			}
			for _, r := range st.Regions {
				if r.Via != replication.ViaEventLog {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// What is in the queue when a new version starts must be read by that version.
func TestMessage(t *testing.T) {
	i, queue, _ := newWorld().intake(away{fake.Err})
	if _, err := i.Add(t.Context(), event("eastus"), plan.Awaited); err != nil {
		t.Fatal(err)
	}
	const want = `{"specversion":"1.0","id":"n1/eastus","source":"urn:azure:containerregistry","type":"acr.webhook.received","datacontenttype":"application/json",` +
		`"data":{"event":{"id":"n1","action":"push","registry":"contoso.azurecr.io","repository":"shop/cart","tag":"v1","digest":"sha256:aa","mediaType":"m",` +
		`"size":"9007199254740993","original":"{\"action\": \"push\"}\n","region":"eastus","time":"2026-11-17T16:52:00.343145347Z",` +
		`"receivedAt":"2026-11-17T16:52:01.343145347Z","via":"queue"},"expected":["westeurope","eastus","japaneast"]}}`
	if got := queue.events[0]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The queue has a time of its own, and without a queue the actor has all of it.
func TestTimeouts(t *testing.T) {
	for name, tt := range map[string]struct {
		within time.Duration
		queue  bool
		want   time.Duration
	}{
		"all the time":       {4300 * time.Millisecond, true, queueAfter},
		"a part of it":       {3 * time.Second, true, 3*time.Second - queueTimeout},
		"no time for actors": {time.Second, true, 0},
		"no queue":           {4300 * time.Millisecond, false, 4300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, queue, _ := newWorld().intake(away{})
				if !tt.queue {
					i.Queue = nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.within)
				defer cancel()
				begin := time.Now()
				result, err := i.Add(ctx, event("eastus"), plan.Awaited)
				took := time.Since(begin)
				time.Sleep(notification.CallTimeout) // the actor's call ends
				if took != tt.want || result.Queued != tt.queue || len(queue.ids) == 1 != tt.queue || (err == nil) != tt.queue {
					t.Errorf("got %+v, %v after %v, want %v", result, err, took, tt.want)
				}
			})
		})
	}
}

// failing fails a number of times, and is then the topic.
type failing struct {
	actor.Topic
	left int
}

func (f *failing) Publish(ctx context.Context, id string, event []byte) error {
	if f.left--; f.left >= 0 {
		return fake.Err
	}
	return f.Topic.Publish(ctx, id, event)
}

// A broker that is away for a moment costs no webhook, as long as there is time, and
// as long as the sidecar is there.
func TestBrokerAwayForAMoment(t *testing.T) {
	for name, tt := range map[string]struct {
		actors  actor.Invoker
		sidecar Sidecar
		fails   int
		queued  bool
		took    time.Duration
	}{
		"at once":                  {away{}, &dapr{}, 0, true, queueAfter},
		"in the actor's time":      {away{}, &dapr{}, 10, true, queueAfter + 10*queuePause},
		"after the actor's time":   {away{}, &dapr{}, 20, true, queueAfter + 20*queuePause},
		"for too long":             {away{}, &dapr{}, 1000, false, 4300 * time.Millisecond},
		"the actor fails at once":  {away{fake.Err}, &dapr{}, 40, true, 40 * queuePause},
		"for too long, all of it":  {away{fake.Err}, &dapr{}, 1000, false, 4300 * time.Millisecond},
		"the sidecar has gone":     {away{fake.Err}, &dapr{refuses: true}, 1, false, 0},
		"nobody knows the sidecar": {away{fake.Err}, nil, 1, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, queue, _ := newWorld().intake(tt.actors)
				i.Queue, i.Sidecar = &failing{queue, tt.fails}, tt.sidecar
				ctx, cancel := context.WithTimeout(t.Context(), 4300*time.Millisecond)
				defer cancel()
				begin := time.Now()
				result, err := i.Add(ctx, event("eastus"), plan.Awaited)
				took := time.Since(begin)
				time.Sleep(notification.CallTimeout) // the actor's call ends
				if result.Queued != tt.queued || (err == nil) != tt.queued || took != tt.took {
					t.Errorf("got %+v, %v after %v; want queued %v after %v", result, err, took, tt.queued, tt.took)
				}
			})
		})
	}
}

// slowly is an actor that answers late.
type slowly struct {
	world
	after time.Duration
}

func (s slowly) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	select {
	case <-time.After(s.after):
		return s.world.Invoke(ctx, id, method, body)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An event that waits for its actor goes to the queue as well, and who is first answers.
// The turn of one that is queued goes on. One that the actor may refuse waits for that.
func TestActorAndQueueTogether(t *testing.T) {
	for name, tt := range map[string]struct {
		region replication.Region
		after  time.Duration // the actor answers
		fails  int           // tries at the queue
		want   string
		took   time.Duration
	}{
		"the actor is quick":           {"eastus", queueAfter - 1, 0, "direct", queueAfter - 1},
		"the queue is first":           {"eastus", 2 * time.Second, 0, "queued", queueAfter},
		"the actor is first":           {"eastus", 2 * time.Second, 10, "direct", 2 * time.Second},
		"the actor is not in time":     {"eastus", 3 * time.Second, 20, "queued", queueAfter + 20*queuePause},
		"a region that is refused":     {"mars", 2 * time.Second, 0, "refused", 2 * time.Second},
		"a region that may be refused": {"mars", 3 * time.Second, 0, "queued", notification.CallTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				i, queue, _ := w.intake(slowly{w, tt.after})
				i.Queue, i.Sidecar = &failing{queue, tt.fails}, &dapr{}
				ctx, cancel := context.WithTimeout(t.Context(), 4300*time.Millisecond)
				defer cancel()
				begin := time.Now()
				result, err := i.Add(ctx, event(tt.region), plan.Awaited)
				got := "direct"
				switch {
				case refused(err):
					got = "refused"
				case err != nil:
					got = err.Error()
				case result.Queued:
					got = "queued"
				}
				if took := time.Since(begin); got != tt.want || took != tt.took {
					t.Errorf("got %s after %v, want %s after %v", got, took, tt.want, tt.took)
				}
				time.Sleep(time.Minute) // a try that is under way ends
				synctest.Wait()
				if published := tt.want == "queued" || tt.fails > 0; len(queue.ids) > 0 != published {
					t.Errorf("queued %q, want any: %v", queue.ids, published)
				}
				taken := tt.region == "eastus" && tt.after < notification.CallTimeout
				if _, ok := w.Records[event(tt.region).ID]; ok != taken {
					t.Errorf("the notification has it: %v, want %v", ok, taken)
				}
			})
		})
	}
}

func TestBothWaysFail(t *testing.T) {
	w := newWorld()
	i, queue, _ := w.intake(away{fake.Err})
	queue.fail = errors.New("no broker")
	if result, err := i.Add(t.Context(), event("eastus"), plan.Awaited); !errors.Is(err, fake.Err) || !errors.Is(err, queue.fail) {
		t.Errorf("%+v, %v", result, err)
	}
	i.Queue = nil
	if result, err := i.Add(t.Context(), event("eastus"), plan.Awaited); !errors.Is(err, fake.Err) {
		t.Errorf("no queue: %+v, %v", result, err)
	}
}

// What the actor answers needs no queue, a refusal included.
func TestNothingToQueue(t *testing.T) {
	w := newWorld()
	i, queue, _ := w.intake(w)
	for region, wantErr := range map[replication.Region]bool{"eastus": false, "mars": true} {
		_, err := i.Add(t.Context(), event(region), plan.Awaited)
		if _, refused := errors.AsType[*notification.RefusedError](err); refused != wantErr || !wantErr && err != nil {
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
	story := func(t *testing.T, w world) (accepted []replication.Region) {
		i, queue, _ := w.intake(nil)
		turn := func(do func() error) error {
			err := fake.Err // of a process that dies before it answers
			func() {
				defer fake.Survive()
				p := &fake.Process{Methods: w.actor().Methods()}
				i.Client.Actors = p
				err = do()
				p.End()
			}()
			return err
		}
		for _, r := range plan.Expected {
			turn(func() error {
				_, err := i.Add(t.Context(), event(r), plan.Awaited)
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

// received is an event as the queue has it.
func received(t testing.TB) []byte {
	t.Helper()
	topic := &memoryTopic{}
	e := event("eastus")
	e.ReceivedAt = t0
	if err := publish(t.Context(), topic, "n1/eastus", TypeReceived, notification.NewMessage(e, plan.Awaited)); err != nil {
		t.Fatal(err)
	}
	return []byte(topic.events[0])
}

func TestDeadLetters(t *testing.T) {
	w := newWorld()
	i, queue, dead := w.intake(away{fake.Err})
	if _, err := i.Add(t.Context(), event("mars"), plan.Awaited); err != nil {
		t.Fatal(err)
	}
	i.Client.Actors = w
	timeless := strings.Replace(string(received(t)), `"receivedAt":"2026`, `"since":"2026`, 1)
	for _, message := range []string{"", "{", "{}", timeless, strings.ReplaceAll(queue.events[0], "n1", "../n1"), `{"type":"acr.webhook.received","id":"x"}`,
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
	if len(dead.ids) != 8 || len(w.Writes) != 0 {
		t.Errorf("%d dead, wrote %q", len(dead.ids), w.Writes)
	}
	// A dead letter that cannot be published comes again.
	dead.fail = fake.Err
	if err := i.Deliver(t.Context(), nil); !errors.Is(err, fake.Err) {
		t.Errorf("%v", err)
	}
	// One that can be delivered later does, too.
	i.Client.Actors, dead.fail = away{fake.Err}, nil
	good := received(t)
	if err := i.Deliver(t.Context(), good); !errors.Is(err, fake.Err) {
		t.Errorf("%v", err)
	}
}

func FuzzDeliver(f *testing.F) {
	f.Add(received(f))
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
	var before []byte
	for name, tt := range map[string]struct {
		forget func(w world) // what happened is undone
		kept   bool          // the event stays in the queue
	}{
		"it is there":            {func(world) {}, false},
		"there is no record":     {func(w world) { clear(w.Records) }, true},
		"the record is older":    {func(w world) { w.Records["n1"] = before }, true},
		"the store does not say": {func(w world) { w.FailRead = func(int, string) fake.Failure { return fake.Lost } }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			i, queue, _ := w.intake(away{fake.Err})
			if _, err := i.Add(t.Context(), event("eastus"), plan.Awaited); err != nil {
				t.Fatal(err)
			}
			if _, err := (&notification.Client{Actors: w}).Add(t.Context(), event("westeurope"), plan.Awaited); err != nil {
				t.Fatal(err)
			}
			before = slices.Clone(w.Records["n1"])
			i.Client.Actors = forgetful{w, func() { tt.forget(w) }}
			if err := i.Deliver(t.Context(), []byte(queue.events[0])); (err != nil) != tt.kept {
				t.Errorf("got %v, want an error: %v", err, tt.kept)
			}
		})
	}
}

// forgetful answers as the actor does, and then forgets.
type forgetful struct {
	world
	forget func()
}

func (f forgetful) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	reply, err := f.world.Invoke(ctx, id, method, body)
	f.forget()
	return reply, err
}

// Delivered is called after each delivery, with a region only if the
// notification expects that.
func TestDelivered(t *testing.T) {
	w := newWorld()
	in, queue, _ := w.intake(away{fake.Err})
	for _, r := range []replication.Region{"eastus", "mars"} {
		if _, err := in.Add(t.Context(), event(r), plan.Awaited); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	deliver := func(actors actor.Invoker, message string) {
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
		t.Errorf("got %q, want %q", told, want)
	}
}

// The log says of each message what became of it, and the error of one that comes
// again names it.
func TestDeliveryIsLogged(t *testing.T) {
	var log bytes.Buffer
	w := newWorld()
	in, queue, _ := w.intake(away{fake.Err})
	if _, err := in.Add(t.Context(), event("eastus"), plan.Awaited); err != nil {
		t.Fatal(err)
	}
	in.Log = slog.New(slog.NewTextHandler(&log, nil))
	if err := in.Deliver(t.Context(), []byte(queue.events[0])); err == nil || !strings.HasPrefix(err.Error(), "notYet, again in 5s: deliver n1/eastus: ") || log.Len() != 0 {
		t.Errorf("%v, and the log is %s", err, &log)
	}
	in.Client.Actors = w
	for _, want := range []string{"event=n1/eastus result=started", "event=n1/eastus result=duplicate"} {
		log.Reset()
		if err := in.Deliver(t.Context(), []byte(queue.events[0])); err != nil || !strings.Contains(log.String(), want) {
			t.Errorf("%v, and the log is %s, want %s", err, &log, want)
		}
	}
	log.Reset()
	if err := in.Deliver(t.Context(), []byte("{")); err != nil || !strings.Contains(log.String(), "event=unknown/021fb596db81e6d0 result=dead") {
		t.Errorf("%v, and the log is %s", err, &log)
	}
}
