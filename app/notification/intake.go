package notification

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
	"allregions/app/replication"
)

// The types of the CloudEvents on the queue and behind it.
const (
	TypeReceived = "acr.webhook.received"
	TypeDead     = "acr.webhook.dead"
)

// How long each of the two ways in may take. Together they stay below the 5 s
// after which ACR gives a webhook up. The first is longer than a turn that can
// still save: an event that is safe is not queued. Without a queue it may take
// all the time that there is.
const (
	queuePatience = 1500 * time.Millisecond
	deliverWithin = 10 * time.Second // one try from the queue
)

// Intake takes events in on two ways: to the actor, or, if that cannot be
// reached in time, to a queue from which the event comes back to it later. It
// loses an event only if both fail, and says so.
type Intake struct {
	Client *Client

	// Queue is a durable topic that comes back through Deliver; nil for none.
	// Dead takes what can never be delivered.
	Queue, Dead actor.Topic

	// Delivered, if set, is told of each try to deliver from the queue: how the
	// notification decided, or one of the results below, and the region, if it is
	// one that the notification expects. It must not block.
	Delivered func(region replication.Region, result string)

	Now func() time.Time // wall time
	Log *slog.Logger
}

// The results of a delivery from the queue that is not in its notification.
const (
	ResultDead   = "dead"   // it never can be
	ResultFailed = "failed" // it comes again
)

// Add gives e to its notification, or to the queue; then Result.Queued is true,
// and nothing else is known. A nil error means that the state store or the
// broker has the event. RefusedError is final, other errors mean that both ways
// failed.
func (i *Intake) Add(ctx context.Context, e replication.Event, expected []replication.Region) (Result, error) {
	e.ReceivedAt = i.Now() // accepted now, however long the actor takes
	actorCtx, cancel := i.forActor(ctx)
	defer cancel()
	result, err := i.Client.Add(actorCtx, e, expected)
	if _, refused := errors.AsType[*RefusedError](err); err == nil || refused || i.Queue == nil {
		return result, err
	}
	e.Via = replication.ViaQueue
	if queueErr := i.queue(ctx, e, expected); queueErr != nil {
		return Result{}, errors.Join(err, queueErr)
	}
	i.Log.LogAttrs(ctx, slog.LevelWarn, "queued", slog.String("notification", e.ID), slog.String("region", string(e.Region)), slog.Any("err", err))
	return Result{Queued: true}, nil
}

// forActor leaves the queue its time, if there is one.
func (i *Intake) forActor(ctx context.Context) (context.Context, context.CancelFunc) {
	if i.Queue == nil {
		return ctx, func() {}
	}
	leave := func() {}
	if end, ok := ctx.Deadline(); ok {
		ctx, leave = context.WithDeadline(ctx, end.Add(-queuePatience))
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	return ctx, func() { cancel(); leave() }
}

func (i *Intake) queue(ctx context.Context, e replication.Event, expected []replication.Region) error {
	// The time that the actor took is not the queue's.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queuePatience)
	defer cancel()
	id := e.ID + "/" + string(e.Region)
	data, err := envelope(id, TypeReceived, Message{e, expected})
	if err == nil {
		err = i.Queue.Publish(ctx, id, data)
	}
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// Deliver takes a CloudEvent from the queue. After an error it must come again.
// After a nil error the event is in its notification, or was and is again, or is
// among the dead: because it is no event of ours, or of a region that the
// notification does not expect.
func (i *Intake) Deliver(ctx context.Context, event []byte) error {
	id, region, result, err := i.deliver(ctx, event)
	if err != nil {
		err, result = fmt.Errorf("deliver %s: %w", id, err), ResultFailed
	} else {
		i.Log.LogAttrs(ctx, slog.LevelInfo, "delivered from the queue", slog.String("event", id), slog.String("result", result))
	}
	if i.Delivered != nil {
		i.Delivered(region, result)
	}
	return err
}

// deliver returns the event's id, its region, if that is expected, and what became
// of it.
func (i *Intake) deliver(ctx context.Context, event []byte) (id string, region replication.Region, result string, err error) {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	var received struct {
		ID   string  `json:"id"`
		Type string  `json:"type"`
		Data Message `json:"data"`
	}
	if err := json.Unmarshal(event, &received); err != nil {
		return "unknown", "", ResultDead, i.bury(ctx, "unknown", event, fmt.Errorf("decode: %w", err))
	}
	id = cmp.Or(received.ID, "unknown")
	e := received.Data.Event
	if received.Type != TypeReceived || !ValidID(e.ID) || e.Region == "" {
		return id, "", ResultDead, i.bury(ctx, id, event, fmt.Errorf("not an %s with an id and a region, but %q", TypeReceived, received.Type))
	}
	added, err := i.Client.Add(ctx, e, received.Data.Expected)
	if _, refused := errors.AsType[*RefusedError](err); refused {
		return id, "", ResultDead, i.bury(ctx, id, event, err)
	}
	if err == nil || slices.Contains(received.Data.Expected, e.Region) {
		region = e.Region
	}
	if err == nil && added.Reason != replication.NotAwaited {
		err = i.kept(ctx, e)
	}
	return id, region, string(added.Reason), err
}

// kept reads the record: its nil error means that e is in it. An event leaves the
// queue's keeping, which is the last that there is of it, only when the store shows it,
// and not because somebody on the way has said so.
func (i *Intake) kept(ctx context.Context, e replication.Event) error {
	st, err := i.Client.Status(ctx, e.ID)
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	if !st.Has(e.Region) {
		return fmt.Errorf("the record of %s has %v, and not %s", e.ID, st.Regions, e.Region)
	}
	return nil
}

// dead is what is kept of a message that can never be delivered.
type dead struct {
	Reason  string `json:"reason"`
	Message string `json:"message"` // as it came
}

func (i *Intake) bury(ctx context.Context, id string, message []byte, reason error) error {
	i.Log.LogAttrs(ctx, slog.LevelError, "dead letter", slog.String("event", id), slog.Any("err", reason))
	data, err := envelope(id, TypeDead, dead{reason.Error(), string(message)})
	if err == nil {
		err = i.Dead.Publish(ctx, id, data)
	}
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

// envelope is a CloudEvent between parts of this service.
func envelope(id, eventType string, payload any) ([]byte, error) {
	e := cloudevents.New()
	e.SetID(id)
	e.SetType(eventType)
	e.SetSource(UnknownSource)
	if err := errors.Join(e.SetData(cloudevents.ApplicationJSON, payload), e.Validate()); err != nil {
		return nil, fmt.Errorf("cloud event %s: %w", id, err)
	}
	return json.Marshal(e)
}
