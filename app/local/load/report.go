package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"allregions/app/local/stack"
)

// Report is what came of it. Latencies are milliseconds.
type Report struct {
	System        string
	Mode          string
	Notifications int
	Concurrency   int
	CPUs          int
	Webhooks      int
	Seconds       float64
	PerSecond     float64
	P50           float64
	P95           float64
	P99           float64
	Max           float64
	Answers       map[string]int // by HTTP status; "none" without an answer
	Joined        int            // notifications that are replicated
	JoinsPerSec   float64
	Processes     []Usage
}

// Usage is what a process used.
type Usage struct {
	Name       string
	CPUPer1000 float64
	PeakMiB    int

	cpu float64 // seconds
}

// report works out what follows from the measurements, and counts the joins.
func (s *system) report(ctx context.Context, o Options) (*Report, error) {
	slices.Sort(s.latencies)
	r := &Report{
		System: s.name, Mode: o.Mode, Notifications: o.Notifications, Concurrency: o.Concurrency, CPUs: runtime.NumCPU(),
		Webhooks: len(s.latencies), Seconds: s.took.Seconds(), Answers: s.answers,
		P50: percentile(s.latencies, 50), P95: percentile(s.latencies, 95), P99: percentile(s.latencies, 99), Max: percentile(s.latencies, 100),
	}
	r.PerSecond = float64(r.Webhooks) / r.Seconds
	for _, u := range s.used {
		u.CPUPer1000 = u.cpu * 1000 / float64(r.Webhooks)
		r.Processes = append(r.Processes, u)
	}
	return r, s.countJoins(ctx, r)
}

// percentile is the smallest value that p percent of the sorted ones do not
// exceed, in milliseconds.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := (len(sorted)*p + 99) / 100
	return float64(sorted[max(i, 1)-1]) / float64(time.Millisecond)
}

// countJoins asks for every notification that has had all its webhooks.
func (s *system) countJoins(ctx context.Context, r *Report) error {
	ids := map[string]bool{}
	for _, t := range s.trains {
		for _, w := range t {
			ids[w.push.ID] = true
		}
	}
	var mu sync.Mutex // of r
	var readers errgroup.Group
	readers.SetLimit(r.Concurrency)
	for id := range ids {
		readers.Go(func() error {
			err := stack.Get(ctx, s.registry.ServiceURL+"/notifications/"+id+"?require=replicated&wait=4s", s.registry.Key, nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				r.Joined++
			}
			if _, answered := errors.AsType[*stack.AnswerError](err); answered {
				return nil
			}
			return err
		})
	}
	err := readers.Wait()
	r.JoinsPerSec = float64(r.Joined) / r.Seconds
	return err
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s, %s: %d notifications, %d webhooks, %d at a time, %d CPUs\n\n",
		r.System, r.Mode, r.Notifications, r.Webhooks, r.Concurrency, r.CPUs)
	fmt.Fprintf(w, "  webhooks/s   %8.0f\n", r.PerSecond)
	fmt.Fprintf(w, "  joins/s      %8.0f   (%d of %d joined)\n", r.JoinsPerSec, r.Joined, r.Notifications)
	fmt.Fprintf(w, "  p50 ms       %8.1f\n  p95 ms       %8.1f\n  p99 ms       %8.1f\n  max ms       %8.1f\n  answers      %v\n", r.P50, r.P95, r.P99, r.Max, r.Answers)
	for _, p := range r.Processes {
		fmt.Fprintf(w, "  %-12s %8.2f CPU seconds per 1,000 webhooks, %d MiB at most\n", p.Name, p.CPUPer1000, p.PeakMiB)
	}
}
