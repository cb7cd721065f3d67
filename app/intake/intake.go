// Package intake brings a webhook's event to its notification's actor: directly,
// or, if the actor does not answer in time, by a queue. A message from the queue
// that can never be delivered becomes a dead letter.
package intake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"allregions/app/actor"
	"allregions/app/notification"
	"allregions/app/replication"
)

// The types of the CloudEvents on the queue and among the dead letters.
const (
	TypeReceived = "acr.webhook.received"
	TypeDead     = "acr.webhook.dead"
)

// Together with notification.CallTimeout, queueTimeout stays below the 5 s after
// which ACR gives a webhook up.
const (
	queueTimeout   = 1500 * time.Millisecond
	queueAfter     = 1500 * time.Millisecond // so long an event waits for its actor alone
	queuePause     = 100 * time.Millisecond  // between two tries to publish
	deliverTimeout = 10 * time.Second        // of one delivery from the queue
)

// The results of an event that is not in its notification, for metrics.
const (
	ResultQueued  = "queued"  // it will be
	ResultRefused = "refused" // its region is not expected, or its id can be none
	ResultFailed  = "failed"  // it is lost unless it comes again; from the queue it does
	ResultDead    = "dead"    // it never can be
)

// Regions knows what is awaited now; see api.Regions.
type Regions interface {
	Expected(ctx context.Context, registry string) (replication.Awaited, error)
	Recheck(ctx context.Context, registry string, region replication.Region) bool
}

// Intake sends events to their actors, and to the queue if that fails.
type Intake struct {
	Client *notification.Client

	// Queue is a durable topic whose messages come back through Deliver; nil for
	// none. Dead takes what can never be delivered.
	Queue, Dead actor.Topic

	// Sidecar is on the way to actors and queue. Without it nothing is tried twice.
	Sidecar Sidecar

	// DeadLetters counts those on Dead.
	DeadLetters *DeadLetters

	// Regions, if set, is asked about a region that a queued event's notification does not
	// expect: it may be a new one.
	Regions Regions

	// Delivered, if set, is called after each delivery from the queue: with the
	// notification's decision or one of the results above, and with the region if
	// the notification expects it. It must not block.
	Delivered func(region replication.Region, result string)

	Now func() time.Time // wall time
	Log *slog.Logger
}

// Result is what became of an event.
type Result struct {
	notification.Result      // empty if the event is queued
	Queued              bool // it is safe, but not in its notification yet
}

// Add sends e to its notification, or to the queue. An event that comes from ACR's log was
// accepted when it says; any other one is accepted now. A nil error means that the state
// store or the broker has the event. A notification.RefusedError is final; any other
// error means that both ways failed.
func (i *Intake) Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (Result, error) {
	if e.Via != replication.ViaEventLog {
		e.ReceivedAt = i.Now() // however long the actor takes
	}
	if i.Queue == nil {
		result, err := i.Client.Add(ctx, e, awaited)
		return Result{Result: result}, err
	}
	direct := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			a.panicked = recover()
			direct <- a
		}()
		actorCtx, cancel := i.actorContext(ctx)
		defer cancel()
		a.result, a.err = i.Client.Add(actorCtx, e, awaited)
	}()
	return i.first(ctx, e, awaited, direct)
}

// answer is that of an actor, or the panic of its call.
type answer struct {
	result   notification.Result
	err      error
	panicked any
}

// first returns what comes first: the actor's answer, or that the event is queued.
//
// Broker and actor may both be away for a moment: an event that tries the one behind
// the other would miss both. One that goes both ways is a duplicate, and harmless; one
// that may be refused would become a dead letter. The turn of one that is queued goes on:
// to do it again costs more than to end it, when everything is slow.
func (i *Intake) first(ctx context.Context, e replication.Event, awaited replication.Awaited, direct <-chan answer) (Result, error) {
	var patience <-chan time.Time
	if slices.Contains(awaited.All(), e.Region) {
		patience = time.After(queueAfter)
	}
	var queue chan error // nil until the event goes there
	failed, queueErr := errSlow, error(nil)
	for direct != nil || queueErr == nil {
		select {
		case a := <-direct:
			if a.panicked != nil {
				panic(a.panicked) // as if the call were made here
			}
			if a.err == nil || refused(a.err) {
				return Result{Result: a.result}, a.err
			}
			failed, direct, patience = a.err, nil, nil
		case <-patience:
		case err := <-queue:
			if err == nil {
				i.Log.LogAttrs(ctx, slog.LevelWarn, "queued", slog.String("notification", e.ID), slog.String("region", string(e.Region)), slog.Any("err", failed))
				return Result{Queued: true}, nil
			}
			queueErr = fmt.Errorf("queue: %w", err)
		}
		if queue == nil {
			queue = make(chan error, 1)
			go func() { queue <- i.enqueue(ctx, e, awaited) }()
		}
	}
	return Result{}, errors.Join(failed, queueErr)
}

var errSlow = fmt.Errorf("the actor has not answered for %v", queueAfter)

