// Package delivery brings outcomes to targets, and gives up late. One actor owns
// the delivery of one event to one target: a target that is slow or dead holds up
// no other, and no notification.
//
// Every attempt is a turn of the actor's reminder:
//
//  1. register the reminder
//  2. save the delivery, with its first attempt due
//  3. attempt
//  4. save what came of it
//  5. register the reminder for the next attempt, or, if there is none, publish
//     a failure, save that, and unregister
//
// A delivery that fails before its first attempt has no 3 and 4.
//
// A crash after 3 repeats the attempt, under the same id; one after 4 leaves a
// reminder that comes back every 30 s, and makes the next attempt when it is due.
package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"allregions/app/reminder"
)

// ActorType is the Dapr actor type. The actor's id is ID's.
const ActorType = "Delivery"

// TypeFailed is the type of the CloudEvent about a delivery that was given up.
const TypeFailed = "acr.delivery.failed"

// ID is the actor that delivers an event to a target. Neither has a ".", and an
// event's id has one "/".
func ID(eventID, target string) string {
	return strings.Replace(eventID, "/", ".", 1) + "." + target
}

// Period is the time between two firings of the reminder: how long a lost step
// waits for its repeat.
const Period = 30 * time.Second

// The methods of the actor.
const (
	methodStart   = "Start"
	methodStatus  = "Status"
	methodRestart = "Restart"
)

// Store keeps the state of actors. A nil error of Save means that the state
// survives a kill -9 of every process; Load then returns it. Load of an id that
// was never saved returns no data and no error.
type Store interface {
	Load(ctx context.Context, id string) ([]byte, error)
	Save(ctx context.Context, id string, state []byte) error
}

// Reminders wakes actors. A nil error of Register means that the reminder
// survives a kill -9 of every process, and fires at due and every period from
// then on, until Unregister. Registering a name again replaces what has it. After
// an error both may be done all the same, now or much later.
type Reminders interface {
	Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error
	Unregister(ctx context.Context, id, name string) error
}

// Topic takes CloudEvents. A nil error of Publish means that the broker has the
// event.
type Topic interface {
	Publish(ctx context.Context, eventID string, event []byte) error
}

// Message is what a target is to be told.
type Message struct {
	EventID  string
	Event    string // the whole CloudEvent, as JSON
	Original string // the webhook's body that began it, as ACR sent it; "" if nobody wants it
}

// Result is what became of one attempt. Its error holds no secret.
type Result struct {
	Verdict Verdict
	Status  int           // HTTP; 0 without an answer
	Error   string        // "" for a delivery
	Pause   time.Duration // before the next attempt, as the target wants it
}

// Sender makes one attempt, in a time that leaves a turn enough to save it.
type Sender interface {
	Send(ctx context.Context, target string, m Message) Result
}

// Actor is the server side: its methods are turns of the actor with the given id.
type Actor struct {
	Store     Store
	Reminders Reminders
	Topic     Topic
	Sender    Sender

	Now    func() time.Time // wall time
	Random func() float64   // in [0, 1)
	Log    *slog.Logger
}

// Methods are the turns that Client asks for, by name.
func (a *Actor) Methods() map[string]func(ctx context.Context, id string, body []byte) ([]byte, error) {
	return map[string]func(ctx context.Context, id string, body []byte) ([]byte, error){
		methodStart: a.start, methodStatus: a.status, methodRestart: a.restart,
	}
}

// start begins a delivery, unless it has begun: the topic may bring an event
// twice.
func (a *Actor) start(ctx context.Context, id string, body []byte) ([]byte, error) {
	var m startMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("start %s: decode: %w", id, err)
	}
	if m.Message.EventID == "" || ID(m.Message.EventID, m.Target) != id {
		return nil, fmt.Errorf("start %s: the message is that of %q to %q", id, m.Message.EventID, m.Target)
	}
	s, _, err := a.load(ctx, id)
	if err == nil && !s.Exists() {
		s = Begin(m.Target, m.Message.EventID, a.Now())
		if m.Error != "" {
			s = BeginFailed(m.Target, m.Message.EventID, m.Error, a.Now())
		}
		err = a.begin(ctx, id, s, Message(m.Message))
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", id, err)
	}
	return json.Marshal(statusOf(s))
}

