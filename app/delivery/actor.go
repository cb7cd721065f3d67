// Package delivery brings outcomes to targets, and gives up late. One actor owns
// the delivery of one event to one target: a target that is slow or dead holds up
// no other, and no notification.
//
// The turn that begins a delivery:
//
//  1. load the record
//  2. register a reminder
//  3. save the record, with the first attempt due
//
// Every attempt is a turn of that reminder:
//
//  1. load the record
//  2. attempt
//  3. register a reminder for the next attempt, if there is one
//  4. save what came of the attempt
//  5. if there is no next one: publish the failure, and save that
//  6. unregister the reminder whose turn this is
//
// A delivery that fails before its first attempt has no 2 to 4. A crash after 2
// repeats the attempt, under the same id. One after 3 leaves a reminder on which no
// record relies; it removes itself (actor.Orphaned). So does the old reminder, after a
// crash that prevents 6. One after 4 leaves a reminder that does the rest.
//
// The next attempt has a reminder of its own: none is registered again from inside
// its own firing. See actor.Reminders.
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

	"allregions/app/actor"
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
	methodRestart = "Restart"
)

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
	Records   actor.Records
	Reminders actor.Reminders
	Topic     actor.Topic
	Sender    Sender

	Now    func() time.Time // wall time
	Random func() float64   // in [0, 1)
	Log    *slog.Logger
}

// Methods are the turns that Client asks for, by name.
func (a *Actor) Methods() map[string]actor.Method {
	return map[string]actor.Method{methodStart: a.start, methodRestart: a.restart}
}

// loaded is a delivery and what is needed to replace it.
type loaded struct {
	State
	message Message
	version string
}

// start begins a delivery, unless it has begun: the topic may bring an event
// twice.
func (a *Actor) start(ctx context.Context, id string, body []byte) (actor.Turn, error) {
	var m startMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return actor.Turn{}, fmt.Errorf("start %s: decode: %w", id, err)
	}
	if m.Message.EventID == "" || ID(m.Message.EventID, m.Target) != id {
		return actor.Turn{}, fmt.Errorf("start %s: the message is that of %q to %q", id, m.Message.EventID, m.Target)
	}
	d, err := a.load(ctx, id)
	if err == nil && !d.Exists() {
		d.message, d.State = Message(m.Message), Begin(m.Target, m.Message.EventID, a.Now())
		if m.Error != "" {
			d.State = BeginFailed(m.Target, m.Message.EventID, m.Error, a.Now())
		}
		err = a.begin(ctx, id, d)
	}
	if err != nil {
		return actor.Turn{}, fmt.Errorf("start %s: %w", id, err)
	}
	return answer(d.State)
}

func (a *Actor) restart(ctx context.Context, id string, _ []byte) (actor.Turn, error) {
	d, err := a.load(ctx, id)
	if err == nil && d.Exists() {
		d.State = d.Restart(a.Now())
		err = a.begin(ctx, id, d)
	}
	if err != nil {
		return actor.Turn{}, fmt.Errorf("restart %s: %w", id, err)
	}
	return answer(d.State)
}

func (a *Actor) begin(ctx context.Context, id string, d loaded) error {
	d.ReminderName = actor.ReminderName(a.Now(), d.ReminderName)
	if err := a.Reminders.Register(ctx, id, d.ReminderName, d.Next, Period); err != nil { // 2
		return fmt.Errorf("register reminder: %w", err)
	}
	return a.save(ctx, id, d) // 3
}

func answer(s State) (actor.Turn, error) {
	reply, err := json.Marshal(statusOf(s))
	return actor.Turn{Reply: reply}, err
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
	d, err := a.load(ctx, id) // 1
	if err != nil {
		return err
	}
	switch {
	case name != d.ReminderName && !actor.Orphaned(name, a.Now()):
		return nil
	case name != d.ReminderName:
	case d.Due(a.Now()):
		if d, err = a.attempt(ctx, id, d); err != nil {
			return err
		}
		fallthrough
	default:
		if err := a.report(ctx, id, d); err != nil {
			return err
		}
		if d.Phase == Pending && d.ReminderName == name {
			return nil
		}
	}
	if err := a.Reminders.Unregister(ctx, id, name); err != nil { // 6
		return fmt.Errorf("unregister %s: %w", name, err)
	}
	return nil
}

// attempt makes the attempt that is due, and saves what came of it.
func (a *Actor) attempt(ctx context.Context, id string, d loaded) (loaded, error) {
	r := a.Sender.Send(ctx, d.Target, d.message) // 2
	var reason Reason
	d.State, reason = d.After(Attempt{At: a.Now().UTC(), Status: r.Status, Error: r.Error}, r.Verdict, r.Pause, a.Random())
	a.log(ctx, d.State, reason)
	if d.Phase == Pending {
		d.ReminderName = actor.ReminderName(a.Now(), d.ReminderName)
		if err := a.Reminders.Register(ctx, id, d.ReminderName, d.Next, Period); err != nil { // 3
			return d, fmt.Errorf("register reminder: %w", err)
		}
	}
	return d, a.save(ctx, id, d) // 4
}

// report publishes that the delivery has failed, if the topic is not known to have
// it, and saves that it has.
func (a *Actor) report(ctx context.Context, id string, d loaded) error {
	if d.Phase != Failed || d.Reported {
		return nil
	}
	eventID, event, err := failedEvent(d.State)
	if err == nil {
		err = a.Topic.Publish(ctx, eventID, event)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", eventID, err)
	}
	if d, err = a.load(ctx, id); err != nil { // the answer to a save does not tell its version
		return err
	}
	d.Reported = true
	return a.save(ctx, id, d)
}

func (a *Actor) load(ctx context.Context, id string) (loaded, error) {
	data, version, err := a.Records.Load(ctx, id)
	if err != nil {
		return loaded{}, fmt.Errorf("load: %w", err)
	}
	s, m, err := decodeState(data)
	return loaded{s, m, version}, err
}

// save stores d in place of the version that was loaded.
func (a *Actor) save(ctx context.Context, id string, d loaded) error {
	data, err := encodeState(d.State, d.message)
	if err == nil {
		err = a.Records.Save(ctx, id, data, d.version)
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
