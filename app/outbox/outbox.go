// Package outbox stands between the topic of the outcomes and the targets: it
// begins the deliveries of an outcome, makes their attempts, and knows what became
// of them. What a target is, package target knows; when to try, package delivery.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"allregions/app/delivery"
	"allregions/app/notification"
	"allregions/app/replication"
	"allregions/app/target"
)

// typeACR is the type of target that gets the webhook's own body.
const typeACR = "acr"

// Notifications reads. The errors are notification.ErrNotFound if there is none.
type Notifications interface {
	Status(ctx context.Context, id string) (notification.Status, error)
	Original(ctx context.Context, id string) (string, error)
}

// Attempter makes one attempt.
type Attempter interface {
	Send(ctx context.Context, t *target.Target, e target.Event) target.Result
}

// Outbox serves a fixed list of targets.
type Outbox struct {
	Targets       []*target.Target
	Attempts      Attempter
	Deliveries    *delivery.Client
	Notifications Notifications

	// Attempted, if set, is told of each attempt. It must not block.
	Attempted func(target string, v delivery.Verdict)

	Now func() time.Time
	Log *slog.Logger

	mu     sync.Mutex
	health map[string]delivery.TargetStatus
}

// Take begins the deliveries of an outcome that came out of the topic. After an
// error it must come again. After a nil error every target that wants it will get
// it, or its failure will be on the topic; what is no outcome is passed over.
func (o *Outbox) Take(ctx context.Context, event []byte) error {
	if len(o.Targets) == 0 {
		return nil
	}
	e, err := target.ParseEvent(event)
	if errors.Is(err, target.ErrOther) {
		return nil
	}
	if err != nil { // it will be no better the next time
		o.Log.LogAttrs(ctx, slog.LevelError, "not an event of ours", slog.Any("err", err))
		return nil
	}
	body, err := asPublished(event)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range o.Targets {
		errs = append(errs, o.begin(ctx, t, e, body))
	}
	return errors.Join(errs...)
}

// begin begins the delivery of e, which is body, to t, if t wants it. A filter that
// fails would do so again on e. It is the delivery's actor that publishes it, and
// not we: the topic's in-memory form takes nothing while a subscriber is at work.
func (o *Outbox) begin(ctx context.Context, t *target.Target, e target.Event, body []byte) error {
	wants, failure := t.Wants(e)
	if failure == nil && !wants {
		return nil
	}
	m := delivery.Message{EventID: e.ID, Event: string(body)}
	if t.Type == typeACR {
		var err error
		// Without a record, which may have expired by now, the delivery fails, and says so.
		if m.Original, err = o.Notifications.Original(ctx, e.Status.ID); err != nil && !errors.Is(err, notification.ErrNotFound) {
			return err
		}
	}
	if failure != nil {
		o.Log.LogAttrs(ctx, slog.LevelError, "filter failed", slog.String("event", e.ID), slog.String("target", t.Name), slog.Any("err", failure))
		return o.Deliveries.Fail(ctx, t.Name, m, failure)
	}
	return o.Deliveries.Start(ctx, t.Name, m)
}

// asPublished takes out what Dapr has added on the way: a target gets what the
// topic got.
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

// Send is one attempt, for delivery.Actor.
func (o *Outbox) Send(ctx context.Context, name string, m delivery.Message) delivery.Result {
	i := slices.IndexFunc(o.Targets, func(t *target.Target) bool { return t.Name == name })
	if i < 0 {
		return delivery.Result{Verdict: delivery.Never, Error: "the target is not in NOTIFY_TARGETS any more"}
	}
	t := o.Targets[i]
	if o.statusOf(t).Disabled {
		return delivery.Result{Verdict: delivery.Gone, Error: "the target has answered 410, and gets nothing until a restart"}
	}
	e, err := target.ParseEvent([]byte(m.Event))
	if err != nil {
		return delivery.Result{Verdict: delivery.Never, Error: err.Error()}
	}
	e.Body, e.Original = []byte(m.Event), []byte(m.Original)
	r := o.Attempts.Send(ctx, t, e)
	result := delivery.Result{Verdict: delivery.Verdict(r.Verdict()), Status: r.Status, Pause: r.RetryAfter}
	if result.Verdict != delivery.Accepted {
		result.Error = r.String()
	}
	o.record(t, result)
	if o.Attempted != nil {
		o.Attempted(t.Name, result.Verdict)
	}
	return result
}

func (o *Outbox) record(t *target.Target, r delivery.Result) {
	st := o.statusOf(t)
	now := o.Now().UTC()
	st.Last, st.Error = &now, r.Error
	st.Failures++
	if r.Verdict == delivery.Accepted {
		st.Failures = 0
	}
	st.Disabled = st.Disabled || r.Verdict == delivery.Gone
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.health == nil {
		o.health = map[string]delivery.TargetStatus{}
	}
	o.health[t.Name] = st
}

func (o *Outbox) statusOf(t *target.Target) delivery.TargetStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	if st, ok := o.health[t.Name]; ok {
		return st
	}
	return delivery.TargetStatus{Name: t.Name, Type: t.Type}
}

// Health is all targets, in the order of the settings.
func (o *Outbox) Health() []delivery.TargetStatus {
	list := []delivery.TargetStatus{}
	for _, t := range o.Targets {
		list = append(list, o.statusOf(t))
	}
	return list
}

// List returns the deliveries of a notification's outcomes, the oldest outcome
// first, to the targets that there are now.
func (o *Outbox) List(ctx context.Context, id string) ([]delivery.Status, error) {
	events, err := o.events(ctx, id)
	if err != nil {
		return nil, err
	}
	type one struct {
		st  delivery.Status
		err error
	}
	found := make([]one, len(events)*len(o.Targets))
	var wg sync.WaitGroup
	for i, event := range events {
		for j, t := range o.Targets {
			wg.Go(func() {
				st, err := o.Deliveries.Status(ctx, event, t.Name)
				found[i*len(o.Targets)+j] = one{st, err}
			})
		}
	}
	wg.Wait()
	list := []delivery.Status{}
	var errs []error
	for _, f := range found {
		if f.err != nil {
			errs = append(errs, f.err)
		} else if f.st.Exists() {
			list = append(list, f.st)
		}
	}
	return list, errors.Join(errs...)
}

// Again makes a new attempt to deliver a notification's newest outcome, or returns
// delivery.ErrNone.
func (o *Outbox) Again(ctx context.Context, id, name string) (delivery.Status, error) {
	if !slices.ContainsFunc(o.Targets, func(t *target.Target) bool { return t.Name == name }) {
		return delivery.Status{}, delivery.ErrNone
	}
	events, err := o.events(ctx, id)
	if err != nil {
		return delivery.Status{}, err
	}
	if len(events) == 0 {
		return delivery.Status{}, delivery.ErrNone
	}
	st, err := o.Deliveries.Restart(ctx, events[len(events)-1], name)
	if err == nil && !st.Exists() {
		err = delivery.ErrNone
	}
	return st, err
}

// events are the ids of the events that a notification has had.
func (o *Outbox) events(ctx context.Context, id string) ([]string, error) {
	st, err := o.Notifications.Status(ctx, id)
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
