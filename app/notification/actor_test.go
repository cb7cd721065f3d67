package notification

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

var (
	t0   = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)
	plan = replication.Plan{Expected: []replication.Region{"westeurope", "eastus", "japaneast"}, Timeout: 2 * time.Minute}
)

func event(r replication.Region) replication.Event {
	return replication.Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1", Digest: "sha256:aa", MediaType: "m", Size: 1<<53 + 1, Original: "{\"action\": \"push\"}\n", Region: r, Time: t0.Add(-time.Second)}
}

// world is everything outside an Actor, in memory.
type world struct {
	*fake.World
	timeout time.Duration
}

func newWorld() *world { return &world{fake.New(t0), plan.Timeout} }

// actor is a process that lives in w.
func (w *world) actor() *Actor {
	return &Actor{Store: w, Reminders: w, Topic: w, Documents: w,
		Timeout: w.timeout, Together: fake.InOrder,
		Now: func() time.Time { return w.Now }, Log: slog.New(slog.DiscardHandler)}
}

// Invoke makes the world a Dapr that reaches the actor at once.
func (w *world) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	return w.actor().Methods()[method](ctx, id, body)
}

func (w *world) client() *Client { return &Client{Actors: w, Documents: w} }

// add is a webhook: it tells whether the caller got a 2xx.
func (w *world) add(t *testing.T, r replication.Region) (accepted bool) {
	t.Helper()
	defer fake.Survive()
	_, err := w.client().Add(t.Context(), event(r), plan.Expected)
	if err != nil && !errors.Is(err, fake.Err) {
		t.Errorf("add %s: %v", r, err)
	}
	return err == nil
}

// pass lets time go by, firing reminders on the way.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range w.Pass(d, "n1", func(name string) error { return w.actor().Remind(t.Context(), "n1", name) }) {
		t.Errorf("reminder: %v", err)
	}
	if w.Period != 0 && w.Period != replication.Period {
		t.Errorf("the reminder's period is %v", w.Period)
	}
}

func (w *world) status(t *testing.T) Status {
	t.Helper()
	st, err := w.client().Status(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return st
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
		"register", "index", "index", "save", "document",
		"save",
		"save", "publish n1/replicated", "document", "unregister",
	}
	if !slices.Equal(w.Writes, want) {
		t.Errorf("writes:\n got %q\nwant %q", w.Writes, want)
	}
	if st := w.status(t); st.Status != replication.Replicated || *st.DurationMS != 2000 || len(w.Reminders) != 0 {
		t.Errorf("status %+v, reminders %v", st, w.Reminders)
	}
}

func TestTimeoutThenRecovery(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.add(t, "eastus")
	w.pass(t, 119*time.Second)
	if len(w.Topic) != 0 {
		t.Fatalf("published before the deadline: %v", w.Topic)
	}
	w.pass(t, time.Second)
	if st := w.status(t); st.Status != replication.TimedOut || !slices.Equal(st.Missing, []replication.Region{"japaneast"}) {
		t.Errorf("at the deadline: %+v", st)
	}
	if len(w.Reminders) != 0 {
		t.Error("the reminder outlives the decision")
	}
	w.pass(t, time.Hour)
	w.add(t, "japaneast")
	if want := []string{"n1/timedOut", "n1/recovered"}; !slices.Equal(w.Topic, want) {
		t.Errorf("topic: %v, want %v", w.Topic, want)
	}
	if st := w.status(t); st.Status != replication.Recovered || len(w.Reminders) != 0 {
		t.Errorf("%+v, reminders %v", st, w.Reminders)
	}
}

// The reminder of a notification that is open for long fires once, and then at
// the deadline.
func TestReminderRests(t *testing.T) {
	w := newWorld()
	w.timeout = time.Hour
	w.add(t, "westeurope")
	w.pass(t, time.Minute)
	w.add(t, "eastus")
	w.pass(t, 58*time.Minute)
	want := []string{"register", "index", "index", "save", "document", "document", "register", "save"}
	if !slices.Equal(w.Writes, want) {
		t.Errorf("writes:\n got %q\nwant %q", w.Writes, want)
	}
	if due := slices.Collect(maps.Values(w.Reminders)); len(due) != 1 || !due[0].Equal(t0.Add(time.Hour)) {
		t.Errorf("rests until %v", due)
	}
	w.pass(t, time.Minute)
	if want := []string{"n1/timedOut"}; !slices.Equal(w.Topic, want) || len(w.Reminders) != 0 {
		t.Errorf("at the deadline: %v, reminders %v", w.Topic, w.Reminders)
	}
}

