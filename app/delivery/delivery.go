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
	return a.begin(ctx, id, false, func(State) State { return Begin(m.Target, m.Message, m.Error, a.Now()).supersededBy(m.Newer) })
}

// restart makes the next attempt due, if there is such a delivery.
func (a *Actor) restart(ctx context.Context, id string, _ []byte) (actor.Turn, error) {
	return a.begin(ctx, id, true, func(s State) State { return s.Restart(a.Now()) })
}

// begin makes the first attempt of a schedule due, if there is such a delivery, or none.
// The reply is the status after that.
func (a *Actor) begin(ctx context.Context, id string, exists bool, begun func(State) State) (actor.Turn, error) {
	s, version, err := load(ctx, a.Records, id) // 1
	if err == nil && s.Exists() == exists {
		s, err = a.save(ctx, id, begun(s), version) // 2, 3
	}
	if err != nil {
		return actor.Turn{}, fmt.Errorf("begin %s: %w", id, err)
	}
	data, err := json.Marshal(s.status())
	return actor.Turn{Reply: data}, err
}

// Remind is the turn of the reminder with that name. Firings that were missed may
// all come at once; the second one finds no attempt due. A reminder that the record
// does not name removes itself when it is orphaned, and does nothing else.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	done, err := a.advance(ctx, id, name)
	if err == nil && done {
		if err = a.Reminders.Unregister(ctx, id, name); err != nil { // 6
			err = fmt.Errorf("unregister: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("reminder %s of %s: %w", name, id, err)
	}
	return nil
}

// advance makes the attempt that is due, and reports a failure. Without an error, done
// means that the reminder with that name has nothing left to do.
func (a *Actor) advance(ctx context.Context, id, name string) (done bool, err error) {
	s, version, err := load(ctx, a.Records, id) // 1
	if err != nil {
		return false, err
	}
	if s.ReminderName != name {
		return actor.Orphaned(name, a.Now()), nil
	}
	if s.Due(a.Now()) {
		var reason Reason
		result := a.Sender.Send(ctx, s.Target, []byte(s.Message.Event), []byte(s.Message.Original)) // 2
		s, reason = s.After(result, a.Now(), a.Random())
		a.log(ctx, s, reason)
		if s, err = a.save(ctx, id, s, version); err != nil { // 3, 4
			return false, err
		}
	}
	if s.Phase == Failed && !s.Reported {
		err = a.report(ctx, id, s)
	}
	return s.Phase != Pending || s.ReminderName != name, err
}

// report publishes that the delivery has failed, and saves that this is published.
func (a *Actor) report(ctx context.Context, id string, s State) error { // 5
	e := cloudevents.New() // the same at every publication: only a restart adds to the number of attempts
	e.SetID(fmt.Sprintf("%s/%s/failed/%d", s.Message.EventID, s.Target, s.Total))
	e.SetType(TypeFailed)
	e.SetSource("urn:allregions:delivery")
	e.SetSubject(s.Message.EventID)
	e.SetTime(s.FailedAt())
	event, err := notification.EncodeEvent(e, s.status())
	if err == nil {
		err = a.Topic.Publish(ctx, e.ID(), event)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", e.ID(), err)
	}
	s, version, err := load(ctx, a.Records, id) // a save does not return the version
	if err != nil {
		return err
	}
	s.Reported = true
	_, err = a.save(ctx, id, s, version)
	return err
}

// load returns the delivery and its version; without a record both are zero.
func load(ctx context.Context, records actor.Reader, id string) (s State, version string, err error) {
	data, version, err := records.Load(ctx, id)
	if err == nil && len(data) > 0 {
		if s.more, err = actor.Decode(data, &s); err == nil && (!s.Exists() || s.Target == "" || s.Phase == "") {
			err = errors.New("no delivery of ours")
		}
	}
	if err != nil {
		return State{}, "", fmt.Errorf("load: %w", err)
	}
	return s, version, nil
}

// format is the number of the format of records that this version writes.
const format = 1

// save registers a new reminder, if there is an attempt to come, or no reminder yet, and
// then saves the record that names it. It returns that record.
func (a *Actor) save(ctx context.Context, id string, s State, version string) (State, error) {
	if s.Phase == Pending || s.ReminderName == "" {
		s.ReminderName = actor.ReminderName(a.Now(), s.ReminderName)
		if err := a.Reminders.Register(ctx, id, s.ReminderName, s.Next, Period); err != nil {
			return s, fmt.Errorf("register reminder: %w", err)
		}
	}
	s.Format = format
	data, err := actor.Marshal(s, s.more)
	if err == nil {
		err = a.Records.Save(ctx, id, data, version)
	}
	if err != nil {
		return s, fmt.Errorf("save: %w", err)
	}
	return s, nil
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
