package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
)

// Subscription is a topic whose messages come to this process.
type Subscription struct {
	PubSub, Topic string

	// Needed, if set, is asked when the sidecar asks what to subscribe to: whether this
	// is one of them.
	Needed func(Broker) bool

	// Take is called with every CloudEvent, any number at a time. After an
	// error the same one comes again. If the error has a method RetryAfter, the broker
	// does not get it back before that time; see redelivery.
	Take func(ctx context.Context, event []byte) error
}

// Broker is what there is to know of a pub/sub component.
type Broker struct {
	Forgets bool // keeps nothing for a subscriber that is not there
	Single  bool // brings its messages one by one, as many at a time as it is set up for
	Patient bool // waits by itself before it brings a refused message again
	Holds   bool // brings others while one is held for a minute, and nobody else that one
}

// brokers are the components that this service knows, by their type. All that is said
// of any other is that it may be none of this.
var brokers = map[string]Broker{
	"pubsub.in-memory":               {Forgets: true, Single: true},
	"pubsub.azure.servicebus.topics": {Single: true, Holds: true},
	"pubsub.azure.servicebus":        {Single: true, Holds: true},
	"pubsub.redis":                   {Patient: true},
}

// brokerPatience is how long Broker waits for a sidecar that has just started: longer
// than the pause between two tries to connect to it.
const brokerPatience = 3 * time.Second

// Broker tells what there is to know of the pub/sub component with that name.
func (c *Client) Broker(ctx context.Context, pubsub string) Broker {
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	componentType, _ := c.componentType(ctx, pubsub, grpc.WaitForReady(true)) // without an answer, nothing is known
	return brokers[componentType]
}

// Dapr's gathering of messages, where the broker brings them one by one only: so many,
// or all that came in that time.
const (
	gatherMost = 10
	gatherTime = 10 * time.Millisecond
)

func topicPath(topic string) string { return "/topics/" + topic }

func (h *Host) subscribed(w http.ResponseWriter, r *http.Request) {
	list := []map[string]any{}
	for _, s := range h.subscriptions {
		broker := h.broker(r.Context(), s.PubSub)
		if s.Needed != nil && !s.Needed(broker) {
			continue
		}
		most := gatherMost
		if broker.Single {
			most = 1
		}
		list = append(list, map[string]any{
			"pubsubname": s.PubSub,
			"topic":      s.Topic,
			"route":      topicPath(s.Topic),
			"metadata":   map[string]string{"rawPayload": "true"}, // the bytes, as they are on the broker
			"bulkSubscribe": map[string]any{
				"enabled": true, "maxMessagesCount": most, "maxAwaitDurationMs": gatherTime.Milliseconds()},
		})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(list)
}

// batch is what the sidecar brings: Dapr's bulk subscription, for the sake of its
// answer, which names each message that is done with.
//
// Of a plain subscription, any 2xx is the end of a message, and Dapr (1.16.5, 1.18.0)
// makes one up: two calls of the application at a time may change places in its
// pipeline (pkg/middleware/http, pipeline.http). An error of the first is then the
// second's, and the first has become a 200 without a body. So a message that met a
// closed port was acknowledged, in a thousandth of the cases. In a batch, nothing is
// not an answer, and the messages come again.
//
// Calls of actors change places, too: see Actors.Invoke. A reminder's firing may be
// taken for done, and must be repeated (actor.Reminders).
type batch struct {
	Entries []struct {
		ID    string `json:"entryId"`
		Event []byte `json:"event"` // base64, in JSON
	} `json:"entries"`
}

// verdict is what the answer to a batch says of a message.
type verdict struct {
	ID     string `json:"entryId"`
	Status string `json:"status"` // done or again
}

const (
	done  = "SUCCESS" // and is not brought any more
	again = "RETRY"
)

// take answers what became of each message, and 500 to what is no batch. Dapr takes a
// 404 for done.
func (h *Host) take(s Subscription) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		var b batch
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&b)
		if err == nil && len(b.Entries) == 0 {
			err = errors.New("no entries")
		}
		if err != nil {
			err = fmt.Errorf("decode a batch: %w", err)
			h.refuse(r.Context(), s, begun, err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		verdicts := make([]verdict, len(b.Entries))
		var all sync.WaitGroup
		for i, e := range b.Entries {
			all.Go(func() {
				verdicts[i] = verdict{e.ID, done}
				if err := h.guarded(h.tracedEvent(r.Context(), e.Event), s, e.Event); err != nil {
					h.refuse(r.Context(), s, begun, err)
					verdicts[i].Status = again
				}
			})
		}
		all.Wait()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"statuses": verdicts})
	}
}

// guarded is Take, in which a panic is an error: the other messages of the batch are
// not to blame.
func (h *Host) guarded(ctx context.Context, s Subscription, event []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.Take(ctx, event)
}

// refuse logs why a message will come again, and holds it until it may.
func (h *Host) refuse(ctx context.Context, s Subscription, begun time.Time, err error) {
	h.log.LogAttrs(ctx, slog.LevelWarn, "a message will come again", slog.String("topic", s.Topic), slog.Any("err", err))
	h.pause(ctx, redelivery(h.broker(ctx, s.PubSub), err, time.Since(begun)))
}

// tracedEvent is a context in the trace of the event's publisher: Dapr writes that
// into the event.
func (h *Host) tracedEvent(ctx context.Context, event []byte) context.Context {
	var trace struct {
		Parent string `json:"traceparent"`
		State  string `json:"tracestate"`
	}
	if json.Unmarshal(event, &trace) != nil || trace.Parent == "" {
		return ctx
	}
	return h.propagator.Extract(ctx, propagation.MapCarrier{"traceparent": trace.Parent, "tracestate": trace.State})
}