func (a *Actor) restart(ctx context.Context, id string, _ []byte) ([]byte, error) {
	s, m, err := a.load(ctx, id)
	if err == nil && s.Exists() {
		s = s.Restart(a.Now())
		err = a.begin(ctx, id, s, m)
	}
	if err != nil {
		return nil, fmt.Errorf("restart %s: %w", id, err)
	}
	return json.Marshal(statusOf(s))
}

func (a *Actor) begin(ctx context.Context, id string, s State, m Message) error {
	s.ReminderName = reminder.Name(a.Now())
	if err := a.Reminders.Register(ctx, id, s.ReminderName, s.Next, Period); err != nil { // 1
		return fmt.Errorf("register reminder: %w", err)
	}
	return a.save(ctx, id, s, m) // 2
}

func (a *Actor) status(ctx context.Context, id string, _ []byte) ([]byte, error) {
	s, _, err := a.load(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", id, err)
	}
	return json.Marshal(statusOf(s))
}

// Remind is the turn of the reminder with that name. Firings that were missed may
// all come at once; the second one finds nothing due. A reminder that the delivery
// does not rely on only goes, in time.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	if err := a.remind(ctx, id, name); err != nil {
		return fmt.Errorf("reminder of %s: %w", id, err)
	}
	return nil
}

func (a *Actor) remind(ctx context.Context, id, name string) error {
	s, m, err := a.load(ctx, id)
	if err != nil {
		return err
	}
	unregister := func() error {
		if err := a.Reminders.Unregister(ctx, id, name); err != nil {
			return fmt.Errorf("unregister %s: %w", name, err)
		}
		return nil
	}
	if name != s.ReminderName {
		if !reminder.Orphaned(name, a.Now()) {
			return nil
		}
		return unregister()
	}
	if s.Due(a.Now()) {
		r := a.Sender.Send(ctx, s.Target, m) // 3
		var reason Reason
		s, reason = s.After(Attempt{At: a.Now().UTC(), Status: r.Status, Error: r.Error}, r.Verdict, r.Pause, a.Random())
		a.log(ctx, s, reason)
		if err := a.save(ctx, id, s, m); err != nil { // 4
			return err
		}
		if s.Phase == Pending {
			if err := a.Reminders.Register(ctx, id, name, s.Next, Period); err != nil { // 5
				return fmt.Errorf("register reminder: %w", err)
			}
			return nil
		}
	}
	if s.Phase == Failed && !s.Reported {
		eventID, event, err := failedEvent(s)
		if err == nil {
			err = a.Topic.Publish(ctx, eventID, event)
		}
		if err != nil {
			return fmt.Errorf("publish %s: %w", eventID, err)
		}
		s.Reported = true
		if err := a.save(ctx, id, s, m); err != nil {
			return err
		}
	}
	if s.NeedsReminder() {
		return nil
	}
	return unregister()
}

func (a *Actor) load(ctx context.Context, id string) (State, Message, error) {
	data, err := a.Store.Load(ctx, id)
	if err != nil {
		return State{}, Message{}, fmt.Errorf("load: %w", err)
	}
	return decodeState(data)
}

func (a *Actor) save(ctx context.Context, id string, s State, m Message) error {
	data, err := encodeState(s, m)
	if err == nil {
		err = a.Store.Save(ctx, id, data)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

func (a *Actor) log(ctx context.Context, s State, reason Reason) {
	last := s.Attempts[len(s.Attempts)-1]
	attrs := []slog.Attr{slog.String("event", s.EventID), slog.String("target", s.Target), slog.String("decision", string(reason)),
		slog.Int("attempt", s.Total), slog.Int("status", last.Status)}
	level := slog.LevelInfo
	if last.Error != "" {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("err", last.Error))
	}
	if s.Phase == Pending {
		attrs = append(attrs, slog.Time("next", s.Next))
	}
	a.Log.LogAttrs(ctx, level, "delivery", attrs...)
}

// failedEvent is the same at every publication: its id has the number of
// attempts, which a restart adds to.
func failedEvent(s State) (id string, data []byte, err error) {
	e := cloudevents.New()
	id = fmt.Sprintf("%s/%s/failed/%d", s.EventID, s.Target, s.Total)
	e.SetID(id)
	e.SetType(TypeFailed)
	e.SetSource("urn:allregions:delivery")
	e.SetSubject(s.EventID)
	e.SetTime(s.FailedAt())
	if err := errors.Join(e.SetData(cloudevents.ApplicationJSON, statusOf(s)), e.Validate()); err != nil {
		return id, nil, err
	}
	data, err = json.Marshal(e)
	return id, data, err
}