// An outcome does not wait for a reminder that rests: whatever write fails in the
// turn that decides it, it is on the topic within two periods.
func TestOutcomeWakesTheReminder(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed} {
		for after := range 5 {
			w := newWorld()
			w.timeout = time.Hour
			w.add(t, "westeurope")
			w.pass(t, 10*time.Minute)
			w.add(t, "eastus")
			w.Fail = fake.At(len(w.Writes)+after, how)
			for tries := 0; !w.add(t, "japaneast"); tries++ {
				if tries > 0 {
					t.Fatalf("%d %v: twice refused", after, how)
				}
			}
			w.pass(t, 2*replication.Period)
			if got := slices.Compact(slices.Clone(w.Topic)); !slices.Equal(got, []string{"n1/replicated"}) {
				t.Errorf("%d %v: topic %v after %q", after, how, w.Topic, w.Writes)
			}
			w.pass(t, time.Hour)
			w.check(t, plan.Expected)
		}
	}
}

// The reminder is not trusted alone: reading a status decides, too.
func TestStatusDecidesAPassedDeadline(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.Now = w.Now.Add(plan.Timeout)
	if st := w.status(t); st.Status != replication.TimedOut || len(w.Topic) != 1 {
		t.Errorf("%s, topic %v", st.Status, w.Topic)
	}
}

