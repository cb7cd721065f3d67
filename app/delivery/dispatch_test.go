package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
	"allregions/app/target"
)

const settings = `
- {name: everybody, type: slack, url: "https://example.com/s3cr3t"}
- {name: bad-news, type: slack, url: "https://example.com/s3cr3t", outcomes: [timedOut]}
- {name: shop, type: slack, url: "https://example.com/s3cr3t", filter: 'repository.startsWith("shop/")'}
- {name: broken, type: slack, url: "https://example.com/s3cr3t", filter: 'missing[7] == "eastus"'}
- {name: as-acr, type: acr, url: "https://example.com/s3cr3t"}
`

// around is everything outside a Dispatcher: notifications, actors that answer, and
// the other side of the targets.
type around struct {
	statuses    map[string]notification.Status
	original    string
	originalErr error
	newer       string
	newerErr    error
	started     []string          // "event target", in order
	failed      []string          // likewise, of deliveries that begin as failed
	messages    map[string]string // the request of the actor, by target
	err         error             // of the actors
	requests    int               // that targets got
}

func (w *around) Status(_ context.Context, id string) (notification.Status, error) {
	st, ok := w.statuses[id]
	if !ok {
		return st, notification.ErrNotFound
	}
	return st, nil
}

func (w *around) Newer(context.Context, notification.Status) (string, error) {
	return w.newer, w.newerErr
}

func (w *around) Original(context.Context, string) (string, error) { return w.original, w.originalErr }

// RoundTrip is every target: it accepts the event.
func (w *around) RoundTrip(*http.Request) (*http.Response, error) {
	w.requests++
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
}

// Invoke is the actors.
func (w *around) Invoke(_ context.Context, id, method string, body []byte) ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	parts := strings.Split(id, ".")
	event, name := parts[0]+"/"+parts[1], parts[2]
	switch {
	case method == "Start" && bytes.Contains(body, []byte(`"error":`)):
		w.failed = append(w.failed, event+" "+name)
	case method == "Start":
		w.started = append(w.started, event+" "+name)
		w.messages[name] = string(body)
	}
	return json.Marshal(Status{Event: event, Target: name, Phase: Pending})
}

