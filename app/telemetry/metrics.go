package telemetry

import (
	"cmp"
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"allregions/app/catalog"
	"allregions/app/intake"
	"allregions/app/replication"
	"allregions/app/target"
)

// Metrics counts and measures. No label has an image, an id, a digest, or anything
// else that callers choose: results, outcomes and ways are a few words, regions are
// expected ones, registries and targets those in the settings.
type Metrics struct {
	events, started, notifications, missing, recoveries, attempts, failures, disagreements, unlisted, hops metric.Int64Counter

	open         metric.Int64UpDownCounter
	age          metric.Float64Gauge
	latency, lag metric.Float64Histogram
}

// Upper bounds, in seconds. Replication takes seconds, or minutes for a large
// image, or days if a person has to repair something. Publication takes
// milliseconds, or as long as a broker is away.
var (
	latencyBounds = []float64{0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400, 604800}
	lagBounds     = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 86400}
)

func newMetrics(m metric.Meter) (*Metrics, error) {
	var errs []error
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	histogram := func(name, description string, bounds []float64) metric.Float64Histogram {
		h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	open, err := m.Int64UpDownCounter("allregions.notifications.open", metric.WithUnit("{notification}"),
		metric.WithDescription("Notifications that this process has begun, less those that it has concluded"))
	errs = append(errs, err)
	age, err := m.Float64Gauge("allregions.registry.age", metric.WithUnit("s"),
		metric.WithDescription("Since the work on a registry was last done without an error"))
	s := &Metrics{
		events:        counter("allregions.events", "{event}", "Regional events, by what became of them"),
		started:       counter("allregions.notifications.started", "{notification}", "Notifications whose first event was saved"),
		notifications: counter("allregions.notifications", "{notification}", "Outcomes that were saved"),
		missing:       counter("allregions.regions.missing", "{notification}", "Notifications that timed out without the region"),
		failures:      counter("allregions.registry.failures", "{operation}", "Work on a registry that this process did with an error"),
		open:          open,
		age:           age,
		latency:       histogram("allregions.replication.latency", "From a notification's first event to that of the region", latencyBounds),
		lag:           histogram("allregions.publish.lag", "From the decision of an outcome until the broker had it", lagBounds),
		recoveries:    counter("allregions.reminder.recoveries", "{operation}", "What a turn could not finish and a reminder did, or a reminder and the list"),
		unlisted:      counter("allregions.list.dropped", "{notification}", "Notifications for which the list had no room"),
		hops:          counter("allregions.hops", "{webhook}", "Webhooks handed to another replica, by what became of them"),
		attempts:      counter("allregions.delivery.attempts", "{attempt}", "Attempts to tell a target of an outcome"),
		disagreements: counter("allregions.ids.disagreements", "{push}", "Pushes to which ACR gave several ids, found in its event log"),
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	// A rate needs a first value, or the first event does not count.
	s.count(s.started, 0)
	s.open.Add(context.Background(), 0)
	for _, outcome := range []replication.Status{replication.Replicated, replication.TimedOut, replication.Recovered} {
		s.count(s.notifications, 0, attribute.String("outcome", string(outcome)))
	}
	s.count(s.recoveries, 0, attribute.String("work", "publish"))
	s.count(s.disagreements, 0)
	for _, result := range []string{intake.HopAccepted, intake.HopRefused, intake.HopFailed} {
		s.count(s.hops, 0, attribute.String("result", result))
	}
	s.count(s.recoveries, 0, attribute.String("work", "reminder"))
	s.Dropped(catalog.Dropped{})
	return s, nil
}

func (s *Metrics) count(c metric.Int64Counter, n int64, labels ...attribute.KeyValue) {
	c.Add(context.Background(), n, metric.WithAttributeSet(attribute.NewSet(labels...)))
}

// event counts a regional event. An unexpected region is "", and so is ViaWebhook.
func (s *Metrics) event(region replication.Region, result string, via replication.Via) {
	s.count(s.events, 1, attribute.String("region", cmp.Or(string(region), "other")), attribute.String("result", result),
		attribute.String("via", cmp.Or(string(via), "webhook")))
}

// Received is for api.Config.
func (s *Metrics) Received(region replication.Region, result string) {
	s.event(region, result, replication.ViaWebhook)
}

// Delivered is for intake.Intake.
func (s *Metrics) Delivered(region replication.Region, result string) {
	s.event(region, result, replication.ViaQueue)
}

// Handed is for intake.Peer.
func (s *Metrics) Handed(result string) { s.count(s.hops, 1, attribute.String("result", result)) }

// Saved, Published and Repeated are for notification.Actor.
func (s *Metrics) Saved(before, after replication.State) {
	for _, a := range after.Arrivals[len(before.Arrivals):] {
		s.latency.Record(context.Background(), a.ReceivedAt.Sub(after.StartedAt).Seconds(),
			metric.WithAttributeSet(attribute.NewSet(attribute.String("region", string(a.Region)))))
		if a.Via == replication.ViaEventLog {
			s.event(a.Region, "found", a.Via) // no webhook brought it
		}
	}
	for _, o := range after.Outcomes[len(before.Outcomes):] {
		s.count(s.notifications, 1, attribute.String("outcome", string(o.Status)))
		if o.Status == replication.TimedOut {
			s.countMissing(after.As(o).Missing(), 1)
		}
	}
	if !before.Exists() {
		s.count(s.started, 1)
		s.open.Add(context.Background(), 1)
		s.countMissing(after.Expected, 0) // see newMetrics
	}
	if len(before.Outcomes) == 0 && len(after.Outcomes) > 0 {
		s.open.Add(context.Background(), -1)
	}
}

func (s *Metrics) countMissing(regions []replication.Region, n int64) {
	for _, r := range regions {
		s.count(s.missing, n, attribute.String("region", string(r)))
	}
}

// Published: see Saved.
func (s *Metrics) Published(_ replication.Outcome, lag time.Duration) {
	s.lag.Record(context.Background(), lag.Seconds())
}

// Repeated: see Saved. Publishing is the only work that a notification's reminder repeats.
func (s *Metrics) Repeated() { s.count(s.recoveries, 1, attribute.String("work", "publish")) }

// Dropped and Rescued are for catalog.Recent.
func (s *Metrics) Dropped(d catalog.Dropped) {
	s.count(s.unlisted, int64(d.Concluded), attribute.String("state", "concluded"))
	s.count(s.unlisted, int64(d.Open), attribute.String("state", "open"))
}

// Rescued: see Dropped.
func (s *Metrics) Rescued() { s.count(s.recoveries, 1, attribute.String("work", "reminder")) }

// Attempted is for target.Set.
func (s *Metrics) Attempted(name string, v target.Verdict) {
	s.count(s.attempts, 1, attribute.String("target", name), attribute.String("result", string(v)))
}

// Disagreed is for registry.Sweeper.
func (s *Metrics) Disagreed() { s.count(s.disagreements, 1) }

// Worked and Age are for registry.View.
func (s *Metrics) Worked(registry, work string, err error) {
	var n int64
	if err != nil {
		n = 1
	}
	s.count(s.failures, n, attribute.String("registry", registry), attribute.String("work", work))
}

// Age: see Worked.
func (s *Metrics) Age(registry, work string, age time.Duration) {
	s.age.Record(context.Background(), age.Seconds(), metric.WithAttributeSet(attribute.NewSet(attribute.String("registry", registry), attribute.String("work", work))))
}
