package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
	"allregions/app/target"
)

const eventID, targetName = "n1/replicated", "ops"

var id = ID(eventID, targetName)

// world is everything outside an Actor, the target included.
type world struct {
	*fake.World
	answers []target.Result // of the target, in turn; the last one stays; none if the delivery is not even tried
	sent    []Message
}

func newWorld(answers ...target.Result) *world { return &world{World: fake.New(t0), answers: answers} }

func (w *world) Send(_ context.Context, name string, event, original []byte) target.Result {
	if name != targetName {
		panic(name)
	}
	w.sent = append(w.sent, Message{eventID, string(event), string(original)})
	r := w.answers[0]
	if len(w.answers) > 1 {
		w.answers = w.answers[1:]
	}
	return r
}

func (w *world) actor() *Actor {
	return &Actor{Records: w, Reminders: w, Topic: w, Sender: w, Now: func() time.Time { return w.Now }, Random: func() float64 { return 0 },
		Log: slog.New(slog.DiscardHandler)}
}

func (w *world) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	turn, err := w.actor().Methods()[method](ctx, id, body)
	return turn.Reply, err
}

// begin asks the actor to begin the delivery, or, without an answer of the target, to
// let it fail.
func (w *world) begin(t *testing.T) error {
	t.Helper()
	m := startMessage{Target: targetName, Message: message1}
	if len(w.answers) == 0 {
		m.Error = "no such element"
	}
	body, err := json.Marshal(m)
	if err == nil {
		_, err = w.Invoke(t.Context(), id, methodStart, body)
	}
	return err
}

func (w *world) restart(t *testing.T) {
	t.Helper()
	if _, err := w.Invoke(t.Context(), id, methodRestart, nil); err != nil {
		t.Error(err)
	}
}

var message1 = Message{EventID: eventID, Event: `{"id":"n1/replicated"}`, Original: `{"action":"push"}`}

// start is what the topic does: it brings the event until it is taken.
func (w *world) start(t *testing.T) {
	t.Helper()
	for tries := 0; ; tries++ {
		err := func() (err error) {
			defer fake.Survive()
			err = fake.Err // of a process that dies in it
			return w.begin(t)
		}()
		if s, _, _ := load(t.Context(), w, id); err == nil && s.Exists() {
			return
		}
		if tries > 5 {
			t.Fatal(err)
		}
		w.Now = w.Now.Add(time.Millisecond)
	}
}

func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for _, err := range w.Pass(d, id, func(name string) error { return w.actor().Remind(t.Context(), id, name) }) {
		t.Errorf("reminder: %v", err)
	}
}

func (w *world) status(t *testing.T) Status {
	t.Helper()
	s, _, err := load(t.Context(), w, id)
	if err != nil {
		t.Fatal(err)
	}
	return s.status()
}

var (
	accepted = target.Result{Verdict: target.Delivered, Status: 200}
	later    = target.Result{Verdict: target.Again, Status: 503, Error: "503 Service Unavailable"}
	refused  = target.Result{Verdict: target.Never, Status: 404, Error: "404 Not Found"}
)

