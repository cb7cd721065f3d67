// Package sidecar talks to the Dapr sidecar, in both directions: Client calls
// it, Host answers it. It is the only package that imports Dapr's SDK, and it
// knows nothing of what the actors, records and events are about.
//
// The client is the SDK's. The host is not: Dapr calls actors over a plain HTTP
// protocol of four routes, and the SDK's server for it hides what must not be
// hidden here. It drops the error of a reminder and answers 200, it answers 200
// for a method that returns only an error, it keeps every actor in memory for
// as long as Dapr does, an hour, with a cache of its state that outlives failed
// writes and moves, and its idle time cannot be set. See Host.
package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"allregions/app/actor"
)

// Client calls the sidecar's API over gRPC.
type Client struct {
	dapr dapr.Client
	conn *grpc.ClientConn

	mu     sync.Mutex
	stores map[string]*store
}

// silence ends the SDK's log, which goes to stdout. It is one for all clients.
var silence = sync.OnceFunc(func() { dapr.SetLogger(nil) })

// Dial returns a client of the sidecar whose gRPC API listens on port of this
// machine. It does not wait: the sidecar may start later, restart, and come
// back; calls fail while it is away. Calls carry the trace context that p finds in
// their contexts; nil is none.
func Dial(port int, p propagation.TextMapPropagator) (*Client, error) {
	silence()
	// NewClient and its relatives block for 5 s and then give up.
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return call(withTrace(withAPIToken(ctx), p), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(withAPIToken(ctx), desc, cc, method, opts...)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial the sidecar: %w", err)
	}
	return &Client{dapr: dapr.NewClientWithConnection(conn), conn: conn, stores: map[string]*store{}}, nil
}

// withAPIToken adds Dapr's API token, where the platform sets one. The SDK adds
// it only to connections that it makes itself.
func withAPIToken(ctx context.Context) context.Context {
	if token := os.Getenv("DAPR_API_TOKEN"); token != "" {
		return metadata.AppendToOutgoingContext(ctx, "dapr-api-token", token)
	}
	return ctx
}

// withTrace adds the trace context. Dapr reads traceparent, and gives it to the
// host of the actor in the HTTP header of that name; where it traces, itself, with
// a span of its own between the two. It loses tracestate on the way.
func withTrace(ctx context.Context, p propagation.TextMapPropagator) context.Context {
	if p == nil {
		return ctx
	}
	var headers pairs
	p.Inject(ctx, &headers)
	if len(headers) == 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, headers...)
}

// pairs are names and values, as gRPC takes them: cheaper than a map, and this is
// for every call.
type pairs []string

func (p *pairs) Set(name, value string) { *p = append(*p, name, value) }
func (p *pairs) Get(string) string      { return "" }
func (p *pairs) Keys() []string         { return nil }

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Ready returns nil if the sidecar answers and has registered this process's
// actors with the placement service.
func (c *Client) Ready(ctx context.Context) error {
	m, err := c.dapr.GrpcClient().GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
	if err != nil {
		return fmt.Errorf("the Dapr sidecar does not answer: %w", err)
	}
	if a := m.GetActorRuntime(); !a.GetHostReady() {
		return fmt.Errorf("the Dapr sidecar does not host actors yet: %s, %s", a.GetRuntimeStatus(), a.GetPlacement())
	}
	return nil
}

// Actors returns the API for actors of one type.
func (c *Client) Actors(actorType string) *Actors { return &Actors{c.dapr, actorType} }

// Actors calls actors of one type, and keeps their reminders.
type Actors struct {
	dapr      dapr.Client
	actorType string
}

// errNoReply is what a call that failed comes to when Dapr loses its error: see batch.
var errNoReply = errors.New("the sidecar has no reply, and no error either")

