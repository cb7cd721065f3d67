package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"allregions/app/actor"
	"allregions/app/notification"
	"allregions/app/replication"
	"allregions/app/target"
)

// ErrNone means that there is no such delivery: no such target, or none that
// wanted the event.
var ErrNone = errors.New("no such delivery")

// Notifications reads. The errors are notification.ErrNotFound if there is none.
type Notifications interface {
	Status(ctx context.Context, id string) (notification.Status, error)
	Original(ctx context.Context, id string) (string, error)

	// Newer returns the notification of a newer push of the same tag; "" if there is none.
	Newer(ctx context.Context, st notification.Status) (string, error)
}

// Dispatcher begins the deliveries of outcomes, and reads and restarts them.
type Dispatcher struct {
	Targets       *target.Set
	Actors        actor.Invoker
	Records       actor.Reader
	Notifications Notifications
	Log           *slog.Logger
}

// Dispatch begins the deliveries of an outcome from the topic. After an error the
// event must come again. After a nil error every target that wants it gets it, or
// its failure will be on the topic. An event that is no outcome is dropped.
func (d *Dispatcher) Dispatch(ctx context.Context, event []byte) error {
	if len(d.Targets.All) == 0 {
		return nil
	}
	e, err := target.ParseEvent(event)
	if errors.Is(err, target.ErrOther) {
		return nil
	}
	if err == nil {
		e.Body, err = asPublished(event)
	}
	if err != nil { // another try will not help
		d.Log.LogAttrs(ctx, slog.LevelError, "not an event of ours", slog.Any("err", err))
		return nil
	}
	var errs []error
	for _, t := range d.Targets.All {
		errs = append(errs, d.begin(ctx, t, e))
	}
	return errors.Join(errs...)
}

// begin begins the delivery of e to t, if t wants it. A filter that fails would fail
// again on e. The delivery's actor publishes that failure: the topic's in-memory form
// accepts nothing while a subscriber is at work.
func (d *Dispatcher) begin(ctx context.Context, t *target.Target, e target.Event) error {
	wants, failure := t.Wants(e)
	if failure == nil && !wants {
		return nil
	}
	m := startMessage{Target: t.Name, Message: Message{EventID: e.ID, Event: string(e.Body)}}
	if t.WantsOriginal() {
		var err error
		// The record may have expired by now. Without it the delivery fails, and says so.
		if m.Message.Original, err = d.Notifications.Original(ctx, e.Status.ID); err != nil && !errors.Is(err, notification.ErrNotFound) {
			return err
		}
		// What comes from ACR's log may be old, and the target deploys what it gets.
		if e.Status.Via(replication.ViaEventLog) {
			if m.Newer, err = d.Notifications.Newer(ctx, e.Status); err != nil {
				return err
			}
		}
	}
	if m.Newer != "" {
		d.Log.LogAttrs(ctx, slog.LevelInfo, "delivery", slog.String("event", e.ID), slog.String("target", t.Name),
			slog.String("decision", string(Superseded)), slog.String("newer", m.Newer))
	}
	if failure != nil {
		d.Log.LogAttrs(ctx, slog.LevelError, "filter failed", slog.String("event", e.ID), slog.String("target", t.Name), slog.Any("err", failure))
		m.Error = failure.Error()
	}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return d.start(ctx, e.ID, t.Name, body)
}

// startTimeout is how long a delivery may take to begin.
const startTimeout = 10 * time.Second

// start begins a delivery. If the topic brings an event again, one may have begun, and
// its actor be busy with an attempt: no other target waits for that.
func (d *Dispatcher) start(ctx context.Context, eventID, name string, body []byte) error {
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := d.invoke(limited, eventID, name, methodStart, body)
	if err == nil || limited.Err() == nil {
		return err
	}
	if s, _, failed := load(ctx, d.Records, ID(eventID, name)); failed == nil && s.Exists() {
		return nil
	}
	return err
}

// asPublished takes out what Dapr has added on the way: a target gets what was
// published. The CloudEvents SDK would also write times, and the attributes' order, anew.
func asPublished(event []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(event, &fields); err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	for _, added := range []string{"pubsubname", "topic", "traceid", "traceparent", "tracestate"} {
		delete(fields, added)
	}
	return json.Marshal(fields)
}

func (d *Dispatcher) invoke(ctx context.Context, eventID, name, method string, body []byte) (Status, error) {
	id := ID(eventID, name)
	data, err := d.Actors.Invoke(ctx, id, method, body)
	if err != nil {
		return Status{}, fmt.Errorf("delivery %s: %w", id, err)
	}
	var st Status
	if err := json.Unmarshal(data, &st); err != nil {
		return Status{}, fmt.Errorf("delivery %s: decode reply: %w", id, err)
	}
	return st, nil
}

// Health returns the health of all targets, in the order of the settings.
func (d *Dispatcher) Health() []target.Health { return d.Targets.Health() }

// List returns the deliveries of a notification's outcomes, as they were last saved:
// the oldest outcome first, and only to the targets that there are now.
func (d *Dispatcher) List(ctx context.Context, id string) ([]Status, error) {
	events, err := d.events(ctx, id)
	if err != nil {
		return nil, err
	}
	targets := d.Targets.All
	list := make([]Status, len(events)*len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, event := range events {
		for j, t := range targets {
			group.Go(func() error {
				s, _, err := load(ctx, d.Records, ID(event, t.Name))
				if err != nil {
					return fmt.Errorf("delivery %s: %w", ID(event, t.Name), err)
				}
				list[i*len(targets)+j] = s.status()
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(st Status) bool { return !st.Exists() }), nil
}

// Again makes a new attempt to deliver a notification's newest outcome, in any phase,
// or returns ErrNone.
func (d *Dispatcher) Again(ctx context.Context, id, name string) (Status, error) {
	events, err := d.events(ctx, id)
	if err != nil {
		return Status{}, err
	}
	if len(events) == 0 || !slices.ContainsFunc(d.Targets.All, func(t *target.Target) bool { return t.Name == name }) {
		return Status{}, ErrNone
	}
	st, err := d.invoke(ctx, events[len(events)-1], name, methodRestart, nil)
	if err == nil && !st.Exists() {
		err = ErrNone
	}
	return st, err
}

// events are the ids of the events that a notification has had.
func (d *Dispatcher) events(ctx context.Context, id string) ([]string, error) {
	st, err := d.Notifications.Status(ctx, id)
	if err != nil {
		return nil, err
	}
	var events []string
	if st.Status == replication.Recovered {
		events = append(events, notification.EventID(id, replication.TimedOut))
	}
	if st.Concluded() {
		events = append(events, notification.EventID(id, st.Status))
	}
	return events, nil
}
