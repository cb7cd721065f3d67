package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"allregions/app/catalog"
	"allregions/app/intake"
	"allregions/app/replication"
	"allregions/app/target"
)

var t0 = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)

func plan(regions ...replication.Region) replication.Plan {
	return replication.Plan{Awaited: replication.Awaited{Expected: regions}, Timeout: time.Minute}
}

func event(region replication.Region) replication.Event {
	return replication.Event{ID: "n1-secret-id", Action: "push", Repository: "shop/cart", Tag: "v1", Digest: "sha256:aa", Region: region}
}

// story is a notification that times out with a region missing, which then comes,
// and another one of a single region.
func story(m *Metrics) {
	p := plan("westeurope", "eastus", "japaneast")
	var s, next replication.State
	step := func(after replication.State, _ replication.Decision) {
		m.Saved(next, after)
		next = after
	}
	step(replication.Add(s, event("westeurope"), p, t0))
	found := event("eastus")
	found.Via = replication.ViaEventLog
	step(replication.Add(next, found, p, t0.Add(2500*time.Millisecond)))
	step(replication.Tick(next, next.Due))
	m.Published(next.Outcomes[0], 30*time.Millisecond)
	step(replication.Add(next, event("japaneast"), p, t0.Add(time.Hour)))
	m.Published(next.Outcomes[1], 40*time.Second)

	one, _ := replication.Add(replication.State{}, event("westeurope"), plan("westeurope"), t0)
	m.Saved(replication.State{}, one)
	begun, _ := replication.Add(replication.State{}, event("westeurope"), p, t0)
	m.Saved(replication.State{}, begun)

	m.Received("westeurope", string(replication.Started))
	m.Received("", intake.ResultRefused)
	m.Delivered("japaneast", string(replication.CameAfter))
	m.Repeated()
	m.Rescued()
	m.Dropped(catalog.Dropped{Concluded: 3})
	m.Attempted("ops", target.Again)
	m.Disagreed()
	m.Worked("contoso", "replicas", nil)
	m.Worked("contoso", "webhooks", errors.New("secret"))
	m.Age("contoso", "replicas", 90*time.Second)
	m.Age("fabrikam", "replicas", 60*time.Second)
	m.Handed(intake.HopAccepted)
}

