package sidecar

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"testing"

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"allregions/app/actor"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// traced is the context of a span.
func traced(t *testing.T) context.Context {
	t.Helper()
	ctx := propagation.TraceContext{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": traceparent})
	if !trace.SpanContextFromContext(ctx).IsValid() {
		t.Fatal("no span")
	}
	return ctx
}

// daprd remembers the metadata of the calls of actors.
type daprd struct {
	runtimev1.UnimplementedDaprServer
	calls chan metadata.MD
}

func (d *daprd) InvokeActor(ctx context.Context, _ *runtimev1.InvokeActorRequest) (*runtimev1.InvokeActorResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	d.calls <- md
	return &runtimev1.InvokeActorResponse{Data: []byte("{}")}, nil
}

// The sidecar is told of the trace in which it is called, if there is tracing, and the
// API token of the platform.
func TestCallsCarryTheTrace(t *testing.T) {
	t.Setenv("DAPR_API_TOKEN", "secret")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &daprd{calls: make(chan metadata.MD, 1)}
	server := grpc.NewServer()
	runtimev1.RegisterDaprServer(server, d)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	for _, tt := range []struct {
		p    propagation.TextMapPropagator
		ctx  context.Context
		want []string
	}{
		{propagation.TraceContext{}, traced(t), []string{traceparent}},
		{propagation.TraceContext{}, t.Context(), nil},
		{nil, traced(t), nil},
	} {
		client, err := Dial(l.Addr().(*net.TCPAddr).Port, tt.p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Actors("Thing").Invoke(tt.ctx, "a", "Do", nil); err != nil {
			t.Fatal(err)
		}
		md := <-d.calls
		if got := md.Get("dapr-api-token"); len(got) != 1 || got[0] != "secret" {
			t.Errorf("API token %q, want that of the platform", got)
		}
		if got := md["traceparent"]; len(got) != len(tt.want) || len(got) == 1 && got[0] != tt.want[0] {
			t.Errorf("%v: traceparent %q, want %q", tt.p, got, tt.want)
		}
		client.Close()
	}
}

// A turn is in the trace of its caller; a reminder begins one.
func TestHostContinuesTheTrace(t *testing.T) {
	var seen trace.SpanContext
	see := func(ctx context.Context) { seen = trace.SpanContextFromContext(ctx) }
	thing := Actor{Type: "Thing",
		Methods: map[string]actor.Method{
			"See":       func(ctx context.Context, _ string, _ []byte) (actor.Turn, error) { see(ctx); return actor.Turn{}, nil },
			"SeeBehind": func(context.Context, string, []byte) (actor.Turn, error) { return actor.Turn{After: see}, nil },
		},
		Remind: actor.Whole(func(ctx context.Context, _, _ string) error { see(ctx); return nil }),
	}
	for _, tt := range []struct {
		method, path string
		p            propagation.TextMapPropagator
		want         bool
	}{
		{"PUT", "/actors/Thing/a/method/See", propagation.TraceContext{}, true},
		{"PUT", "/actors/Thing/a/method/SeeBehind", propagation.TraceContext{}, true},
		{"PUT", "/actors/Thing/a/method/remind/check", propagation.TraceContext{}, false},
		{"PUT", "/actors/Thing/a/method/See", nil, false},
	} {
		seen = trace.SpanContext{}
		r := httptest.NewRequest(tt.method, tt.path, nil)
		r.Header.Set("traceparent", traceparent)
		w := httptest.NewRecorder()
		h := NewHost(slog.New(slog.DiscardHandler), tt.p, []Actor{thing}, nil, unknownBroker)
		h.ServeHTTP(w, r)
		h.Wait()
		want := ""
		if tt.want {
			want = "b7ad6b7169203331"
		}
		if w.Code != 200 || seen.IsValid() != tt.want || tt.want && seen.SpanID().String() != want {
			t.Errorf("%s, %v: %d in span %v", tt.path, tt.p, w.Code, seen.SpanID())
		}
	}
}

// A message is in the trace of its publisher, which it carries.
func TestMessagesContinueTheTrace(t *testing.T) {
	var seen trace.SpanContext
	topic := Subscription{Topic: "t", Take: func(ctx context.Context, _ []byte) error { seen = trace.SpanContextFromContext(ctx); return nil }}
	for _, tt := range []struct {
		p     propagation.TextMapPropagator
		event string
		want  bool
	}{
		{propagation.TraceContext{}, `{"traceparent":"` + traceparent + `"}`, true},
		{propagation.TraceContext{}, `{"traceparent":""}`, false},
		{propagation.TraceContext{}, `{`, false},
		{nil, `{"traceparent":"` + traceparent + `"}`, false},
	} {
		seen = trace.SpanContext{}
		h := NewHost(slog.New(slog.DiscardHandler), tt.p, nil, []Subscription{topic}, unknownBroker)
		serve(t.Context(), h, "POST", "/topics/t", batchOf(tt.event))
		if seen.IsValid() != tt.want || tt.want && seen.SpanID().String() != "b7ad6b7169203331" {
			t.Errorf("%s, %v: in span %v", tt.event, tt.p, seen.SpanID())
		}
	}
}

// The sidecar asks what to subscribe to as soon as it runs, which may be before we have
// found that out.
func TestBrokerOfASidecarThatHasJustStarted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	client, err := Dial(l.Addr().(*net.TCPAddr).Port, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ready(t.Context()); err == nil {
		t.Fatal("ready without a sidecar")
	}
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimev1.RegisterDaprServer(server, &daprd{})
	go server.Serve(l)
	t.Cleanup(server.Stop)
	if got := client.Broker(t.Context(), "pubsub"); !got.Forgets {
		t.Errorf("got %+v, want what is known of pubsub.in-memory", got)
	}
	server.Stop()
	if got := client.Broker(t.Context(), "pubsub"); !got.Forgets {
		t.Errorf("got %+v, want that it is not asked again", got)
	}
}

func (d *daprd) GetMetadata(context.Context, *runtimev1.GetMetadataRequest) (*runtimev1.GetMetadataResponse, error) {
	return &runtimev1.GetMetadataResponse{RegisteredComponents: []*runtimev1.RegisteredComponents{
		{Name: "other", Type: "pubsub.redis"}, {Name: "pubsub", Type: "pubsub.in-memory"}}}, nil
}
