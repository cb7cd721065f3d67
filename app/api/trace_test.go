package api

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/intake"
	"allregions/app/replication"
)

// spy remembers the span that it is called in.
type spy struct {
	backend
	span trace.SpanContext
}

func (s *spy) Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error) {
	s.span = trace.SpanContextFromContext(ctx)
	return s.backend.Add(ctx, e, awaited)
}

func tracedHandler(s *spy) (*Handler, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	return New(Config{Intake: s, Statuses: s, Deliveries: &deliveries{}, Regions: regions{"westeurope", "eastus"},
		Keys: NewKeys([]string{key1}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Tracer:     sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test"),
		Propagator: propagation.TraceContext{}}), recorder
}

// A webhook is a span, in the trace of its caller, and everything behind it is in
// that. It names the route: the URL may have a key.
func TestSpan(t *testing.T) {
	s := &spy{backend: backend{result: started()}}
	h, recorder := tracedHandler(s)
	const parent = "0af7651916cd43dd8448eb211c80319c"
	w := call(h, "POST", "/webhooks/acr?region=West%20Europe&code="+key1, push, "traceparent", "00-"+parent+"-b7ad6b7169203331-01")
	if w.Code != 202 || len(recorder.Ended()) != 1 {
		t.Fatalf("%d, %d spans", w.Code, len(recorder.Ended()))
	}
	span := recorder.Ended()[0]
	attributes := tracetest.SpanStubFromReadOnlySpan(span).Attributes
	got := map[string]string{}
	for _, a := range attributes {
		got[string(a.Key)] = a.Value.Emit()
	}
	if span.Name() != "POST /webhooks/acr" || span.SpanKind() != trace.SpanKindServer || span.SpanContext().TraceID().String() != parent ||
		got["http.route"] != "/webhooks/acr" || got["http.response.status_code"] != "202" || got["http.request.method"] != "POST" ||
		got["allregions.notification"] != "a" || got["allregions.region"] != "westeurope" {
		t.Errorf("%s %v %v", span.Name(), span.SpanContext(), attributes)
	}
	if !s.span.Equal(span.SpanContext()) {
		t.Errorf("Add was called in %v, not in %v", s.span, span.SpanContext())
	}
	for _, a := range attributes {
		if strings.Contains(a.Value.Emit(), key1) {
			t.Errorf("%s shows the key", a.Key)
		}
	}
}

// Who has no key decides nothing about our traces, and is in none.
func TestNoSpanWithoutAKey(t *testing.T) {
	h, recorder := tracedHandler(&spy{})
	call(h, "POST", "/webhooks/acr?region=eastus", push, "Authorization", "Bearer wrong", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	call(h, "GET", "/healthz", "")
	if n := len(recorder.Ended()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func TestSpanOfAFailure(t *testing.T) {
	h, recorder := tracedHandler(&spy{backend: backend{err: io.ErrUnexpectedEOF}})
	if w := call(h, "POST", "/webhooks/acr?region=eastus", push); w.Code != 503 || len(recorder.Ended()) != 1 || recorder.Ended()[0].Status().Code != codes.Error {
		t.Errorf("%d, %v", w.Code, recorder.Ended())
	}
}

// That an image is not everywhere yet is an answer, and no error of its trace.
func TestSpanOfTheUndecided(t *testing.T) {
	h, recorder := tracedHandler(&spy{})
	if w := call(h, "GET", "/images/shop/cart?tag=v1&require=replicated", ""); w.Code != 503 || len(recorder.Ended()) != 1 || recorder.Ended()[0].Status().Code != codes.Unset {
		t.Errorf("%d, %v", w.Code, recorder.Ended())
	}
}
