package api

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/replication"
)

// traced calls next in a span. That begins behind the check of the key: who has
// none decides nothing about our traces, and costs nothing there. The span has the
// route and not the URL, in which a key may be. Whether it is an error, fail says.
func (h *Handler) traced(next http.HandlerFunc, w http.ResponseWriter, r *http.Request) {
	if h.tracer == nil {
		next(w, r)
		return
	}
	ctx := h.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := h.tracer.Start(ctx, r.Method+" "+r.Pattern, trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	next(answer, r.WithContext(ctx))
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", r.Pattern),
			attribute.Int("http.response.status_code", answer.status))
	}
}

// annotate says whose webhook it is.
func annotate(ctx context.Context, id string, region replication.Region) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("allregions.notification", id), attribute.String("allregions.region", string(region)))
	}
}

// statusWriter remembers the status of the answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