// enqueue publishes e, again and again while the broker is away for a moment. The queue
// has a time of its own, and what the actor has left of the caller's; a caller that has
// gone does not end it.
func (i *Intake) enqueue(ctx context.Context, e replication.Event, awaited replication.Awaited) error {
	e.Via = cmp.Or(e.Via, replication.ViaQueue)
	timeout := queueTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(timeout, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	m := notification.NewMessage(e, awaited)
	for {
		err := publish(ctx, i.Queue, e.ID+"/"+string(e.Region), TypeReceived, m)
		if err == nil || i.Sidecar == nil || i.Sidecar.Refuses() { // then another replica is better
			return err
		}
		select {
		case <-time.After(queuePause):
		case <-ctx.Done():
			return err
		}
	}
}

// actorContext limits the call of the actor, so that the queue has its time. A caller that
// has its answer, or has gone, does not end it.
func (i *Intake) actorContext(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := notification.CallTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)-queueTimeout)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

// Deliver takes a CloudEvent from the queue. After an error the message must come again;
// the error says when, in RetryAfter. A nil error means that the event is in its
// notification, or that the message is a dead letter, and counted as one: see Reason.
func (i *Intake) Deliver(ctx context.Context, message []byte) error {
	m, err := parseQueued(message)
	var region replication.Region
	var result string
	if err == nil {
		region, result, err = i.deliver(ctx, m)
	}
	if err != nil {
		result, err = i.settle(ctx, m, message, err)
	}
	if err == nil {
		i.Log.LogAttrs(ctx, slog.LevelInfo, "delivered from the queue", slog.String("event", m.id), slog.String("result", result))
	}
	if i.Delivered != nil {
		i.Delivered(region, result)
	}
	return err
}

// queued is a message of the queue.
type queued struct {
	id      string // of the CloudEvent; made up if it has none
	event   replication.Event
	awaited replication.Awaited
}

func parseQueued(message []byte) (queued, error) {
	var m struct {
		ID   string               `json:"id"`
		Type string               `json:"type"`
		Data notification.Message `json:"data"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return queued{id: unknownID(message)}, notOurs{fmt.Errorf("decode: %w", err)}
	}
	q := queued{cmp.Or(m.ID, unknownID(message)), replication.Event(m.Data.Event), m.Data.Awaited()}
	if m.Type != TypeReceived || !notification.ValidID(q.event.ID) || q.event.Region == "" || q.event.ReceivedAt.IsZero() {
		return q, notOurs{fmt.Errorf("not an %s with an id, a region and a time, but %q", TypeReceived, m.Type)}
	}
	return q, nil
}

// deliver returns the event's region if that is expected, and what became of it.
func (i *Intake) deliver(ctx context.Context, m queued) (region replication.Region, result string, err error) {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	added, err := i.Client.Add(ctx, m.event, m.awaited)
	if refused(err) && i.Regions != nil && i.Regions.Recheck(ctx, m.event.Registry, m.event.Region) {
		if m.awaited, err = i.Regions.Expected(ctx, m.event.Registry); err == nil {
			added, err = i.Client.Add(ctx, m.event, m.awaited)
		}
	}
	if err == nil || slices.Contains(m.awaited.All(), m.event.Region) {
		region = m.event.Region
	}
	if err == nil && added.Reason != replication.NotAwaited {
		err = i.confirm(ctx, m.event)
	}
	return region, string(added.Reason), err
}

// settle makes a message that could not be delivered a dead letter, or one that comes
// again.
func (i *Intake) settle(ctx context.Context, m queued, message []byte, err error) (result string, _ error) {
	age := i.Now().Sub(m.event.ReceivedAt)
	fate := judge(fmt.Errorf("deliver %s: %w", m.id, err), age)
	if fate.Pause > 0 {
		return ResultFailed, fate
	}
	if err := i.bury(ctx, m.id, message, fate.String()); err != nil {
		return ResultFailed, later(fmt.Errorf("dead letter %s: %w", m.id, err), age)
	}
	return ResultDead, nil
}

// confirm reads the record: its nil error means that e is in it. The queue has the last
// copy of an event, which goes only when the store shows the event, whatever the actor
// has replied.
func (i *Intake) confirm(ctx context.Context, e replication.Event) error {
	st, err := i.Client.Status(ctx, e.ID)
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	if !st.Has(e.Region) {
		return fmt.Errorf("the record of %s has %v, and not %s", e.ID, st.Reported(), e.Region)
	}
	return nil
}

func refused(err error) bool { return isA[*notification.RefusedError](err) }

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// deadLetter is what is kept of a message that can never be delivered.
type deadLetter struct {
	Reason  string `json:"reason"`
	Message string `json:"message"` // as it came
}

// bury logs a dead letter, publishes and counts it.
func (i *Intake) bury(ctx context.Context, id string, message []byte, reason string) error {
	i.Log.LogAttrs(ctx, slog.LevelError, "dead letter", slog.String("event", id), slog.String("err", reason))
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	if err := publish(ctx, i.Dead, id, TypeDead, deadLetter{reason, string(message)}); err != nil {
		return err
	}
	return i.DeadLetters.Add(ctx, DeadLetter{At: i.Now(), Event: id, Reason: reason})
}

// publish puts a CloudEvent on a topic between parts of this service.
func publish(ctx context.Context, topic actor.Topic, id, eventType string, data any) error {
	e := cloudevents.New()
	e.SetID(id)
	e.SetType(eventType)
	e.SetSource(notification.UnknownSource)
	body, err := notification.EncodeEvent(e, data)
	if err != nil {
		return err
	}
	return topic.Publish(ctx, id, body)
}
