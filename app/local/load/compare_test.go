package load

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"allregions/app/local/stack"
)

var threeRegions = []string{"westeurope", "eastus", "japaneast"}

// rounds is how often several systems take turns: a machine is not as fast from one
// minute to the next.
const rounds = 8

// compare sends each system its webhooks, by turns.
func compare(ctx context.Context, o Options, systems ...*system) (reports []*Report, err error) {
	for _, s := range systems {
		if err := s.watch(); err != nil {
			return nil, err
		}
	}
	for turn := range rounds {
		for _, s := range systems {
			if err := s.fire(ctx, part(s.trains, turn, rounds), o.Concurrency); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range systems {
		r, err := s.report(ctx, o)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// part is what is sent in one of n turns.
func part(trains []train, turn, n int) []train {
	return trains[len(trains)*turn/n : len(trains)*(turn+1)/n]
}

// startService starts a stack that gets the webhooks.
func startService(b *testing.B, name string, o Options) *system {
	b.Helper()
	s, err := newSystem(name, o)
	if err == nil {
		err = s.startStack(b.Context(), o.Stack)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.stop)
	return s
}

// benchmark compares a service with another system, each of which start starts.
func benchmark(b *testing.B, timeout time.Duration, start func(o Options) (service, other *system)) {
	if err := stack.PrepareTest(b.Context(), func() (time.Time, bool) { return time.Time{}, false }); err != nil {
		b.Fatal(err)
	}
	o := Options{Notifications: 2000, Concurrency: 64, Mode: sequential, Stack: stack.Options{Regions: threeRegions, Key: "k", Timeout: timeout}}
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = o.Concurrency
	for b.Loop() {
		service, other := start(o)
		reports, err := compare(b.Context(), o, service, other)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range reports {
			r.Print(os.Stdout)
		}
		b.ReportMetric(reports[0].PerSecond, "webhooks/s")
		b.ReportMetric(reports[0].PerSecond/reports[1].PerSecond, "of-the-other's")
	}
}

// The service and a hand-written one get the same webhooks.
func BenchmarkBaseline(b *testing.B) {
	benchmark(b, 2*time.Minute, func(o Options) (service, other *system) {
		return startService(b, "service", o), startBaseline(b, o)
	})
}

var others = flag.Int("open", 10_000, "how many other notifications BenchmarkOpen leaves open")

// settle is how long reminders that were just registered keep the scheduler busy.
const settle = 35 * time.Second

// A service with many open notifications, and one without them, get the same webhooks.
func BenchmarkOpen(b *testing.B) {
	benchmark(b, 24*time.Hour, func(o Options) (service, other *system) {
		service = startService(b, "service", o)
		if err := service.openOthers(b.Context(), *others, o); err != nil {
			b.Fatal(err)
		}
		time.Sleep(settle)
		return service, startService(b, "service without other notifications", o)
	})
}

// openOthers leaves notifications open, of which one region has reported.
func (s *system) openOthers(ctx context.Context, n int, o Options) error {
	trains, err := plan(n, o.Stack.Regions[:1], sequential)
	if err := errors.Join(err, s.fire(ctx, trains, o.Concurrency)); err != nil {
		return err
	}
	if accepted := s.answers[strconv.Itoa(http.StatusAccepted)]; accepted != n {
		return fmt.Errorf("of %d notifications only %d could be opened: %v", n, accepted, s.answers)
	}
	s.latencies, s.answers, s.took = nil, map[string]int{}, 0
	return nil
}

// Whatever the turns, everything is sent once.
func TestTurns(t *testing.T) {
	for _, n := range []int{1, 7, 8, 1003} {
		sent := 0
		for turn := range rounds {
			sent += len(part(make([]train, n), turn, rounds))
		}
		if sent != n {
			t.Errorf("of %d trains %d are sent", n, sent)
		}
	}
}

// Notifications that are to be open are, or there is no measurement.
func TestOpenOthers(t *testing.T) {
	s := fake(t, func(string, int) int { return http.StatusServiceUnavailable })
	err := s.openOthers(t.Context(), 3, Options{Concurrency: 2, Stack: stack.Options{Regions: []string{"a", "b"}}})
	if err == nil || err.Error() != "of 3 notifications only 0 could be opened: map[503:3]" {
		t.Errorf("got %v", err)
	}
}