// measured is what story makes.
func measured(t *testing.T) (all metricdata.ResourceMetrics) {
	t.Helper()
	reader := metric.NewManualReader()
	m, err := newMetrics(metric.NewMeterProvider(metric.WithReader(reader)).Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	story(m)
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestMetrics compares everything that is measured, as text.
func TestMetrics(t *testing.T) {
	all := measured(t)
	got := lines(t, all)
	want := strings.Split(strings.TrimSpace(`
allregions.delivery.attempts result=again,target=ops 1
allregions.events region=eastus,result=found,via=event-log 1
allregions.events region=japaneast,result=recovered,via=queue 1
allregions.events region=other,result=refused,via=webhook 1
allregions.events region=westeurope,result=started,via=webhook 1
allregions.hops result=accepted 1
allregions.hops result=failed 0
allregions.hops result=refused 0
allregions.ids.disagreements  1
allregions.list.dropped state=concluded 3
allregions.list.dropped state=open 0
allregions.notifications outcome=recovered 1
allregions.notifications outcome=replicated 1
allregions.notifications outcome=timedOut 1
allregions.notifications.open  1
allregions.notifications.started  3
allregions.publish.lag  2 40.03
allregions.regions.missing region=eastus 0
allregions.regions.missing region=japaneast 1
allregions.regions.missing region=westeurope 0
allregions.registry.age registry=contoso,work=replicas 90
allregions.registry.age registry=fabrikam,work=replicas 60
allregions.registry.failures registry=contoso,work=replicas 0
allregions.registry.failures registry=contoso,work=webhooks 1
allregions.reminder.recoveries work=publish 1
allregions.reminder.recoveries work=reminder 1
allregions.replication.latency region=eastus 1 2.5
allregions.replication.latency region=japaneast 1 3600
allregions.replication.latency region=westeurope 3 0
`), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Missing is what was not in time, also if it came before the timeout was decided, or
// with it.
func TestMissingWasNotInTime(t *testing.T) {
	p := plan("westeurope", "eastus", "japaneast")
	late := t0.Add(p.Timeout)
	for name, tt := range map[string]struct {
		add  []replication.Region // after the deadline
		want []string
	}{
		"one comes late":         {[]replication.Region{"eastus"}, []string{"eastus 1", "japaneast 1", "westeurope 0"}},
		"the set is complete":    {[]replication.Region{"eastus", "japaneast"}, []string{"eastus 1", "japaneast 1", "westeurope 0"}},
		"nothing comes any more": {nil, []string{"eastus 1", "japaneast 1", "westeurope 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			reader := metric.NewManualReader()
			m, err := newMetrics(metric.NewMeterProvider(metric.WithReader(reader)).Meter("test"))
			if err != nil {
				t.Fatal(err)
			}
			var s replication.State
			step := func(after replication.State, _ replication.Decision) {
				m.Saved(s, after)
				s = after
			}
			step(replication.Add(s, event("westeurope"), p, t0))
			for _, r := range tt.add {
				step(replication.Add(s, event(r), p, late))
			}
			step(replication.Tick(s, s.Due))
			var all metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &all); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, line := range lines(t, all) {
				if rest, ok := strings.CutPrefix(line, "allregions.regions.missing region="); ok {
					got = append(got, rest)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// begin is a Telemetry that ends with the test, and its log.
func begin(t *testing.T, export bool) (*Telemetry, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	tel, err := Start(t.Context(), Options{Export: export, Instance: "host:8080", Version: "r7", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tel.Shutdown)
	return tel, log
}

func page(t *Telemetry) string {
	w := httptest.NewRecorder()
	t.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// The README's table has the metrics that there are, under both names and with
// their labels; what a metric says never has an image or an id.
func TestREADMEMetrics(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(allregions[.\\w]+)` \\| `(\\w+)` \\| (.*?) \\|").FindAllStringSubmatch(section, -1) {
		labels := strings.ReplaceAll(row[3], "`", "")
		if labels == "–" {
			labels = ""
		}
		want = append(want, row[1]+" "+row[2]+" "+labels)
	}

	all := measured(t)
	tel, _ := begin(t, false)
	story(tel.Metrics)
	text := page(tel)
	var names []string // of Prometheus
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (allregions_\w+) `).FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	var got []string
	for _, name := range slices.Compact(firstFields(lines(t, all))) {
		flat := strings.ReplaceAll(name, ".", "_")
		for _, suffix := range []string{"", "_total", "_seconds"} {
			if slices.Contains(names, flat+suffix) {
				got = append(got, name+" "+flat+suffix+" "+labelsOf(text, flat+suffix))
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) || len(got) != len(names) || len(got) == 0 {
		t.Errorf("there are\n%s\nand the README has\n%s\nPrometheus has %q", strings.Join(got, "\n"), strings.Join(want, "\n"), names)
	}
	for _, secret := range []string{"n1-secret-id", "shop/cart", "sha256", "v1\""} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics show %q", secret)
		}
	}
	if !strings.Contains(text, "\ngo_goroutines ") {
		t.Error("no metrics of the process")
	}
}

// Who exports nothing traces nothing, and passes no trace on.
func TestNoExport(t *testing.T) {
	if tel, _ := begin(t, false); tel.Tracer != nil || tel.Propagator != nil {
		t.Errorf("%v, %v", tel.Tracer, tel.Propagator)
	}
}

func TestIdentity(t *testing.T) {
	for name, want := range map[string]string{"": `service_name="allregions"`, "other": `service_name="other"`} {
		t.Setenv("OTEL_SERVICE_NAME", name)
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "broken,deployment.environment.name=test")
		tel, _ := begin(t, false)
		info := regexp.MustCompile(`(?m)^target_info\{.*`).FindString(page(tel))
		for _, want := range []string{want, `service_instance_id="host:8080"`, `service_version="r7"`, `deployment_environment_name="test"`} {
			if !strings.Contains(info, want) {
				t.Errorf("no %s in %s", want, info)
			}
		}
	}
}

// A collector that is not there costs a caller nothing, and an end of the process
// 2 s. The log has a line of it, and no secret; nor has it of headers that cannot be
// read.
func TestCollectorAway(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than 2 s")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr3t-1,s3cr3t-2,x=%zzs3cr3t-3")
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
	tel, log := begin(t, true)
	start := time.Now()
	for range 10_000 { // more than the queue holds
		_, span := tel.Tracer.Start(t.Context(), "span")
		span.End()
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("10,000 spans took %v", d)
	}
	start = time.Now()
	tel.Shutdown()
	if d := time.Since(start); d > flushTimeout+time.Second {
		t.Errorf("the end took %v", d)
	}
	tel.shutdown = nil
	if got := log.String(); strings.Contains(got, "s3cr3t") || !strings.Contains(got, "parse headers") || !strings.Contains(got, "not all telemetry was sent") {
		t.Errorf("log:\n%s", got)
	}
}

// What the SDK says of a setting is logged without values, and without an error that may
// quote them.
func TestSettingsAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	withoutValues(slog.New(slog.NewTextHandler(&log, nil))).Error(errors.New("s3cr3t"), "parse headers", "input", "s3cr3t")
	if got := log.String(); strings.Contains(got, "s3cr3t") || !strings.Contains(got, "parse headers") || !strings.Contains(got, "level=ERROR") {
		t.Errorf("got %s", got)
	}
}

func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		handle := logErrors(slog.New(slog.NewTextHandler(&log, nil)))
		for range 100 {
			handle(errors.New("no collector"))
		}
		time.Sleep(time.Minute)
		handle(errors.New("no collector"))
		if got := strings.Count(log.String(), "\n"); got != 2 || !strings.Contains(log.String(), `level=WARN msg=telemetry err="no collector" unlogged=99`) {
			t.Errorf("got %d lines, want 2, the second with unlogged=99:\n%s", got, &log)
		}
	})
}

// BenchmarkNotification is what counting costs for all of a notification of three
// regions.
func BenchmarkNotification(b *testing.B) {
	m, err := newMetrics(metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())).Meter("test"))
	if err != nil {
		b.Fatal(err)
	}
	p := plan("westeurope", "eastus", "japaneast")
	states := []replication.State{{}}
	for i, r := range p.Expected {
		s, _ := replication.Add(states[i], event(r), p, t0.Add(time.Duration(i)*time.Second))
		states = append(states, s)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range p.Expected {
			m.Received(p.Expected[i], string(replication.Recorded))
			m.Saved(states[i], states[i+1])
		}
		m.Published(states[3].Outcomes[0], time.Millisecond)
	}
}
