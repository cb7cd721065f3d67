// Package delivery brings outcomes to targets, at least once, until a target accepts
// them or the schedule ends. One actor owns the delivery of one event to one target:
// a target that is slow or dead delays no other target, and no notification.
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
//  4. save the result of the attempt
//  5. if there is no next attempt and the delivery has failed: publish that, and save
//     that it is published
//  6. unregister the reminder whose turn this is
//
// A delivery that fails before its first attempt has no 2 to 4. After a crash behind
// 2 the attempt is repeated, under the same id. A crash behind 3 leaves a reminder
// that no record names; it removes itself (actor.Orphaned). So does the old reminder
// after a crash before 6. A crash behind 4 leaves a reminder that does what remains.
//
// The next attempt has a reminder of its own: see actor.Reminders.
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
	"allregions/app/notification"
	"allregions/app/target"
)

// ActorType is the Dapr actor type. The actor's id is ID's.
const ActorType = "Delivery"

// TypeFailed is the type of the CloudEvent about a delivery that has failed.
const TypeFailed = "acr.delivery.failed"

// ID is the actor that delivers an event to the target with that name. Neither has a ".", and an
// event's id has one "/".
func ID(eventID, name string) string {
	return strings.Replace(eventID, "/", ".", 1) + "." + name
}

// Period is the time between two firings of the reminder: how long a lost step
// waits for its repeat.
const Period = 30 * time.Second

const (
	methodStart   = "Start"
	methodRestart = "Restart"
)

// startMessage is the request of methodStart.
type startMessage struct {
	Target  string  `json:"target"`
	Message Message `json:"message"`
	Error   string  `json:"error,omitempty"` // why there is to be no attempt
	Newer   string  `json:"newer,omitempty"` // the notification that supersedes this one
}

// Sender makes one attempt, in a time that leaves a turn enough to save it.
type Sender interface {
	Send(ctx context.Context, name string, event, original []byte) target.Result
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

// Methods are the turns that Dispatcher asks for, by name.
func (a *Actor) Methods() map[string]actor.Method {
	return map[string]actor.Method{methodStart: a.start, methodRestart: a.restart}
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
	s, version, err := load(ctx, a.Records, id)
	if err == nil && !s.Exists() {
		s = Begin(m.Target, m.Message, m.Error, a.Now())
		if m.Newer != "" {
			s = s.supersededBy(m.Newer)
		}
		err = a.begin(ctx, id, s, version)
	}
	return reply("start", id, s, err)
}

// restart makes the next attempt due, if there is such a delivery.
func (a *Actor) restart(ctx context.Context, id string, _ []byte) (actor.Turn, error) {
	s, version, err := load(ctx, a.Records, id)
	if err == nil && s.Exists() {
		s = s.Restart(a.Now())
		err = a.begin(ctx, id, s, version)
	}
	return reply("restart", id, s, err)
}

func (a *Actor) begin(ctx context.Context, id string, s State, version string) error {
	s, err := a.remindAt(ctx, id, s) // 2
	if err != nil {
		return err
	}
	return a.save(ctx, id, s, version) // 3
}

func reply(method, id string, s State, err error) (actor.Turn, error) {
	if err != nil {
		return actor.Turn{}, fmt.Errorf("%s %s: %w", method, id, err)
	}
	data, err := json.Marshal(s.status())
	return actor.Turn{Reply: data}, err
}

// Remind is the turn of the reminder with that name. Firings that were missed may
// all come at once; the second one finds no attempt due. A reminder that the record
// does not name removes itself when it is orphaned, and does nothing else.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	s, version, err := load(ctx, a.Records, id) // 1
	done := false
	switch {
	case err != nil:
	case s.ReminderName != name:
		done = actor.Orphaned(name, a.Now())
	default:
		done, err = a.advance(ctx, id, s, version)
	}
	if err == nil && done {
		if err = a.Reminders.Unregister(ctx, id, name); err != nil { // 6
			err = fmt.Errorf("unregister %s: %w", name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("reminder of %s: %w", id, err)
	}
	return nil
}

// advance makes the attempt that is due, and reports a failure. Done means that the
// reminder whose turn this is has nothing left to do.
func (a *Actor) advance(ctx context.Context, id string, s State, version string) (done bool, err error) {
	name := s.ReminderName
	if s.Due(a.Now()) {
		if s, err = a.attempt(ctx, id, s, version); err != nil {
			return false, err
		}
	}
	if s.Phase == Failed && !s.Reported {
		if err := a.report(ctx, id, s); err != nil {
			return false, err
		}
	}
	return s.Phase != Pending || s.ReminderName != name, nil
}

func (a *Actor) attempt(ctx context.Context, id string, s State, version string) (State, error) {
	r := a.Sender.Send(ctx, s.Target, []byte(s.Message.Event), []byte(s.Message.Original)) // 2
	s, reason := s.After(r, a.Now(), a.Random())
	a.log(ctx, s, reason)
	if s.Phase == Pending {
		var err error
		if s, err = a.remindAt(ctx, id, s); err != nil { // 3
			return s, err
		}
	}
	return s, a.save(ctx, id, s, version) // 4
}

// remindAt registers a new reminder for the next attempt, and returns s with its name.
func (a *Actor) remindAt(ctx context.Context, id string, s State) (State, error) {
	s.ReminderName = actor.ReminderName(a.Now(), s.ReminderName)
	if err := a.Reminders.Register(ctx, id, s.ReminderName, s.Next, Period); err != nil {
		return s, fmt.Errorf("register reminder: %w", err)
	}
	return s, nil
}

// report publishes that the delivery has failed, and saves that this is published.
func (a *Actor) report(ctx context.Context, id string, s State) error { // 5
	eventID, event, err := failedEvent(s)
	if err == nil {
		err = a.Topic.Publish(ctx, eventID, event)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", eventID, err)
	}
	s, version, err := load(ctx, a.Records, id) // a save does not return the version
	if err != nil {
		return err
	}
	s.Reported = true
	return a.save(ctx, id, s, version)
}

// failedEvent is the same at every publication: its id has the number of
// attempts, which a restart adds to.
func failedEvent(s State) (id string, data []byte, err error) {
	e := cloudevents.New()
	id = fmt.Sprintf("%s/%s/failed/%d", s.Message.EventID, s.Target, s.Total)
	e.SetID(id)
	e.SetType(TypeFailed)
	e.SetSource("urn:allregions:delivery")
	e.SetSubject(s.Message.EventID)
	e.SetTime(s.FailedAt())
	data, err = notification.EncodeEvent(e, s.status())
	return id, data, err
}

// load returns the delivery and its version; without a record both are zero.
func load(ctx context.Context, records actor.Reader, id string) (s State, version string, err error) {
	data, version, err := records.Load(ctx, id)
	if err != nil {
		return State{}, "", fmt.Errorf("load: %w", err)
	}
	if len(data) == 0 {
		return State{}, version, nil
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, "", fmt.Errorf("decode state: %w", err)
	}
	if !s.Exists() || s.Target == "" || s.Phase == "" {
		return State{}, "", errors.New("decode state: no delivery of ours")
	}
	return s, version, nil
}

func (a *Actor) save(ctx context.Context, id string, s State, version string) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = a.Records.Save(ctx, id, data, version)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

func (a *Actor) log(ctx context.Context, s State, reason Reason) {
	last := s.Attempts[len(s.Attempts)-1]
	attrs := []slog.Attr{slog.String("event", s.Message.EventID), slog.String("target", s.Target), slog.String("decision", string(reason)),
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
