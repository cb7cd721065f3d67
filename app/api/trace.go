package api

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/replication"
)

// traced answers in a span. It begins after the check of the key: a caller without one
// must neither join our traces nor cost anything there. The span has the route and not
// the URL, which may contain a key. Whether it is an error, fail says.
func (h *Handler) traced(w http.ResponseWriter, r *http.Request, e endpoint) {
	if h.config.Tracer == nil {
		h.answer(w, r, e)
		return
	}
	ctx := h.config.Propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := h.config.Tracer.Start(ctx, r.Method+" "+r.Pattern, trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	status := h.answer(w, r.WithContext(ctx), e)
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", r.Pattern),
			attribute.Int("http.response.status_code", status))
	}
}

// annotate says which event the webhook is.
func annotate(ctx context.Context, id string, region replication.Region) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("allregions.notification", id), attribute.String("allregions.region", string(region)))
	}
}