func TestDelivery(t *testing.T) {
	w := newWorld(later, later, accepted)
	w.start(t)
	w.start(t) // the topic brings it twice
	w.pass(t, 0)
	if st := w.status(t); st.Phase != Pending || st.Total != 1 || !st.Next.Equal(t0.Add(5*time.Second)) || st.Attempts[0] != (Attempt{t0, 503, "503 Service Unavailable"}) {
		t.Errorf("%+v", st)
	}
	if len(w.Reminders) != 1 {
		t.Errorf("got the reminders %v, want that of the next attempt alone", w.Reminders)
	}
	w.pass(t, time.Hour)
	st := w.status(t)
	if st.Phase != Delivered || st.Total != 3 || st.Next != nil || !st.Attempts[2].At.Equal(t0.Add(20*time.Second)) {
		t.Errorf("%+v", st)
	}
	if len(w.sent) != 3 || w.sent[0] != message1 || w.sent[2] != message1 {
		t.Errorf("sent %+v", w.sent)
	}
	if len(w.Topic) != 0 || len(w.Reminders) != 0 {
		t.Errorf("topic %v, reminders %v", w.Topic, w.Reminders)
	}
	// Asked for again, it is sent again.
	w.restart(t)
	if st := w.status(t); st.Phase != Pending || st.Total != 3 {
		t.Errorf("%+v", st)
	}
	w.pass(t, time.Minute)
	if st := w.status(t); st.Phase != Delivered || st.Total != 4 || len(w.Reminders) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestDeliveryFails(t *testing.T) {
	for _, tt := range []struct {
		answer target.Result
		total  int
		after  time.Duration
	}{{refused, 1, 0}, {target.Result{Verdict: target.Gone, Status: 410, Error: "410 Gone"}, 1, 0}, {later, 9, 36 * time.Hour}} {
		t.Run(tt.answer.Error, func(t *testing.T) {
			w := newWorld(tt.answer)
			w.start(t)
			w.pass(t, tt.after)
			if st := w.status(t); st.Phase != Failed || st.Total != tt.total {
				t.Errorf("got %+v, want %s after %d attempts", st, Failed, tt.total)
			}
			want := fmt.Sprintf("n1/replicated/ops/failed/%d", tt.total)
			if !slices.Equal(w.Topic, []string{want}) || len(w.Reminders) != 0 {
				t.Errorf("got topic %v, reminders %v, want %s and no reminder", w.Topic, w.Reminders, want)
			}
			var e struct {
				ID, Type, Subject string
				Data              Status
			}
			if err := json.Unmarshal(w.Events[want], &e); err != nil || e.ID != want || e.Type != TypeFailed || e.Subject != eventID ||
				e.Data.Phase != Failed || e.Data.Target != targetName || e.Data.Attempts[0].Error != tt.answer.Error {
				t.Errorf("%s, %v", w.Events[want], err)
			}
			// One more that fails is a failure of its own.
			w.restart(t)
			w.pass(t, tt.after)
			if len(w.Topic) != 2 || w.Topic[1] != fmt.Sprintf("n1/replicated/ops/failed/%d", 2*tt.total) {
				t.Errorf("topic %v", w.Topic)
			}
		})
	}
}

// Each write fails in each way, alone and with others. The target may get the
// event more than once, always the same; the delivery ends, its failure is on the
// topic, and nothing is left.
func TestEveryWriteOfADeliveryFails(t *testing.T) {
	for name, answers := range map[string][]target.Result{"delivered": {later, accepted}, "refused": {later, refused}, "not tried": nil} {
		clean := newWorld(answers...)
		clean.start(t)
		clean.pass(t, time.Hour)
		for at, what := range clean.Writes {
			for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed, fake.Late} {
				w := newWorld(answers...)
				w.Fail, w.Delay = fake.At(at, how), 32*time.Second
				w.start(t)
				w.pass(t, time.Hour)
				st := w.status(t)
				want := map[string]Phase{"delivered": Delivered, "refused": Failed, "not tried": Failed}[name]
				if st.Phase != want || len(w.Reminders) != 0 || (want == Failed) != (len(w.Topic) > 0) || len(slices.Compact(slices.Clone(w.Topic))) > 1 {
					t.Errorf("%s, write %d, %s, %s: %+v, topic %v, reminders %v", name, at, what, how, st, w.Topic, w.Reminders)
				}
				if n := len(w.sent); n < len(answers) || n > len(answers)+1 || len(answers) == 0 && n > 0 || slices.ContainsFunc(w.sent, func(m Message) bool { return m != message1 }) {
					t.Errorf("%s, write %d, %s, %s: sent %d times", name, at, what, how, n)
				}
			}
		}
	}
}

// The reminder of a start that was given up is removed late: when the event has come
// again, and its delivery relies on one.
func TestARemovalCannotTakeAnotherStartsReminder(t *testing.T) {
	w := newWorld(accepted)
	w.Delay = 2 * time.Second
	w.Fail = fake.Orphan
	if err := w.begin(t); err == nil {
		t.Fatal("started without a reminder")
	}
	for w.Writes[len(w.Writes)-1] != "unregister" {
		if w.pass(t, time.Second); w.Now.After(t0.Add(5 * time.Minute)) {
			t.Fatalf("the reminder of nothing stays: %q", w.Writes)
		}
	}
	w.answers = []target.Result{later, accepted}
	w.Fail = nil
	w.start(t)
	w.pass(t, time.Hour)
	if st := w.status(t); st.Phase != Delivered || len(w.Reminders) != 0 {
		t.Errorf("%+v, reminders %v", st, w.Reminders)
	}
}

// A failure that is known to be on the topic is not published again: not by the repeat
// of a removal that was lost.
func TestAFailureIsReportedOnce(t *testing.T) {
	w := newWorld(refused)
	removals := 0
	w.Fail = func(_ int, what string) fake.Failure {
		if what == "unregister" {
			if removals++; removals == 1 {
				return fake.Lost
			}
		}
		return fake.None
	}
	w.start(t)
	for _, err := range w.Pass(time.Hour, id, func(name string) error { return w.actor().Remind(t.Context(), id, name) }) {
		if !errors.Is(err, fake.Err) {
			t.Error(err)
		}
	}
	if want := []string{"n1/replicated/ops/failed/1"}; removals != 2 || !slices.Equal(w.Topic, want) || len(w.Reminders) != 0 {
		t.Errorf("after %d removals: got topic %q, reminders %v, want %q and no reminder", removals, w.Topic, w.Reminders, want)
	}
}

