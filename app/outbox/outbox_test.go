package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/delivery"
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

// world is what is around an Outbox: actors that answer, and a target's side.
type world struct {
	statuses    map[string]notification.Status
	original    string
	originalErr error
	started     []string          // "event target", in order
	failed      []string          // likewise, of those that are not even tried
	messages    map[string]string // of startMessage, by target
	err         error             // of the actors
	result      target.Result
	sent        []target.Event
}

func (w *world) Status(_ context.Context, id string) (notification.Status, error) {
	st, ok := w.statuses[id]
	if !ok {
		return st, notification.ErrNotFound
	}
	return st, nil
}

func (w *world) Original(context.Context, string) (string, error) { return w.original, w.originalErr }

func (w *world) Send(_ context.Context, _ *target.Target, e target.Event) target.Result {
	w.sent = append(w.sent, e)
	return w.result
}

// Invoke is the actors.
func (w *world) Invoke(_ context.Context, id, method string, body []byte) ([]byte, error) {
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
	return json.Marshal(delivery.Status{Event: event, Target: name, Phase: delivery.Pending})
}

func newOutbox(t *testing.T, w *world) (*Outbox, *bytes.Buffer) {
	t.Helper()
	targets, err := target.Load(settings, func(string) (string, bool) { return "", false }, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.messages = map[string]string{}
	var log bytes.Buffer
	return &Outbox{Targets: targets, Attempts: w, Deliveries: &delivery.Client{Actors: w}, Notifications: w,
		Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

func outcome(eventType, status, repository string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"n1/%[2]s","type":%[1]q,"source":"s","pubsubname":"pubsub","topic":"t","traceparent":"x","traceid":"x","tracestate":"","data":{"id":"n1","action":"push","repository":%[3]q,"tag":"v1","status":%[2]q}}`, eventType, status, repository)
}

func TestTake(t *testing.T) {
	for _, tt := range []struct {
		event string
		want  []string
	}{
		{outcome(notification.TypeCompleted, "replicated", "shop/cart"), []string{"everybody", "shop", "as-acr"}},
		{outcome(notification.TypeCompleted, "replicated", "other"), []string{"everybody", "as-acr"}},
		{outcome(notification.TypeTimedOut, "timedOut", "shop/cart"), []string{"everybody", "bad-news", "shop"}},
		{outcome(delivery.TypeFailed, "failed", "shop/cart"), nil}, // our own: not told to the targets
		{"{", nil},
	} {
		w := &world{original: "the original"}
		o, log := newOutbox(t, w)
		if err := o.Take(t.Context(), []byte(tt.event)); err != nil {
			t.Errorf("%s: %v", tt.event, err)
		}
		var got []string
		for _, s := range w.started {
			_, name, _ := strings.Cut(s, " ")
			got = append(got, name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.event, got, tt.want)
		}
		// A filter that fails is a mistake in the settings, and stops nobody else.
		if tt.want != nil && (len(w.failed) != 1 || !strings.HasSuffix(w.failed[0], " broken") || !strings.Contains(log.String(), "target=broken")) {
			t.Errorf("failed: %q, and the log is\n%s", w.failed, log)
		}
		for name, message := range w.messages {
			if strings.Contains(message, "pubsubname") || strings.Contains(message, "trace") || strings.Contains(message, "the original") != (name == "as-acr") {
				t.Errorf("%s: %s", name, message)
			}
		}
	}
}

// methods are an actor's turns, called without Dapr.
type methods map[string]actor.Method

func (m methods) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := m[method](ctx, id, body)
	return turn.Reply, err
}

// deliverer is the actor of deliveries, in a world of its own, and its client.
func deliverer(o *Outbox, around *fake.World) (*delivery.Actor, *delivery.Client) {
	a := &delivery.Actor{Records: around, Reminders: around, Topic: around, Sender: o,
		Now: func() time.Time { return around.Now }, Random: func() float64 { return 0 }, Log: o.Log}
	return a, &delivery.Client{Actors: methods(a.Methods()), Records: around}
}

// A filter that fails is one failure on the topic, however often the outcome comes,
// and takes nothing from the others. Who wants the outcome all the same can have it.
func TestAFilterFails(t *testing.T) {
	event := outcome(notification.TypeCompleted, "replicated", "shop/cart")
	const id = "n1/replicated/broken/failed/0"
	start := time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC)
	around := fake.New(start)
	w := &world{result: target.Result{Status: 204}, statuses: map[string]notification.Status{"n1": {ID: "n1", Status: replication.Replicated}}}
	o, _ := newOutbox(t, w)
	a, client := deliverer(o, around)
	o.Deliveries = client
	pass := func() {
		for _, name := range []string{"everybody", "shop", "broken", "as-acr"} {
			actorID := delivery.ID("n1/replicated", name)
			for _, err := range around.Pass(time.Minute, actorID, func(name string) error { return a.Remind(t.Context(), actorID, name) }) {
				t.Error(err)
			}
		}
	}

	around.Fail = fake.At(4, fake.Lost) // the first write about broken
	if err := o.Take(t.Context(), []byte(event)); !errors.Is(err, fake.Err) {
		t.Errorf("what cannot be begun does not come again: %v", err)
	}
	for range 2 {
		if err := o.Take(t.Context(), []byte(event)); err != nil {
			t.Error(err)
		}
		pass()
	}
	if len(w.sent) != 3 || !slices.Equal(around.Topic, []string{id}) || len(around.Reminders) != 0 {
		t.Fatalf("sent %d, topic %q, reminders %v", len(w.sent), around.Topic, around.Reminders)
	}
	var e struct {
		ID, Type, Subject string
		Time              time.Time
		Data              json.RawMessage
	}
	const data = `{"event":"n1/replicated","target":"broken","status":"failed","createdAt":"2026-11-22T00:33:54Z","attemptsMade":0,"attempts":[],"error":"filter of target broken: index out of bounds: 7"}`
	if err := json.Unmarshal(around.Events[id], &e); err != nil || e.ID != id || e.Type != delivery.TypeFailed || e.Subject != "n1/replicated" || !e.Time.Equal(start) || string(e.Data) != data {
		t.Errorf("%s, %v", around.Events[id], err)
	}
	if err := o.Take(t.Context(), around.Events[id]); err != nil || len(around.Topic) != 1 { // it comes out of the same topic
		t.Errorf("%v, topic %q", err, around.Topic)
	}
	if st, err := o.Again(t.Context(), "n1", "broken"); err != nil || st.Phase != delivery.Pending || st.Error != "" {
		t.Errorf("%+v, %v", st, err)
	}
	if pass(); len(w.sent) != 4 || len(around.Topic) != 1 {
		t.Errorf("sent %d, topic %q", len(w.sent), around.Topic)
	}
}

// What cannot be begun now comes again.
func TestTakeFails(t *testing.T) {
	away := errors.New("away")
	for name, w := range map[string]*world{"actors": {err: away}, "the record": {originalErr: away}} {
		t.Run(name, func(t *testing.T) {
			o, _ := newOutbox(t, w)
			if err := o.Take(t.Context(), []byte(outcome(notification.TypeCompleted, "replicated", "shop/cart"))); !errors.Is(err, away) {
				t.Errorf("got %v, want %v", err, away)
			}
		})
	}
}

// An outcome whose record has expired comes no better again: who wants the webhook's
// body has a delivery that fails, and nobody else is held up.
func TestTakeWithoutARecord(t *testing.T) {
	w := &world{originalErr: notification.ErrNotFound}
	o, _ := newOutbox(t, w)
	if err := o.Take(t.Context(), []byte(outcome(notification.TypeCompleted, "replicated", "shop/cart"))); err != nil {
		t.Error(err)
	}
	if want := []string{"n1/replicated everybody", "n1/replicated shop", "n1/replicated as-acr"}; !slices.Equal(w.started, want) || strings.Contains(w.messages["as-acr"], "original") {
		t.Errorf("started %q, want %q: %s", w.started, want, w.messages["as-acr"])
	}
}

func TestSend(t *testing.T) {
	w := &world{result: target.Result{Status: 503, RetryAfter: time.Minute}}
	o, _ := newOutbox(t, w)
	var told []string
	o.Attempted = func(target string, v delivery.Verdict) { told = append(told, target+" "+string(v)) }
	m := delivery.Message{EventID: "n1/replicated", Event: outcome(notification.TypeCompleted, "replicated", "shop/cart"), Original: "the original"}

	if r := o.Send(t.Context(), "everybody", m); r.Verdict != delivery.Again || r.Status != 503 || r.Pause != time.Minute || !strings.HasPrefix(r.Error, "503") {
		t.Errorf("%+v", r)
	}
	if e := w.sent[0]; e.ID != m.EventID || string(e.Body) != m.Event || string(e.Original) != m.Original || e.Status.Repository != "shop/cart" {
		t.Errorf("sent %+v", e)
	}
	o.Send(t.Context(), "everybody", m)
	if h := o.Health()[0]; h.Name != "everybody" || h.Failures != 2 || h.Disabled || h.Last == nil || h.Error == "" {
		t.Errorf("%+v", h)
	}
	w.result = target.Result{Status: 204}
	if r := o.Send(t.Context(), "everybody", m); r.Verdict != delivery.Accepted || r.Error != "" {
		t.Errorf("%+v", r)
	}
	if want := []string{"everybody again", "everybody again", "everybody delivered"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if h := o.Health()[0]; h.Failures != 0 || h.Error != "" {
		t.Errorf("%+v", h)
	}

	// After a 410 it is not even tried.
	w.result = target.Result{Status: 410}
	for range 2 {
		if r := o.Send(t.Context(), "shop", m); r.Verdict != delivery.Gone {
			t.Errorf("%+v", r)
		}
	}
	if len(w.sent) != 4 || !o.Health()[2].Disabled || o.Health()[0].Disabled {
		t.Errorf("sent %d times, %+v", len(w.sent), o.Health())
	}
	if r := o.Send(t.Context(), "gone", m); r.Verdict != delivery.Never || !strings.Contains(r.Error, "not in NOTIFY_TARGETS any more") {
		t.Errorf("%+v", r)
	}
	m.Event = "{"
	if r := o.Send(t.Context(), "everybody", m); r.Verdict != delivery.Never || r.Error == "" {
		t.Errorf("%+v", r)
	}
	// Two packages, one meaning.
	for ours, theirs := range map[delivery.Verdict]target.Verdict{delivery.Accepted: target.Delivered, delivery.Again: target.Again, delivery.Never: target.Never, delivery.Gone: target.Gone} {
		if string(ours) != string(theirs) {
			t.Errorf("%s is %s", theirs, ours)
		}
	}
}

func TestList(t *testing.T) {
	w := &world{statuses: map[string]notification.Status{
		"n1": {ID: "n1", Status: replication.Recovered}, "n2": {ID: "n2", Status: replication.Collecting}}}
	o, _ := newOutbox(t, w)
	around := fake.New(time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC))
	_, client := deliverer(o, around)
	for _, begun := range []struct{ event, target string }{{"n1/timedOut", "everybody"}, {"n1/recovered", "everybody"}, {"n1/recovered", "shop"}} {
		if err := client.Start(t.Context(), begun.target, delivery.Message{EventID: begun.event, Event: "{}"}); err != nil {
			t.Fatal(err)
		}
	}
	// The fake is for one goroutine.
	records := &locked{World: around}
	o.Deliveries = &delivery.Client{Records: records} // reads take no turn

	list, err := o.List(t.Context(), "n1")
	var got []string
	for _, d := range list {
		got = append(got, d.Event+" "+d.Target+" "+string(d.Phase))
	}
	if want := []string{"n1/timedOut everybody pending", "n1/recovered everybody pending", "n1/recovered shop pending"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if list, err := o.List(t.Context(), "n2"); err != nil || list == nil || len(list) != 0 {
		t.Errorf("nothing decided: %v, %v", list, err)
	}
	if _, err := o.List(t.Context(), "n3"); !errors.Is(err, notification.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	// Who cannot be read is not left out.
	around.FailRead = func(n int, _ string) fake.Failure { return map[bool]fake.Failure{true: fake.Lost}[n%3 == 0] }
	if _, err := o.List(t.Context(), "n1"); !errors.Is(err, fake.Err) {
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
	w := &world{statuses: map[string]notification.Status{
		"n1": {ID: "n1", Status: replication.Recovered}, "n2": {ID: "n2", Status: replication.Collecting}}}
	o, _ := newOutbox(t, w)
	around := fake.New(time.Date(2026, 11, 22, 0, 33, 54, 0, time.UTC))
	_, o.Deliveries = deliverer(o, around)
	for _, event := range []string{"n1/timedOut", "n1/recovered"} {
		if err := o.Deliveries.Start(t.Context(), "shop", delivery.Message{EventID: event, Event: "{}"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		id, target string
		want       error
	}{{"n1", "shop", nil}, {"n1", "as-acr", delivery.ErrNone}, {"n1", "nobody", delivery.ErrNone}, {"n2", "shop", delivery.ErrNone}, {"n3", "shop", notification.ErrNotFound}} {
		t.Run(tt.id+" "+tt.target, func(t *testing.T) {
			around.Writes = nil
			st, err := o.Again(t.Context(), tt.id, tt.target)
			if !errors.Is(err, tt.want) || err == nil && (st.Event != "n1/recovered" || st.Phase != delivery.Pending) {
				t.Errorf("got %+v, %v, want %v", st, err, tt.want)
			}
			if wrote := len(around.Writes) > 0; wrote != (tt.want == nil) {
				t.Errorf("wrote %q", around.Writes)
			}
		})
	}
	o.Deliveries = &delivery.Client{Actors: w}
	w.err = errors.New("no actors")
	if _, err := o.Again(t.Context(), "n1", "shop"); !errors.Is(err, w.err) {
		t.Errorf("no actors: %v", err)
	}
}