// Invoke calls a method of the actor, on whichever host it lives. A nil error
// means that the method ended without one; after an error it may still run. It may
// also run twice, one after the other. A method must have a reply: without one a call
// that succeeded cannot be told from one that never came through.
func (a *Actors) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	for try := 1; ; try++ {
		out, err := a.dapr.InvokeActor(ctx, &dapr.InvokeActorRequest{ActorType: a.actorType, ActorID: id, Method: method, Data: body})
		if err == nil && len(out.Data) == 0 {
			return nil, errNoReply
		}
		if err == nil {
			return out.Data, nil
		}
		if try == invokeTries || !leaving(err) {
			return nil, err
		}
		select {
		case <-time.After(invokePause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

const (
	invokeTries = 3
	invokePause = 20 * time.Millisecond
)

// leaving tells whether a call failed because Dapr was putting the actor away, which
// was idle for idleTimeout at that moment, or goes to another replica. Dapr does
// not try again, and has no code for it.
func leaving(err error) bool {
	text := err.Error()
	return strings.Contains(text, "actor lock is closed") || strings.Contains(text, "remote actor moved")
}

// Register sets a reminder of id: it fires at due and every period from then on.
// It replaces the one with that name. After an error it may be set all the same,
// now or later.
func (a *Actors) Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error {
	return a.dapr.RegisterActorReminder(ctx, &dapr.RegisterActorReminderRequest{
		ActorType: a.actorType, ActorID: id, Name: name,
		DueTime: due.UTC().Format(time.RFC3339Nano), // absolute: a call that is delayed must not delay the deadline
		Period:  period.String(),
	})
}

// Unregister removes the reminder of id with that name, if there is one.
func (a *Actors) Unregister(ctx context.Context, id, name string) error {
	return a.dapr.UnregisterActorReminder(ctx, &dapr.UnregisterActorReminderRequest{ActorType: a.actorType, ActorID: id, Name: name})
}

// Records returns the records in a state store component whose keys begin with
// prefix.
func (c *Client) Records(name, prefix string) *Records {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stores[name] == nil {
		c.stores[name] = newStore(c.dapr, name)
	}
	return &Records{c.stores[name], prefix}
}

// Records are JSON values in a state store component. They are the actor.Records of
// this service.
//
// They are not what Dapr calls actor state, which whoever writes last overwrites.
// Dapr says that an actor has one turn at a time; but while actors move from one
// replica to another two have one, and a write whose caller has given up may reach
// the store behind the next turn's. Dapr's other state API compares, so that a turn
// cannot undo what it has not seen.
type Records struct {
	store  *store
	prefix string
}

// The metadata of every write: without it, Cosmos DB gets the value as a string.
var jsonValue = map[string]string{"contentType": "application/json"}

// Load returns what was last saved under key, and its version; nothing at all if
// nothing was.
func (r *Records) Load(ctx context.Context, key string) (value []byte, version string, err error) {
	item, err := r.store.get(ctx, r.prefix+key)
	if err != nil {
		return nil, "", err
	}
	if len(item.Value) == 0 {
		return nil, "", nil
	}
	return item.Value, item.Etag, nil
}

// Save stores value, which must be JSON, in place of the record of that version;
// without a version there must be none. A nil error means that the store has it. After
// an error that is not actor.ErrConflict it may be stored, now or later, unless
// something else is stored first.
func (r *Records) Save(ctx context.Context, key string, value []byte, version string) error {
	err := r.store.replace(ctx, r.prefix+key, value, version)
	if status.Code(err) != codes.Aborted {
		return err
	}
	// Dapr repeats a write whose answer was lost, and is then told that somebody was
	// faster: itself.
	stored, _, err := r.Load(ctx, key)
	if err != nil {
		return err
	}
	if !sameJSON(stored, value) {
		return actor.ErrConflict
	}
	return nil
}

// sameJSON compares what a store may keep with its keys in another order.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// Get returns the value under key, and nothing if there is none.
func (r *Records) Get(ctx context.Context, key string) ([]byte, error) {
	value, _, err := r.Load(ctx, key)
	return value, err
}

// Put stores value under key, in place of what is there. A nil error means that
// the store has it.
func (r *Records) Put(ctx context.Context, key string, value []byte) error {
	return r.store.put(ctx, r.prefix+key, value)
}

// Topic returns the topic with that name on a pub/sub component.
func (c *Client) Topic(pubsub, topic string) *Topic { return &Topic{c.dapr, pubsub, topic} }

// Topic is a topic on a pub/sub component.
type Topic struct {
	dapr          dapr.Client
	pubsub, topic string
}

// Publish puts a complete CloudEvent on the topic. A nil error means that the
// broker took it.
func (t *Topic) Publish(ctx context.Context, eventID string, event []byte) error {
	return t.dapr.PublishEvent(ctx, t.pubsub, t.topic, event,
		// Anything but this type and Dapr wraps the event in one of its own,
		// with a new id at every try.
		dapr.PublishEventWithContentType("application/cloudevents+json"),
		// Service Bus drops a second message with the same id.
		dapr.PublishEventWithMetadata(map[string]string{"MessageId": messageID(eventID)}))
}

// messageID is what Service Bus tells messages apart by: at most 128 characters. A
// longer id, such as that of a failed delivery, becomes its hash.
func messageID(eventID string) string {
	if len(eventID) <= 128 {
		return eventID
	}
	hash := sha256.Sum256([]byte(eventID))
	return hex.EncodeToString(hash[:])
}

// Subscribe calls handle with every CloudEvent that comes out of the topic, with
// all its attributes, until ctx ends (nil) or the sidecar goes away. It uses
// Dapr's streaming subscription, which is an alpha API: good for a tool on a
// laptop, absent on Azure Container Apps. Subscribed, if not nil, is called once
// the sidecar has accepted the subscription.
func (t *Topic) Subscribe(ctx context.Context, subscribed func(), handle func(event []byte)) error {
	sub, err := t.dapr.Subscribe(ctx, dapr.SubscriptionOptions{PubsubName: t.pubsub, Topic: t.topic,
		// Otherwise the SDK takes the event apart and drops what it has no field for.
		Metadata: map[string]string{"rawPayload": "true"}})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", t.topic, err)
	}
	defer sub.Close()
	if subscribed != nil {
		subscribed()
	}
	for {
		msg, err := sub.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive from %s: %w", t.topic, err)
		}
		handle(msg.RawData)
		if err := msg.Success(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("acknowledge to %s: %w", t.topic, err)
		}
	}
}