func newDispatcher(t *testing.T, w *around) (*Dispatcher, *bytes.Buffer) {
	t.Helper()
	targets, err := target.Load(settings, func(string) (string, bool) { return "", false }, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.messages = map[string]string{}
	var log bytes.Buffer
	return &Dispatcher{Targets: target.NewSet(targets, w, time.Now), Actors: w, Notifications: w,
		Log: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

// withActor gives d the actor of deliveries, in that world, and the records.
func withActor(d *Dispatcher, w *fake.World) *Actor {
	a := &Actor{Records: w, Reminders: w, Topic: w, Sender: d.Targets,
		Now: func() time.Time { return w.Now }, Random: func() float64 { return 0 }, Log: d.Log}
	d.Actors, d.Records = methods(a.Methods()), w
	return a
}

// methods are an actor's turns, called without Dapr.
type methods map[string]actor.Method

func (m methods) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := m[method](ctx, id, body)
	return turn.Reply, err
}

// begin begins a delivery without an event from the topic.
func begin(t *testing.T, d *Dispatcher, name string, m Message) {
	t.Helper()
	body, err := json.Marshal(startMessage{Target: name, Message: m})
	if err == nil {
		_, err = d.invoke(t.Context(), m.EventID, name, methodStart, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func outcome(eventType, status, repository string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"n1/%[2]s","type":%[1]q,"source":"s","pubsubname":"pubsub","topic":"t","traceparent":"x","traceid":"x","tracestate":"","data":{"id":"n1","action":"push","repository":%[3]q,"tag":"v1","status":%[2]q}}`, eventType, status, repository)
}

func TestDispatch(t *testing.T) {
	for _, tt := range []struct {
		name, event string
		want        []string
	}{
		{"replicated", outcome(notification.TypeCompleted, "replicated", "shop/cart"), []string{"everybody", "shop", "as-acr"}},
		{"another repository", outcome(notification.TypeCompleted, "replicated", "other"), []string{"everybody", "as-acr"}},
		{"timed out", outcome(notification.TypeTimedOut, "timedOut", "shop/cart"), []string{"everybody", "bad-news", "shop"}},
		{"the failure of a delivery", outcome(TypeFailed, "failed", "shop/cart"), nil},
		{"no JSON", "{", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &around{original: "the original"}
			d, log := newDispatcher(t, w)
			if err := d.Dispatch(t.Context(), []byte(tt.event)); err != nil {
				t.Error(err)
			}
			var got []string
			for _, s := range w.started {
				_, name, _ := strings.Cut(s, " ")
				got = append(got, name)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// A filter that fails is a mistake in the settings, and stops nobody else.
			if tt.want != nil && (len(w.failed) != 1 || !strings.HasSuffix(w.failed[0], " broken") || !strings.Contains(log.String(), "target=broken")) {
				t.Errorf("failed: got %q, want that to broken, and the log is\n%s", w.failed, log)
			}
			for name, message := range w.messages {
				if strings.Contains(message, "pubsubname") || strings.Contains(message, "trace") || strings.Contains(message, "the original") != (name == "as-acr") {
					t.Errorf("%s: %s", name, message)
				}
			}
		})
	}
}

// The event that a target gets is what was published: nothing but Dapr's attributes
// is missing, and every value has the bytes that it had.
func TestTheEventIsAsPublished(t *testing.T) {
	const (
		event = `{"data":{"id":"n1","status":"replicated","size":12345678901234567890,"x":1.0,"tag":"é\u003c","list":[1e2]},"id":"n1/replicated",` +
			`"ours":"7","source":"s","specversion":"1.0","time":"2026-11-22T00:33:54.100Z","type":"acr.replication.completed"}`
		added = `,"pubsubname":"p","topic":"t","traceid":"x","traceparent":"x","tracestate":""}`
	)
	for name, delivered := range map[string]string{"as Dapr delivers it": strings.TrimSuffix(event, "}") + added, "as published": event} {
		t.Run(name, func(t *testing.T) {
			got, err := asPublished([]byte(delivered))
			if string(got) != event || err != nil {
				t.Errorf("got %s, %v\nwant %s", got, err, event)
			}
		})
	}
}

// A filter that fails is one failure on the topic, however often the outcome comes,
// and takes nothing from the others. Who wants the outcome all the same can have it.
func TestAFilterFails(t *testing.T) {
	event := outcome(notification.TypeCompleted, "replicated", "shop/cart")
	const id = "n1/replicated/broken/failed/0"
	start := time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC)
	outside := fake.New(start)
	w := &around{original: "{}", statuses: map[string]notification.Status{"n1": {ID: "n1", Status: replication.Replicated}}}
	d, _ := newDispatcher(t, w)
	a := withActor(d, outside)
	pass := func() {
		for _, name := range []string{"everybody", "shop", "broken", "as-acr"} {
			actorID := ID("n1/replicated", name)
			for _, err := range outside.Pass(time.Minute, actorID, func(name string) error { return a.Remind(t.Context(), actorID, name) }) {
				t.Error(err)
			}
		}
	}

	outside.Fail = fake.At(4, fake.Lost) // the first write about broken
	if err := d.Dispatch(t.Context(), []byte(event)); !errors.Is(err, fake.Err) {
		t.Errorf("got %v, want %v: what cannot be begun must come again", err, fake.Err)
	}
	for range 2 {
		if err := d.Dispatch(t.Context(), []byte(event)); err != nil {
			t.Error(err)
		}
		pass()
	}
	if w.requests != 3 || !slices.Equal(outside.Topic, []string{id}) || len(outside.Reminders) != 0 {
		t.Fatalf("sent %d, topic %q, reminders %v", w.requests, outside.Topic, outside.Reminders)
	}
	var e struct {
		ID, Type, Subject string
		Time              time.Time
		Data              json.RawMessage
	}
	const data = `{"event":"n1/replicated","target":"broken","status":"failed","createdAt":"2026-11-22T00:33:54Z","attemptsMade":0,"attempts":[],"error":"filter of target broken: index out of bounds: 7"}`
	if err := json.Unmarshal(outside.Events[id], &e); err != nil || e.ID != id || e.Type != TypeFailed || e.Subject != "n1/replicated" || !e.Time.Equal(start) || string(e.Data) != data {
		t.Errorf("%s, %v", outside.Events[id], err)
	}
	if err := d.Dispatch(t.Context(), outside.Events[id]); err != nil || len(outside.Topic) != 1 { // it comes out of the same topic
		t.Errorf("%v, topic %q", err, outside.Topic)
	}
	if st, err := d.Again(t.Context(), "n1", "broken"); err != nil || st.Phase != Pending || st.Error != "" {
		t.Errorf("%+v, %v", st, err)
	}
	if pass(); w.requests != 4 || len(outside.Topic) != 1 {
		t.Errorf("sent %d, topic %q", w.requests, outside.Topic)
	}
}

// What cannot be begun now comes again.
func TestDispatchFails(t *testing.T) {
	away := errors.New("away")
	for name, w := range map[string]*around{"actors": {err: away}, "the record": {originalErr: away}} {
		t.Run(name, func(t *testing.T) {
			d, _ := newDispatcher(t, w)
			if err := d.Dispatch(t.Context(), []byte(outcome(notification.TypeCompleted, "replicated", "shop/cart"))); !errors.Is(err, away) {
				t.Errorf("got %v, want %v", err, away)
			}
		})
	}
}

// An outcome whose record has expired comes no better again: who wants the webhook's
// body has a delivery that fails, and nobody else is held up.
func TestDispatchWithoutARecord(t *testing.T) {
	w := &around{originalErr: notification.ErrNotFound}
	d, _ := newDispatcher(t, w)
	if err := d.Dispatch(t.Context(), []byte(outcome(notification.TypeCompleted, "replicated", "shop/cart"))); err != nil {
		t.Error(err)
	}
	if want := []string{"n1/replicated everybody", "n1/replicated shop", "n1/replicated as-acr"}; !slices.Equal(w.started, want) || strings.Contains(w.messages["as-acr"], "original") {
		t.Errorf("started %q, want %q: %s", w.started, want, w.messages["as-acr"])
	}
}

// What ACR's log had may be older than what is deployed. Then a target that deploys gets
// nothing, the delivery says why, and who wants it all the same can have it.
func TestSuperseded(t *testing.T) {
	away := errors.New("away")
	swept := strings.Replace(outcome(notification.TypeRecovered, "recovered", "shop/cart"), `"tag":"v1"`,
		`"tag":"v1","regions":[{"region":"westeurope"},{"region":"eastus","via":"event-log"}]`, 1)
	for name, tt := range map[string]struct {
		event, newer string
		err          error
		want         Phase
		requests     int
	}{
		"swept, and a newer push is there": {swept, "n2", nil, Superseded, 2},
		"swept, and the newest":            {swept, "", nil, Delivered, 3},
		"the index is away":                {swept, "", away, "", 2},
		"a webhook is not asked about":     {outcome(notification.TypeRecovered, "recovered", "shop/cart"), "n2", nil, Delivered, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := &around{original: "{}", newer: tt.newer, newerErr: tt.err, statuses: map[string]notification.Status{"n1": {ID: "n1", Status: replication.Recovered}}}
			d, log := newDispatcher(t, w)
			outside := fake.New(time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC))
			a := withActor(d, outside)
			pass := func() {
				for _, name := range []string{"everybody", "shop", "broken", "as-acr"} {
					actorID := ID("n1/recovered", name)
					for _, err := range outside.Pass(time.Minute, actorID, func(name string) error { return a.Remind(t.Context(), actorID, name) }) {
						t.Error(err)
					}
				}
			}
			if err := d.Dispatch(t.Context(), []byte(tt.event)); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			pass()
			st, _, err := load(t.Context(), outside, ID("n1/recovered", "as-acr"))
			if err != nil || st.Phase != tt.want || w.requests != tt.requests {
				t.Fatalf("got %q, %v and %d requests, want %q and %d", st.Phase, err, w.requests, tt.want, tt.requests)
			}
			if tt.want != Superseded {
				return
			}
			if st.Error != "notification n2 is of a newer push of the tag" || !strings.Contains(log.String(), "decision=superseded") {
				t.Errorf("got %q, and the log is\n%s", st.Error, log)
			}
			failed := func(id string) bool { return strings.Contains(id, "as-acr/failed") }
			if len(outside.Reminders) != 0 || slices.ContainsFunc(outside.Topic, failed) {
				t.Errorf("left: reminders %v, topic %q", outside.Reminders, outside.Topic)
			}
			if st, err := d.Again(t.Context(), "n1", "as-acr"); err != nil || st.Phase != Pending {
				t.Errorf("%+v, %v", st, err)
			}
			if pass(); w.requests != tt.requests+1 {
				t.Errorf("sent %d, want %d", w.requests, tt.requests+1)
			}
		})
	}
}

func TestList(t *testing.T) {
	w := &around{statuses: map[string]notification.Status{
		"n1": {ID: "n1", Status: replication.Recovered}, "n2": {ID: "n2", Status: replication.Collecting}}}
	d, _ := newDispatcher(t, w)
	outside := fake.New(time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC))
	withActor(d, outside)
	for _, begun := range []struct{ event, target string }{{"n1/timedOut", "everybody"}, {"n1/recovered", "everybody"}, {"n1/recovered", "shop"}} {
		begin(t, d, begun.target, Message{EventID: begun.event, Event: "{}"})
	}
	// The fake is for one goroutine.
	d.Records, d.Actors = &locked{World: outside}, nil // reads take no turn

	list, err := d.List(t.Context(), "n1")
	var got []string
	for _, st := range list {
		got = append(got, st.Event+" "+st.Target+" "+string(st.Phase))
	}
	if want := []string{"n1/timedOut everybody pending", "n1/recovered everybody pending", "n1/recovered shop pending"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if list, err := d.List(t.Context(), "n2"); err != nil || list == nil || len(list) != 0 {
		t.Errorf("nothing decided: %v, %v", list, err)
	}
	if _, err := d.List(t.Context(), "n3"); !errors.Is(err, notification.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	// Who cannot be read is not left out.
	outside.FailRead = func(n int, _ string) fake.Failure { return map[bool]fake.Failure{true: fake.Lost}[n%3 == 0] }
	if _, err := d.List(t.Context(), "n1"); !errors.Is(err, fake.Err) {
		t.Errorf("the store is away: %v", err)
	}
}

// locked are records for any number of goroutines.
type locked struct {
	*fake.World
	mu sync.Mutex
}

func (l *locked) Load(ctx context.Context, key string) ([]byte, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.World.Load(ctx, key)
}

func TestAgain(t *testing.T) {
	w := &around{statuses: map[string]notification.Status{
		"n1": {ID: "n1", Status: replication.Recovered}, "n2": {ID: "n2", Status: replication.Collecting}}}
	d, _ := newDispatcher(t, w)
	outside := fake.New(time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC))
	withActor(d, outside)
	for _, event := range []string{"n1/timedOut", "n1/recovered"} {
		begin(t, d, "shop", Message{EventID: event, Event: "{}"})
	}
	for _, tt := range []struct {
		id, target string
		want       error
	}{{"n1", "shop", nil}, {"n1", "as-acr", ErrNone}, {"n1", "nobody", ErrNone}, {"n2", "shop", ErrNone}, {"n3", "shop", notification.ErrNotFound}} {
		t.Run(tt.id+" "+tt.target, func(t *testing.T) {
			outside.Writes = nil
			st, err := d.Again(t.Context(), tt.id, tt.target)
			if !errors.Is(err, tt.want) || err == nil && (st.Event != "n1/recovered" || st.Phase != Pending) {
				t.Errorf("got %+v, %v, want %v", st, err, tt.want)
			}
			if wrote := len(outside.Writes) > 0; wrote != (tt.want == nil) {
				t.Errorf("wrote %q", outside.Writes)
			}
		})
	}
	// A target that is not in the settings any more gets nothing, and no turn.
	begin(t, d, "former", Message{EventID: "n1/recovered", Event: "{}"})
	outside.Writes = nil
	if st, err := d.Again(t.Context(), "n1", "former"); !errors.Is(err, ErrNone) || len(outside.Writes) != 0 {
		t.Errorf("a former target: got %+v, %v, wrote %q, want %v", st, err, outside.Writes, ErrNone)
	}
	d.Actors = w
	w.err = errors.New("no actors")
	if _, err := d.Again(t.Context(), "n1", "shop"); !errors.Is(err, w.err) {
		t.Errorf("no actors: %v", err)
	}
}

// busy is the actors of deliveries of which one has an attempt under way, or does not
// answer.
type busy struct {
	actor.Invoker
	id string
}

func (b busy) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	if id == b.id {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return b.Invoker.Invoke(ctx, id, method, body)
}

// An event that comes again, while a target has its time for it, is done when the other
// deliveries have begun. Of a delivery that has not begun it is not done.
func TestNoTargetWaitsForAnAttempt(t *testing.T) {
	for _, begun := range []bool{true, false} {
		t.Run(fmt.Sprint("begun: ", begun), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, _ := newDispatcher(t, &around{})
				w := fake.New(time.Now())
				withActor(d, w)
				event := outcome(notification.TypeCompleted, "replicated", "shop/cart")
				if begun {
					begin(t, d, "everybody", Message{EventID: "n1/replicated", Event: event})
				}
				d.Actors = busy{d.Actors, ID("n1/replicated", "everybody")}
				d.Targets = target.NewSet(d.Targets.All[:3], nil, time.Now)
				start := time.Now()
				if err := d.Dispatch(t.Context(), []byte(event)); (err == nil) != begun || time.Since(start) != startTimeout {
					t.Errorf("got %v after %s, want an error: %t, after %s", err, time.Since(start), !begun, startTimeout)
				}
				if s, _, err := load(t.Context(), w, ID("n1/replicated", "shop")); err != nil || !s.Exists() {
					t.Errorf("another target: %+v, %v; want a delivery", s, err)
				}
			})
		})
	}
}
