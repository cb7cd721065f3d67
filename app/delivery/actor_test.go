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

	"allregions/app/notification/fake"
)

const eventID, targetName = "n1/replicated", "ops"

var id = ID(eventID, targetName)

// world is everything outside an Actor, the target included.
type world struct {
	*fake.World
	answers []Result // of the target, in turn; the last one stays; none if the delivery is not even tried
	sent    []Message
}

func newWorld(answers ...Result) *world { return &world{World: fake.New(t0), answers: answers} }

func (w *world) Send(_ context.Context, target string, m Message) Result {
	if target != targetName {
		panic(target)
	}
	w.sent = append(w.sent, m)
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

func (w *world) client() *Client { return &Client{w, w} }

var message1 = Message{EventID: eventID, Event: `{"id":"n1/replicated"}`, Original: `{"action":"push"}`}

// start is what the topic does: it brings the event until it is taken.
func (w *world) start(t *testing.T) {
	t.Helper()
	for tries := 0; ; tries++ {
		err := func() (err error) {
			defer fake.Survive()
			err = fake.Err // of a process that dies in it
			if len(w.answers) == 0 {
				return w.client().Fail(t.Context(), targetName, message1, errors.New("no such element"))
			}
			return w.client().Start(t.Context(), targetName, message1)
		}()
		if st, _ := w.client().Status(t.Context(), eventID, targetName); err == nil && st.Exists() {
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
	st, err := w.client().Status(t.Context(), eventID, targetName)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

var (
	accepted = Result{Verdict: Accepted, Status: 200}
	later    = Result{Verdict: Again, Status: 503, Error: "503 Service Unavailable"}
	refused  = Result{Verdict: Never, Status: 404, Error: "404 Not Found"}
)

func TestDelivery(t *testing.T) {
	w := newWorld(later, later, accepted)
	w.start(t)
	w.start(t) // the topic brings it twice
	w.pass(t, 0)
	if st := w.status(t); st.Phase != Pending || st.Total != 1 || !st.Next.Equal(t0.Add(5*time.Second)) || st.Attempts[0] != (AttemptStatus{t0, 503, "503 Service Unavailable"}) {
		t.Errorf("%+v", st)
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
	if st, err := w.client().Restart(t.Context(), eventID, targetName); err != nil || st.Phase != Pending || st.Total != 3 {
		t.Errorf("%+v, %v", st, err)
	}
	w.pass(t, time.Minute)
	if st := w.status(t); st.Phase != Delivered || st.Total != 4 || len(w.Reminders) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestDeliveryFails(t *testing.T) {
	for _, tt := range []struct {
		answer Result
		total  int
		after  time.Duration
	}{{refused, 1, 0}, {Result{Verdict: Gone, Status: 410, Error: "410 Gone"}, 1, 0}, {later, 9, 36 * time.Hour}} {
		w := newWorld(tt.answer)
		w.start(t)
		w.pass(t, tt.after)
		if st := w.status(t); st.Phase != Failed || st.Total != tt.total {
			t.Errorf("%+v: %+v", tt.answer, st)
		}
		want := fmt.Sprintf("n1/replicated/ops/failed/%d", tt.total)
		if !slices.Equal(w.Topic, []string{want}) || len(w.Reminders) != 0 {
			t.Errorf("%+v: topic %v, reminders %v", tt.answer, w.Topic, w.Reminders)
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
		w.client().Restart(t.Context(), eventID, targetName)
		w.pass(t, tt.after)
		if len(w.Topic) != 2 || w.Topic[1] != fmt.Sprintf("n1/replicated/ops/failed/%d", 2*tt.total) {
			t.Errorf("topic %v", w.Topic)
		}
	}
}

// Each write fails in each way, alone and with others. The target may get the
// event more than once, always the same; the delivery ends, its failure is on the
// topic, and nothing is left.
func TestEveryWriteOfADeliveryFails(t *testing.T) {
	for name, answers := range map[string][]Result{"delivered": {later, accepted}, "refused": {later, refused}, "not tried": nil} {
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
	if err := w.client().Start(t.Context(), targetName, message1); err == nil {
		t.Fatal("started without a reminder")
	}
	for w.Writes[len(w.Writes)-1] != "unregister" {
		if w.pass(t, time.Second); w.Now.After(t0.Add(5 * time.Minute)) {
			t.Fatalf("the reminder of nothing stays: %q", w.Writes)
		}
	}
	w.answers = []Result{later, accepted}
	w.Fail = nil
	w.start(t)
	w.pass(t, time.Hour)
	if st := w.status(t); st.Phase != Delivered || len(w.Reminders) != 0 {
		t.Errorf("%+v, reminders %v", st, w.Reminders)
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
	if st, err := w.client().Status(t.Context(), eventID, targetName); err != nil || st.Exists() {
		t.Errorf("status of nothing: %+v, %v", st, err)
	}
	w.Records[id] = []byte(`{"target":"ops"}`)
	if _, err := w.client().Status(t.Context(), eventID, targetName); err == nil {
		t.Error("a state that cannot be: no error")
	}
	if len(w.Writes) != 0 {
		t.Errorf("wrote %v", w.Writes)
	}
	if id != "n1.replicated.ops" {
		t.Errorf("id %s", id)
	}
}
