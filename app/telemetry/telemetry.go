// Package telemetry exports traces and metrics. Only this package imports the SDK of
// OpenTelemetry and its exporters. The others use the API of traces and declare hooks,
// which Metrics implements.
//
// Prometheus can always read the metrics, see Handler. If an endpoint is set, traces
// and metrics are also sent over OTLP. Nothing here blocks a webhook: what cannot be
// sent in time is dropped, and logged at most once a minute.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"allregions/app/actor"
)

// name is that of the service, unless OTEL_SERVICE_NAME says another one, and of
// what makes its spans and metrics.
const name = "allregions"

// flushTimeout is how long Shutdown may take. It comes behind the drain, and
// Container Apps does not wait for long.
const flushTimeout = 2 * time.Second

// Options say what to set up.
type Options struct {
	// Export sends traces and metrics over OTLP, by gRPC. Where to, and
	// everything else about it, is in the standard variables OTEL_*.
	Export bool

	Instance string // tells this process from others
	Version  string
	Log      *slog.Logger
}

// Telemetry is what is set up.
type Telemetry struct {
	// Tracer and Propagator are nil if nothing is exported: then nothing is
	// traced, and no trace is passed on.
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator

	*Metrics

	// Handler shows the metrics as Prometheus wants them. It asks for no key.
	Handler http.Handler

	shutdown []func(context.Context) error
	log      *slog.Logger
}

// Start sets telemetry up. It does not wait for any endpoint. OpenTelemetry's own log
// is a global variable: it goes to the Telemetry that was started last. After an error
// the process must end: it does not take back what was set up before.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	otel.SetErrorHandler(logErrors(o.Log))
	otel.SetLogger(withoutValues(o.Log))
	t := &Telemetry{log: o.Log}
	self, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(identity(o)...), resource.WithFromEnv())
	if err != nil { // what can be read of it counts
		otel.Handle(fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	pull, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("telemetry: Prometheus: %w", err)
	}
	t.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	readers := []metric.Option{metric.WithResource(self), metric.WithReader(pull)}

	if o.Export {
		spans, err := otlptracegrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: OTLP traces: %w", err)
		}
		tracers := sdktrace.NewTracerProvider(sdktrace.WithResource(self), sdktrace.WithBatcher(spans))
		t.shutdown = append(t.shutdown, tracers.Shutdown)
		t.Tracer, t.Propagator = tracers.Tracer(name), propagation.TraceContext{}

		metrics, err := otlpmetricgrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: OTLP metrics: %w", err)
		}
		readers = append(readers, metric.WithReader(metric.NewPeriodicReader(metrics)))
	}
	meters := metric.NewMeterProvider(readers...)
	t.shutdown = append(t.shutdown, meters.Shutdown)
	if t.Metrics, err = newMetrics(meters.Meter(name)); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return t, nil
}

// identity names the process, unless OTEL_RESOURCE_ATTRIBUTES or OTEL_SERVICE_NAME do.
func identity(o Options) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("service.name", name), attribute.String("service.instance.id", o.Instance),
		attribute.String("service.version", o.Version)}
}

// Shutdown sends what is left, as far as that takes no longer than 2 s.
func (t *Telemetry) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	var all errgroup.Group
	for _, shutdown := range t.shutdown {
		all.Go(func() error { return shutdown(ctx) })
	}
	if err := all.Wait(); err != nil {
		t.log.Warn("not all telemetry was sent", "err", err)
	}
}

// logErrors logs what goes wrong with telemetry, at most once a minute. Neither the SDK
// nor the exporters put the headers of OTLP, which are secrets, into an error.
func logErrors(log *slog.Logger) otel.ErrorHandlerFunc {
	throttle := &actor.Throttle{Every: time.Minute}
	return func(err error) {
		if unlogged, ok := throttle.Allow(time.Now()); ok {
			log.Warn("telemetry", "err", err, "unlogged", unlogged)
		}
	}
}

// withoutValues is where the SDK says what it does not understand of its settings. It
// adds an error and values, and some are secrets: OTEL_EXPORTER_OTLP_HEADERS.
func withoutValues(log *slog.Logger) logr.Logger {
	return funcr.New(func(_, at string) {
		log.Error("a setting of OpenTelemetry cannot be read, and does not count", "at", at)
	}, funcr.Options{
		RenderBuiltinsHook: func(pairs []any) []any { return pairs[:2] }, // the message
		RenderArgsHook:     func([]any) []any { return nil },
	})
}
