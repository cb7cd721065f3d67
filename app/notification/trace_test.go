package notification

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// traced is a world in which turns are traced.
type traced struct {
	*world
	tracer trace.Tracer
	spans  *tracetest.SpanRecorder
}

func newTraced() *traced {
	spans := tracetest.NewSpanRecorder()
	return &traced{newWorld(), sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test"), spans}
}

func (w *traced) actor() *Actor {
	a := w.world.actor()
	a.Tracer = w.tracer
	return a
}

func (w *traced) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	p := fake.Process{Methods: w.actor().Methods()}
	defer p.End()
	return p.Invoke(ctx, id, method, body)
}

func (w *traced) add(t *testing.T, ctx context.Context, region replication.Region) {
	t.Helper()
	if _, err := (&Client{Actors: w}).Add(ctx, event(region), plan.Awaited); err != nil {
		t.Fatal(err)
	}
}

// named are the spans of that name that have ended.
func (w *traced) named(name string) (found []sdktrace.ReadOnlySpan) {
	for _, s := range w.spans.Ended() {
		if s.Name() == name {
			found = append(found, s)
		}
	}
	return found
}

func attributes(s sdktrace.ReadOnlySpan) map[string]string {
	m := map[string]string{}
	for _, a := range s.Attributes() {
		m[string(a.Key)] = a.Value.Emit()
	}
	return m
}

func extension(t *testing.T, event []byte, name string) string {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatal(err)
	}
	s, _ := e[name].(string)
	return s
}

func contextOf(s sdktrace.ReadOnlySpan) string {
	return traceOf(trace.ContextWithSpanContext(context.Background(), s.SpanContext()))
}

// The turn and the publication are in the webhook's trace, and the event says so.
func TestTraceOfAnOutcome(t *testing.T) {
	w := newTraced()
	webhook := propagation.TraceContext{}.Extract(t.Context(), propagation.MapCarrier{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=x"})
	for _, r := range plan.Expected[:2] {
		w.add(t, t.Context(), r)
	}
	w.add(t, webhook, plan.Expected[2])

	turns, publications := w.named("turn"), w.named("publish")
	if len(turns) != 3 || len(publications) != 1 {
		t.Fatalf("%d turns, %d publications", len(turns), len(publications))
	}
	turn, publication := turns[2], publications[0]
	if turn.Parent().SpanID().String() != "b7ad6b7169203331" || turn.SpanKind() != trace.SpanKindServer {
		t.Errorf("turn in %v, a %v", turn.Parent(), turn.SpanKind())
	}
	if got := attributes(turn); got["allregions.notification"] != "n1" || got["allregions.region"] != "japaneast" || got["allregions.decision"] != "completed, replicated" {
		t.Errorf("turn %v", got)
	}
	if publication.Parent().SpanID() != turn.SpanContext().SpanID() || publication.SpanContext().TraceID() != turn.SpanContext().TraceID() ||
		publication.SpanKind() != trace.SpanKindProducer || len(publication.Links()) != 0 {
		t.Errorf("publication in %v, a %v, links %v", publication.Parent(), publication.SpanKind(), publication.Links())
	}
	e := w.Events["n1/replicated"]
	parent, state, _ := strings.Cut(contextOf(turn), " ")
	if extension(t, e, "traceparent") != parent || extension(t, e, "traceid") != parent || extension(t, e, "tracestate") != state || state != "vendor=x" {
		t.Errorf("event %s\nwant %s %s", e, parent, state)
	}
}

// What the reminder publishes is in the trace of the decision, and linked to the
// reminder's own; the event is that of the first try.
func TestTraceOfARepeatedPublication(t *testing.T) {
	w := newTraced()
	var first string
	w.Fail = func(_ int, what string) fake.Failure {
		if strings.HasPrefix(what, "publish") && len(w.Topic) == 0 {
			return fake.Reported
		}
		return fake.None
	}
	for _, r := range plan.Expected {
		w.add(t, t.Context(), r)
	}
	first = string(w.Events["n1/replicated"])
	for _, err := range w.Pass(time.Hour, "n1", func(name string) error { return fake.Fire(t.Context(), w.actor().Remind, "n1", name) }) {
		t.Error(err)
	}
	turns, reminders, publications := w.named("turn"), w.named("reminder"), w.named("publish")
	if len(w.Topic) != 2 || len(publications) != 2 || len(reminders) != 1 {
		t.Fatalf("topic %q, %d publications, %d reminders", w.Topic, len(publications), len(reminders))
	}
	decided, again, reminder := turns[2].SpanContext(), publications[1], reminders[0].SpanContext()
	if again.SpanContext().TraceID() != decided.TraceID() || again.Parent().SpanID() != decided.SpanID() {
		t.Errorf("published in %v, decided in %v", again.Parent(), decided)
	}
	if links := again.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != reminder.SpanID() || reminder.TraceID() == decided.TraceID() {
		t.Errorf("links %v, reminder %v", links, reminder)
	}
	if publications[0].Status().Code != codes.Error || again.Status().Code == codes.Error {
		t.Errorf("%v, then %v", publications[0].Status(), again.Status())
	}
	if got := string(w.Events["n1/replicated"]); got != first || extension(t, []byte(got), "traceparent") != contextOf(turns[2]) {
		t.Errorf("first %s\nthen %s", first, got)
	}
}

// An outcome of a version that did not trace is published as that would have.
func TestTraceIsNotInvented(t *testing.T) {
	w := newTraced()
	w.world.add(t, "westeurope") // by an actor without a tracer
	if strings.Contains(string(w.Records["n1"]), "trace") {
		t.Errorf("record %s", w.Records["n1"])
	}
	w.Fail = func(_ int, what string) fake.Failure {
		if strings.HasPrefix(what, "publish") {
			return fake.Lost
		}
		return fake.None
	}
	w.world.add(t, "eastus")
	w.world.add(t, "japaneast")
	w.Fail = nil
	for _, err := range w.Pass(time.Hour, "n1", func(name string) error { return fake.Fire(t.Context(), w.actor().Remind, "n1", name) }) {
		t.Error(err)
	}
	if e := string(w.Events["n1/replicated"]); e == "" || strings.Contains(e, "trace") {
		t.Errorf("event %q", e)
	}
	if p := w.named("publish"); len(p) != 1 || p[0].Parent().SpanID() != w.named("reminder")[0].SpanContext().SpanID() || len(p[0].Links()) != 0 {
		t.Errorf("%v", p)
	}
}

func TestSpanOfAFailedTurn(t *testing.T) {
	w := newTraced()
	w.Fail = fake.At(0, fake.Lost)
	if _, err := (&Client{Actors: w}).Add(t.Context(), event("eastus"), plan.Awaited); err == nil {
		t.Fatal("no error")
	}
	if s := w.named("turn"); len(s) != 1 || s[0].Status().Code != codes.Error {
		t.Errorf("%v", s)
	}
}

// BenchmarkTurn is the CPU that a turn takes in this process, all stores being
// free, with and without tracing.
func BenchmarkTurn(b *testing.B) {
	for name, tracer := range map[string]trace.Tracer{
		"untraced": nil,
		"traced":   sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter())).Tracer("test"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			body, err := json.Marshal(NewMessage(event("eastus"), plan.Awaited))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				w := newWorld()
				a := w.actor()
				a.Tracer, a.Log = tracer, slog.New(slog.DiscardHandler)
				if _, err := a.Methods()[methodAdd](b.Context(), "n1", body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
