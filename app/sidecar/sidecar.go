// Package sidecar talks to the Dapr sidecar, in both directions: Client calls
// it, Host answers it. It is the only package that imports Dapr's SDK, and it
// knows nothing of what the actors, records and events are about.
//
// The client is the SDK's. The host is not: Dapr calls actors over plain HTTP, and the
// SDK's server for that answers 200 to a reminder that failed and to a method that
// returns only an error. It keeps every actor in memory for an hour, with a cache of
// its state that outlives failed writes and moves.
package sidecar

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Client calls the sidecar's API over gRPC.
type Client struct {
	dapr dapr.Client
	conn *grpc.ClientConn

	stores sync.Map // string to *store: by the component's name
	types  sync.Map // string to string: the components' types by name, as far as the sidecar has told them
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
			return call(outgoing(ctx, cmp.Or(p, noTrace)), method, req, reply, cc, opts...)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial the sidecar: %w", err)
	}
	return &Client{dapr: dapr.NewClientWithConnection(conn), conn: conn}, nil
}

// noTrace passes no trace on.
var noTrace propagation.TextMapPropagator = propagation.NewCompositeTextMapPropagator()

// outgoing adds the trace context, and Dapr's API token, where the platform sets one:
// the SDK adds that only to connections that it makes itself.
//
// Dapr reads traceparent, and gives it to the host of the actor in the HTTP header of
// that name; where it traces, itself, with a span of its own between the two. It loses
// tracestate on the way.
func outgoing(ctx context.Context, p propagation.TextMapPropagator) context.Context {
	headers := propagation.MapCarrier{}
	p.Inject(ctx, headers)
	if token := os.Getenv("DAPR_API_TOKEN"); token != "" {
		headers["dapr-api-token"] = token
	}
	for name, value := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	return ctx
}

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

// componentType returns the type of a component, such as state.sqlite; "" if the
// sidecar has none of that name. It asks the sidecar until it knows.
func (c *Client) componentType(ctx context.Context, name string, opts ...grpc.CallOption) (string, error) {
	if known, ok := c.types.Load(name); ok {
		return known.(string), nil
	}
	m, err := c.dapr.GrpcClient().GetMetadata(ctx, &runtimev1.GetMetadataRequest{}, opts...)
	if err != nil {
		return "", fmt.Errorf("the type of component %s: %w", name, err)
	}
	for _, r := range m.GetRegisteredComponents() {
		if r.GetName() == name {
			c.types.Store(name, r.GetType())
			return r.GetType(), nil
		}
	}
	return "", nil
}