func TestConcludedIsTold(t *testing.T) {
	w := newWorld()
	a := w.actor()
	var told []string
	a.Concluded = func(id string) { told = append(told, id) }
	for _, r := range plan.Expected {
		body, _ := json.Marshal(addMessage{messageOf(event(r)), plan.Expected})
		if len(told) != 0 {
			t.Errorf("told before %s", r)
		}
		if _, err := a.add(t.Context(), "n1", body); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(told, []string{"n1"}) {
		t.Errorf("told %v", told)
	}
}

// Who wants what ACR sent gets that, byte by byte, of the first region.
func TestOriginal(t *testing.T) {
	w := newWorld()
	if got, err := w.client().Original(t.Context(), "n1"); got != "" || err != nil {
		t.Errorf("of nothing: %q, %v", got, err)
	}
	w.add(t, "eastus")
	other := event("westeurope")
	other.Original = "other"
	if _, err := w.client().Add(t.Context(), other, plan.Expected); err != nil {
		t.Fatal(err)
	}
	n := len(w.Writes)
	if got, err := w.client().Original(t.Context(), "n1"); got != event("eastus").Original || err != nil || len(w.Writes) != n {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRefusalWritesNothing(t *testing.T) {
	w := newWorld()
	_, err := w.client().Add(t.Context(), event("mars"), plan.Expected)
	var refused *RefusedError
	if !errors.As(err, &refused) || !slices.Equal(refused.Expected, plan.Expected) {
		t.Errorf("first event: %v", err)
	}
	if _, err := w.client().Status(t.Context(), "n1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("status: %v", err)
	}
	if len(w.Writes) != 0 {
		t.Errorf("wrote %v", w.Writes)
	}
	w.add(t, "eastus")
	n := len(w.Writes)
	if _, err = w.client().Add(t.Context(), event("mars"), plan.Expected); !errors.As(err, &refused) || len(w.Writes) != n {
		t.Errorf("later event: %v, wrote %v", err, w.Writes[n:])
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
		if result, err := client.Add(t.Context(), e, plan.Expected); err == nil {
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
	body, err := json.Marshal(addMessage{messageOf(a.event), plan.Expected})
	if err != nil {
		return nil, err
	}
	return a.world.Invoke(ctx, a.event.ID, method, body)
}

func TestDuplicateWritesNothing(t *testing.T) {
	w := newWorld()
	w.add(t, "eastus")
	n := len(w.Writes)
	result, err := w.client().Add(t.Context(), event("eastus"), plan.Expected)
	if err != nil || result.New() || len(w.Writes) != n {
		t.Errorf("%+v, %v, wrote %v", result, err, w.Writes[n:])
	}
}

func TestBrokenInputToTheActor(t *testing.T) {
	w := newWorld()
	for _, body := range []string{"", "{", `{"event":{"id":"other","region":"eastus"}}`} {
		if _, err := w.actor().add(t.Context(), "n1", []byte(body)); err == nil {
			t.Errorf("add %q: no error", body)
		}
	}
	w.States["n1"] = []byte(`{"first":{"id":"n1"}}`)
	if _, err := w.client().Status(t.Context(), "n1"); err == nil {
		t.Error("a state that cannot be: no error")
	}
	if len(w.Writes) != 0 {
		t.Errorf("wrote %v", w.Writes)
	}
}

func (w *world) check(t *testing.T, accepted []replication.Region) {
	t.Helper()
	s, err := decodeState(w.States["n1"])
	if err != nil {
		t.Fatal(err)
	}
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
		want = append(want, "n1/"+string(o.Status))
	}
	got := slices.Compact(slices.Clone(w.Topic))
	if !slices.Equal(got, want) {
		t.Errorf("topic: %v, outcomes %v", w.Topic, want)
	}
	for name, image := range map[string]Image{"digest": {"shop/cart", "sha256:aa", ""}, "tag": {"shop/cart", "", "v1"}, "both": {"shop/cart", "sha256:aa", "v1"}} {
		if st, err := w.client().Find(t.Context(), image); err != nil || st.ID != "n1" {
			t.Errorf("by %s: %q, %v", name, st.ID, err)
		}
	}
	var doc struct{ Status replication.Status }
	if json.Unmarshal(w.Documents["n1"], &doc); doc.Status != s.Status() {
		t.Errorf("the document says %q, the state %q", doc.Status, s.Status())
	}
}

// A broker that is down for a while costs no webhook anything but time.
func TestBrokerDown(t *testing.T) {
	w := newWorld()
	a := w.actor()
	a.Topic = brokenTopic{}
	for _, r := range plan.Expected {
		body, _ := json.Marshal(addMessage{messageOf(event(r)), plan.Expected})
		if _, err := a.add(t.Context(), "n1", body); err != nil {
			t.Fatalf("%s: %v", r, err)
		}
	}
	if len(w.Topic) != 0 || len(w.Reminders) != 1 {
		t.Fatalf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
	w.pass(t, time.Minute) // the broker is back
	w.check(t, plan.Expected)
}

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
// nothing.
func TestAReminderWaitsForItsState(t *testing.T) {
	w := newWorld()
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
	w.pass(t, 10*time.Minute)
	if want := []string{"n1/timedOut"}; !slices.Equal(w.Topic, want) || len(w.Reminders) != 0 {
		t.Errorf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
}

// After a hard restart the scheduler is deaf for 20 s. A webhook whose event is
// saved must be answered all the same.
func TestDeafAfterTheSave(t *testing.T) {
	for name, deafen := range map[string]func(*Actor, deaf){
		"topic":      func(a *Actor, d deaf) { a.Topic = d },
		"documents":  func(a *Actor, d deaf) { a.Documents = d },
		"unregister": func(a *Actor, d deaf) { a.Reminders = d },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			for _, r := range plan.Expected[:2] {
				w.add(t, r)
			}
			a := w.actor()
			deafen(a, deaf{w})
			body, _ := json.Marshal(addMessage{messageOf(event(plan.Expected[2])), plan.Expected})
			begin := time.Now()
			if _, err := a.add(t.Context(), "n1", body); err != nil || time.Since(begin) > finishTimeout {
				t.Errorf("%s: %v after %v", name, err, time.Since(begin))
			}
			w.pass(t, time.Minute) // it hears again
			w.check(t, plan.Expected)
		})
	}
}

// deaf never answers.
type deaf struct{ *world }

func (deaf) Publish(ctx context.Context, _ string, _ []byte) error { <-ctx.Done(); return ctx.Err() }
func (deaf) Put(ctx context.Context, _ string, _ []byte) error     { <-ctx.Done(); return ctx.Err() }
func (deaf) Unregister(ctx context.Context, _, _ string) error     { <-ctx.Done(); return ctx.Err() }

type brokenTopic struct{}

func (brokenTopic) Publish(context.Context, string, []byte) error { return fake.Err }

func TestStateSurvivesStorage(t *testing.T) {
	s, _ := replication.Add(replication.State{}, event("eastus"), plan, t0)
	other := event("japaneast")
	other.Digest, other.Tag, other.Time = "sha256:bb", "v2", time.Time{}
	s, _ = replication.Add(s, other, plan, t0.Add(time.Second))
	s, _ = replication.Tick(s, t0.Add(3*time.Minute))
	s = s.Published(s.Outcomes[0]).DocumentStored()
	s.Indexed, s.ReminderName = true, "check-1"
	data, err := encodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got  %+v\nwant %+v", got, s)
	}

	// Cosmos keeps numbers as 64-bit floats.
	var loose any
	json.Unmarshal(data, &loose)
	data, _ = json.Marshal(loose)
	if got, err = decodeState(data); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("through Cosmos: %+v, %v", got, err)
	}
	if got, err := decodeState(nil); err != nil || got.Exists() {
		t.Errorf("nothing stored: %+v, %v", got, err)
	}

	// All reminders once had one name.
	s.ReminderName = ""
	data, _ = encodeState(s)
	if got, err := decodeState(data); err != nil || bytes.Contains(data, []byte("reminder")) || got.ReminderName != "check" {
		t.Errorf("without the reminder's name: %+v, %v", got, err)
	}
}

// An image leads to its newest notification, in whatever order the index is
// written.
func TestFind(t *testing.T) {
	w := newWorld()
	client := w.client()
	add := func(id, tag, digest string) replication.State {
		e := event("eastus")
		e.ID, e.Tag, e.Digest = id, tag, digest
		if _, err := client.Add(t.Context(), e, plan.Expected); err != nil {
			t.Fatal(err)
		}
		s, err := decodeState(w.States[id])
		if err != nil {
			t.Fatal(err)
		}
		w.Now = w.Now.Add(time.Second)
		return s
	}
	find := func(digest, tag string) string {
		st, err := client.Find(t.Context(), Image{"shop/cart", digest, tag})
		if errors.Is(err, ErrNotFound) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		return st.ID
	}
	old := add("old", "v1", "sha256:aa")
	add("moved", "v1", "sha256:bb")
	add("untagged", "", "sha256:cc")
	if err := w.actor().index(t.Context(), old); err != nil { // a repeat by the reminder comes late
		t.Fatal(err)
	}
	for _, tt := range []struct{ digest, tag, want string }{
		{"sha256:aa", "", "old"}, {"sha256:bb", "", "moved"}, {"", "v1", "moved"},
		{"sha256:bb", "v1", "moved"}, {"sha256:aa", "v1", "none"}, {"sha256:cc", "", "untagged"},
		{"sha256:dd", "", "none"}, {"", "v2", "none"}, {"", "sha256:aa", "none"},
	} {
		if got := find(tt.digest, tt.tag); got != tt.want {
			t.Errorf("digest %q, tag %q: %s, want %s", tt.digest, tt.tag, got, tt.want)
		}
	}
	if _, err := client.Find(t.Context(), Image{"shop/car", "", "tv1"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another repository: %v", err)
	}
	// A process that died before its save has left an index that leads nowhere.
	delete(w.States, "untagged")
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

func TestDocument(t *testing.T) {
	w := newWorld()
	w.add(t, "eastus")
	var doc map[string]any
	if err := json.Unmarshal(w.Documents["n1"], &doc); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"id": "n1", "timestamp": "2026-11-17T16:52:00.343145347Z", "action": "push", "loginServer": "contoso.azurecr.io",
		"image": "shop/cart", "tag": "v1", "digest": "sha256:aa", "status": "collecting", "missing": "[westeurope japaneast]",
	} {
		if got := fmt.Sprint(doc[key]); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
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

func (l *eventLog) Fired(ctx context.Context, id string, regions []replication.Region) ([]replication.Event, error) {
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
	for _, tt := range []struct {
		name  string
		log   eventLog
		want  replication.Status
		asked int
		took  time.Duration
		topic []string
	}{
		{"all were fired", eventLog{fired: []replication.Event{logged("eastus", t0.Add(time.Second)), logged("japaneast", t0.Add(9*time.Second))}}, replication.Replicated, 1, 0, []string{"n1/replicated"}},
		{"one was fired", eventLog{fired: []replication.Event{logged("eastus", t0.Add(time.Second))}}, replication.TimedOut, 1, 0, []string{"n1/timedOut"}},
		{"one was fired, the other not read", eventLog{fired: []replication.Event{logged("eastus", t0.Add(time.Second))}, err: fake.Err}, replication.TimedOut, 1, 0, []string{"n1/timedOut"}},
		{"fired after the deadline", eventLog{fired: []replication.Event{logged("eastus", t0.Add(time.Second)), logged("japaneast", t0.Add(plan.Timeout+time.Second))}}, replication.Recovered, 1, 0, []string{"n1/timedOut", "n1/recovered"}},
		{"nothing was fired", eventLog{}, replication.TimedOut, 1, 0, []string{"n1/timedOut"}},
		{"of another notification", eventLog{fired: []replication.Event{other}}, replication.TimedOut, 1, 0, []string{"n1/timedOut"}},
		{"ARM is broken", eventLog{err: fake.Err}, replication.TimedOut, 1, 0, []string{"n1/timedOut"}},
		{"ARM is silent", eventLog{slow: time.Hour}, replication.TimedOut, 1, askReminded, []string{"n1/timedOut"}},
		{"ARM is slow", eventLog{slow: 7 * time.Second}, replication.TimedOut, 1, 7 * time.Second, []string{"n1/timedOut"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.add(t, "westeurope")
			before, _ := decodeState(w.States["n1"])
			w.Now = w.Now.Add(plan.Timeout)
			a := w.actor()
			a.EventLog = &tt.log
			begin := time.Now()
			if err := a.Remind(t.Context(), "n1", before.ReminderName); err != nil || time.Since(begin) != tt.took || tt.took > 10*time.Second {
				t.Errorf("%s: %v after %v", tt.name, err, time.Since(begin))
			}
			s, err := decodeState(w.States["n1"])
			if err != nil || s.Status() != tt.want || len(tt.log.asked) != tt.asked || !slices.Equal(w.Topic, tt.topic) {
				t.Errorf("%s: %s, asked %q, topic %v, %v", tt.name, s.Status(), tt.log.asked, w.Topic, err)
			}
			for _, arrival := range s.Arrivals[1:] {
				if arrival.Via != replication.ViaEventLog {
					t.Errorf("%s: %+v", tt.name, arrival)
				}
			}
			if len(w.Reminders) != 0 {
				t.Errorf("%s: reminders %v", tt.name, w.Reminders)
			}
		})
	}
}

// A reminder that is late finds what was fired before the deadline and after it, in
// any order. What was fired before is in time.
func TestEventLogInAnyOrder(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	w.Now = w.Now.Add(plan.Timeout + time.Minute)
	a := w.actor()
	a.EventLog = &eventLog{fired: []replication.Event{logged("eastus", t0.Add(plan.Timeout+time.Second)), logged("japaneast", t0.Add(time.Second))}}
	before, err := decodeState(w.States["n1"])
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Remind(t.Context(), "n1", before.ReminderName); err != nil {
		t.Fatal(err)
	}
	if want := []string{"n1/timedOut", "n1/recovered"}; !slices.Equal(w.Topic, want) || !bytes.Contains(w.Events["n1/timedOut"], []byte(`"missing":["eastus"]`)) {
		t.Errorf("topic %v: %s", w.Topic, w.Events["n1/timedOut"])
	}
}

// Before the deadline, and after an outcome, there is nothing to ask. A status
// just after the deadline leaves it to the reminder, which asks longer.
func TestWhenTheEventLogIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, log := newWorld(), &eventLog{slow: time.Hour}
		a := w.actor()
		a.EventLog = log
		turn := func(after time.Duration, method string, r replication.Region, want replication.Status, asked int, took time.Duration) {
			t.Helper()
			w.Now = t0.Add(after)
			body, _ := json.Marshal(addMessage{messageOf(event(r)), plan.Expected})
			begin := time.Now()
			out, err := a.Methods()[method](t.Context(), "n1", body)
			var re reply
			if json.Unmarshal(out, &re); err != nil || re.Status == nil || re.Status.Status != want || len(log.asked) != asked || time.Since(begin) != took {
				t.Errorf("%v %s: %s, %v, asked %d times, took %v", after, method, out, err, len(log.asked), time.Since(begin))
			}
		}
		turn(0, methodAdd, "westeurope", replication.Collecting, 0, 0)
		turn(plan.Timeout-1, methodStatus, "", replication.Collecting, 0, 0)
		turn(plan.Timeout+reminderGrace-1, methodStatus, "", replication.Collecting, 0, 0)
		turn(plan.Timeout+reminderGrace, methodStatus, "", replication.TimedOut, 1, askOtherwise)
		turn(plan.Timeout+time.Minute, methodAdd, "eastus", replication.TimedOut, 1, 0)

		w = newWorld()
		a = w.actor()
		a.EventLog = log
		turn(0, methodAdd, "westeurope", replication.Collecting, 1, 0)
		turn(plan.Timeout, methodAdd, "eastus", replication.TimedOut, 2, askOtherwise) // within the patience of its webhook
	})
}