// A reminder that the record does not name may be that of a turn whose save is late. It
// stays until no such save can come.
func TestAReminderOfNoRecordGoesLate(t *testing.T) {
	w := newWorld(accepted)
	name := actor.ReminderName(t0, "")
	for _, tt := range []struct {
		after time.Duration
		want  []string
	}{{10 * time.Second, nil}, {10 * time.Minute, []string{"unregister"}}} {
		t.Run(tt.after.String(), func(t *testing.T) {
			w.Now = t0.Add(tt.after)
			if err := w.actor().Remind(t.Context(), id, name); err != nil || !slices.Equal(w.Writes, tt.want) {
				t.Errorf("got %q, %v, want %q", w.Writes, err, tt.want)
			}
		})
	}
}

func TestBrokenInputToADelivery(t *testing.T) {
	w := newWorld(accepted)
	for _, body := range []string{"", "{", "{}", `{"target":"other","message":{"eventId":"n1/replicated"}}`} {
		if _, err := w.Invoke(t.Context(), id, methodStart, []byte(body)); err == nil {
			t.Errorf("%q: no error", body)
		}
	}
	if data, err := w.Invoke(t.Context(), id, methodRestart, nil); err != nil || strings.Contains(string(data), "pending") {
		t.Errorf("restart of nothing: %s, %v", data, err)
	}
	if s, _, err := load(t.Context(), w, id); err != nil || s.Exists() {
		t.Errorf("load of nothing: %+v, %v", s, err)
	}
	w.Records[id] = []byte(`{"target":"ops"}`)
	if _, _, err := load(t.Context(), w, id); err == nil {
		t.Error("a state that cannot be: no error")
	}
	if len(w.Writes) != 0 {
		t.Errorf("wrote %v", w.Writes)
	}
	if id != "n1.replicated.ops" {
		t.Errorf("id %s", id)
	}
}

// The bytes in the store, on the way to an actor, and in its reply are those that every
// version reads and writes.
func TestWireForms(t *testing.T) {
	const (
		stored = `{"format":1,"message":{"eventId":"n1/replicated","event":"{\"id\":1}","original":"o"},"target":"ops","createdAt":"2026-11-17T16:52:01Z",` +
			`"phase":"pending","next":"2026-11-17T16:52:06Z","tried":1,"total":2,"attempts":[{"at":"2026-11-17T16:52:01Z","status":503,"error":"503"}],` +
			`"error":"e","reported":true,"reminder":"check-1"}`
		fresh = `{"format":0,"message":{"eventId":"n1/replicated","event":"{}"},"target":"ops","createdAt":"2026-11-17T16:52:01Z","phase":"pending",` +
			`"next":"2026-11-17T16:52:01Z","tried":0,"total":0}`
		start  = `{"target":"ops","message":{"eventId":"n1/replicated","event":"{}"},"error":"e"}`
		status = `{"event":"n1/replicated","target":"ops","status":"pending","createdAt":"2026-11-17T16:52:01Z","attemptsMade":2,` +
			`"attempts":[{"at":"2026-11-17T16:52:01Z","status":503,"error":"503"}],"nextAttempt":"2026-11-17T16:52:06Z","error":"e"}`
		none = `{"event":"","target":"","status":"","attemptsMade":0,"attempts":[]}`
	)
	var full State
	if err := json.Unmarshal([]byte(stored), &full); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		value any
		want  string
	}{
		{"the record", full, stored},
		{"a new record", Begin("ops", Message{EventID: "n1/replicated", Event: "{}"}, "", t0), fresh},
		{"the request", startMessage{Target: "ops", Message: Message{EventID: "n1/replicated", Event: "{}"}, Error: "e"}, start},
		{"the status", full.status(), status},
		{"the status of none", State{}.status(), none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := json.Marshal(tt.value); string(got) != tt.want || err != nil {
				t.Errorf("\n got %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// A newer version finds again what it has written, after this one has saved the record.
func TestUnknownFieldsOfADeliverySurvive(t *testing.T) {
	w := newWorld(later)
	w.start(t)
	data, version, err := w.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Save(t.Context(), id, append(data[:len(data)-1], `,"priority":{"of":"tomorrow"}}`...), version); err != nil {
		t.Fatal(err)
	}
	w.pass(t, time.Second) // the first attempt
	data, _, err = w.Load(t.Context(), id)
	if got := string(data); err != nil || !strings.Contains(got, `"priority":{"of":"tomorrow"}`) || !strings.Contains(got, `"total":1`) || !strings.Contains(got, `"format":1`) {
		t.Errorf("got %s, %v", got, err)
	}
}
