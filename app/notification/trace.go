package notification

import (
	"cmp"
	"context"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"allregions/app/replication"
)

// The W3C trace context, as HTTP headers and CloudEvents' extension for
// distributed tracing name its parts.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// daprTrace is where Dapr keeps a copy of traceparent. In an event that has none
// it writes both, with the span of the publication, and so makes two
// publications of one outcome differ.
const daprTrace = "traceid"

// The attributes of spans.
const (
	attrNotification = attribute.Key("allregions.notification")
	attrRegion       = attribute.Key("allregions.region")
	attrDecision     = attribute.Key("allregions.decision")
	attrEvent        = attribute.Key("allregions.event")
)

// startPublication begins the span of a publication, in the trace in which the outcome
// was decided. If another turn publishes it, that turn is linked.
func (a *Actor) startPublication(ctx context.Context, eventID string, o replication.Outcome) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attrEvent.String(eventID))}
	now, decided := trace.SpanContextFromContext(ctx), spanContext(o.Trace)
	if decided.IsValid() && decided.SpanID() != now.SpanID() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, decided)
		options = append(options, trace.WithLinks(trace.Link{SpanContext: now}))
	}
	return a.startSpan(ctx, "publish", options...)
}

// startSpan begins a span. Without a tracer it is one that records nothing.
func (a *Actor) startSpan(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	return cmp.Or[trace.Tracer](a.Tracer, noop.Tracer{}).Start(ctx, name, options...)
}

func endTurn(span trace.Span, d replication.Decision, err error) {
	if span.IsRecording() && err == nil {
		span.SetAttributes(attrDecision.String(d.String()))
	}
	end(span, err)
}

func end(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// traceOf is what an outcome remembers of the trace in which it is decided: the
// traceparent, and behind a space the tracestate, if there is one.
func traceOf(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return strings.TrimSpace(c[traceparent] + " " + c[tracestate])
}

// carrier is the opposite of traceOf, as headers.
func carrier(s string) propagation.MapCarrier {
	parent, state, _ := strings.Cut(s, " ")
	return propagation.MapCarrier{traceparent: parent, tracestate: state}
}

func spanContext(s string) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier(s)))
}

// setTrace tells the consumers of e where in a trace its outcome was decided.
func setTrace(e *cloudevents.Event, s string) {
	if s == "" {
		return
	}
	c := carrier(s)
	e.SetExtension(traceparent, c[traceparent])
	e.SetExtension(daprTrace, c[traceparent])
	if c[tracestate] != "" {
		e.SetExtension(tracestate, c[tracestate])
	}
}
