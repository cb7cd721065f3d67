package stack

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"allregions/app/local/acr"
)

// collector takes what the service sends over OTLP.
type collector struct {
	traces.UnimplementedTraceServiceServer
	url string

	mu      sync.Mutex
	spans   []*trace.Span
	metrics []string // names
	keys    []string // that came with it
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{url: "http://" + l.Addr().String()}
	server := grpc.NewServer()
	traces.RegisterTraceServiceServer(server, c)
	metrics.RegisterMetricsServiceServer(server, metricsOf{collector: c})
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return c
}

func (c *collector) Export(ctx context.Context, r *traces.ExportTraceServiceRequest) (*traces.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = append(c.keys, md.Get("api-key")...)
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &traces.ExportTraceServiceResponse{}, nil
}

type metricsOf struct {
	metrics.UnimplementedMetricsServiceServer
	*collector
}

func (c metricsOf) Export(_ context.Context, r *metrics.ExportMetricsServiceRequest) (*metrics.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.collector.metrics = append(c.collector.metrics, m.Name)
			}
		}
	}
	return &metrics.ExportMetricsServiceResponse{}, nil
}

// span is the one with that name and attribute; nil if it has not come.
func (c *collector) span(name, attribute, value string) *trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name && slices.ContainsFunc(s.Attributes, func(a *common.KeyValue) bool { return a.Key == attribute && a.Value.GetStringValue() == value }) {
			return s
		}
	}
	return nil
}

func (c *collector) has(metric string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.metrics, metric)
}

// What operators see of a push, through the real Dapr: one trace from the last
// webhook to the publication, which the event names, and metrics, both ways.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-header"
	c, sub := newCollector(t), newSubscriber()
	s, r := start(t, Options{Events: sub.take, Settings: map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=" + secret,
		"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}})
	p := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		fire(t, r, p, region, http.StatusAccepted)
	}
	e := sub.wait(t, p.ID, 1, soon)

	var webhook, turn, publish *trace.Span
	eventually(t, soon, "the spans come", func() bool {
		webhook = c.span("POST /webhooks/acr", "allregions.region", "japaneast")
		turn = c.span("turn", "allregions.decision", "completed, replicated")
		publish = c.span("publish", "allregions.event", e.ID)
		return webhook != nil && turn != nil && publish != nil
	})
	id := hex.EncodeToString
	for _, link := range []struct{ child, parent *trace.Span }{{turn, webhook}, {publish, turn}} {
		if id(link.child.TraceId) != id(link.parent.TraceId) || id(link.child.ParentSpanId) != id(link.parent.SpanId) {
			t.Errorf("%s %x in %x of %x; its parent %s is %x of %x", link.child.Name, link.child.SpanId, link.child.ParentSpanId, link.child.TraceId,
				link.parent.Name, link.parent.SpanId, link.parent.TraceId)
		}
	}
	if len(webhook.ParentSpanId) != 0 {
		t.Errorf("the webhook is in %x", webhook.ParentSpanId)
	}
	if webhook.Kind != trace.Span_SPAN_KIND_SERVER || turn.Kind != trace.Span_SPAN_KIND_SERVER || publish.Kind != trace.Span_SPAN_KIND_PRODUCER {
		t.Errorf("kinds %v, %v, %v", webhook.Kind, turn.Kind, publish.Kind)
	}
	if want := fmt.Sprintf("00-%x-%x-01", turn.TraceId, turn.SpanId); e.Traceparent != want || e.TraceID != want {
		t.Errorf("the event is in %q, %q, want %q", e.Traceparent, e.TraceID, want)
	}
	if first := c.span("POST /webhooks/acr", "allregions.region", regions[0]); first == nil || id(first.TraceId) == id(webhook.TraceId) {
		t.Error("the first webhook is not a trace of its own")
	}
	c.mu.Lock()
	if len(c.keys) == 0 || slices.ContainsFunc(c.keys, func(k string) bool { return k != secret }) {
		t.Errorf("the collector was sent the keys %q", c.keys)
	}
	c.mu.Unlock()

	// There are no targets and there is no registry here: see TestQueriedMetrics.
	readme, err := os.ReadFile(filepath.Join("..", "..", "telemetry", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("(?m)^\\| `(allregions[.\\w]+)` \\| `(\\w+)` \\|").FindAllStringSubmatch(string(readme), -1)
	if len(names) < 9 {
		t.Fatalf("the README names %d metrics", len(names))
	}
	_, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.Replicas[0].Sidecar.AppPort), "")
	for _, name := range names {
		if name[1] == "allregions.delivery.attempts" || strings.HasPrefix(name[1], "allregions.registry.") {
			continue
		}
		eventually(t, soon, name[1]+" comes", func() bool { return c.has(name[1]) })
		if !regexp.MustCompile(`(?m)^` + name[2] + `(_bucket)?(\{| )`).Match(body) {
			t.Errorf("no %s in\n%s", name[2], body)
		}
	}
	for _, want := range []string{`allregions_notifications_total{outcome="replicated"} 1`, `allregions_replication_latency_seconds_count{region="japaneast"} 1`,
		`allregions_events_total{region="eastus",result="recorded",via="webhook"} 1`, `allregions_notifications_open 0`} {
		if !strings.Contains(string(body), "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	log, err := os.ReadFile(s.LogPath(ServiceProcess))
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"shop/cart", p.ID, p.Digest, s.Key, secret} {
		if strings.Contains(string(body), hidden) {
			t.Errorf("the metrics show %q", hidden)
		}
	}
	if strings.Contains(string(log), secret) || strings.Contains(string(log), "telemetry") {
		t.Errorf("the log shows the header, or complains:\n%s", log)
	}
	for _, key := range []string{"", s.Key} {
		if code, _ := request(t, http.MethodGet, s.URL+"/metrics", key); code != http.StatusNotFound {
			t.Errorf("the public listener has /metrics: %d", code)
		}
	}
}

// Every metric that a rule or the dashboard asks for is in /metrics of a service that has a
// registry and a target.
func TestQueriedMetrics(t *testing.T) {
	t.Parallel()
	var queries strings.Builder
	for _, name := range []string{"rules.yaml", "dashboard.json"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "telemetry", name))
		if err != nil {
			t.Fatal(err)
		}
		queries.Write(data)
	}
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	s, r, _ := startAzure(t, Options{Settings: map[string]string{"NOTIFY_TARGETS": `[{"name": "ops", "type": "acr", "url": "` + target.URL + `"}]`}})
	p := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		fire(t, r, p, region, http.StatusAccepted)
	}
	names := regexp.MustCompile(`\ballregions_\w+`).FindAllString(queries.String(), -1)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 10 {
		t.Fatalf("they name %q", names)
	}
	for _, name := range names {
		eventually(t, soon, name+" comes", func() bool {
			_, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.Replicas[0].Sidecar.AppPort), "")
			return regexp.MustCompile(`(?m)^` + name + `(\{| )`).Match(body)
		})
	}
}
