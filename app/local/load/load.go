// Package load sends webhooks as fast as they are answered, and reports how that
// went. Services that are compared take turns.
package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"allregions/app/local/acr"
	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// Options say what to send, and where.
type Options struct {
	Notifications int
	Concurrency   int // senders
	Mode          string
	Stack         stack.Options // of the stacks that are started

	URL, Key string // of a running service; default: a new stack
	Open     int    // other notifications that are open meanwhile; the same goes to a stack without them
}

// Run sends the webhooks. It returns a report of each system that got them, the
// service's first.
func Run(ctx context.Context, o Options) ([]*Report, error) {
	if o.Notifications < 1 || o.Concurrency < 1 || o.Open < 0 {
		return nil, errors.New("-notifications and -concurrency: at least 1")
	}
	if o.Open > 0 && o.URL != "" {
		return nil, errors.New("-open needs stacks of its own: leave -url out")
	}
	systems := []*system{{name: "service"}}
	if o.Open > 0 {
		systems = append(systems, &system{name: "service without other notifications"})
	}
	for i, s := range systems {
		if err := s.prepare(o); err != nil {
			return nil, err
		}
		if o.URL == "" {
			if err := s.startStack(ctx, o); err != nil {
				return nil, err
			}
			defer s.stop()
		}
		if i == 0 && o.Open > 0 {
			if err := s.openOthers(ctx, o); err != nil {
				return nil, err
			}
		}
	}
	return compare(ctx, o, systems)
}

// rounds is how often several systems take turns: a machine is not as fast from one
// minute to the next.
const rounds = 8

// compare sends each system its webhooks, by turns.
func compare(ctx context.Context, o Options, systems []*system) (reports []*Report, err error) {
	turns := rounds
	if len(systems) == 1 {
		turns = 1
	}
	for _, s := range systems {
		if err := s.watch(); err != nil {
			return nil, err
		}
	}
	for turn := range turns {
		for _, s := range systems {
			if err := s.fire(ctx, part(s.trains, turn, turns), o.Concurrency); err != nil {
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

// system is a running service, and what came of the webhooks that it was sent.
type system struct {
	name      string
	registry  *acr.Registry
	stop      func()
	processes []*process.Process // those that are measured
	trains    []train

	mu        sync.Mutex // of the two
	latencies []time.Duration
	answers   map[string]int

	took time.Duration
	used []Usage // by each process
}

// prepare plans what the system is sent.
func (s *system) prepare(o Options) (err error) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = o.Concurrency
	s.registry = &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: strings.TrimSuffix(o.URL, "/"), Key: o.Key}
	s.answers = map[string]int{}
	s.trains, err = plan(o.Notifications, o.Stack.Regions, o.Mode)
	return err
}

// watch begins to measure the processes.
func (s *system) watch() error {
	for _, p := range s.processes {
		err := process.ResetPeak(p.PID)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // only Linux has /proc
		}
		if err != nil {
			return err
		}
		s.used = append(s.used, Usage{Name: p.Name})
	}
	return nil
}

func (s *system) startStack(ctx context.Context, o Options) error {
	// The outcome of a notification that is open for long costs a call more, for its
	// reminder is far ahead.
	o.Stack.Timeout = 2 * time.Minute
	if o.Mode == open || o.Open > 0 {
		o.Stack.Timeout = 24 * time.Hour
	}
	st, err := stack.Start(ctx, o.Stack)
	if err != nil {
		return err
	}
	s.registry.ServiceURL, s.registry.Key, s.stop = st.URL, st.Key, st.Stop
	for _, name := range []string{stack.ServiceProcess, stack.SidecarProcess, stack.SchedulerProcess} {
		s.processes = append(s.processes, st.Process(name))
	}
	return nil
}

// settle is how long reminders that were just registered keep the scheduler busy.
const settle = 35 * time.Second

// openOthers leaves notifications open, of which one region has reported.
func (s *system) openOthers(ctx context.Context, o Options) error {
	fmt.Fprintf(os.Stderr, "Opening %d notifications.\n", o.Open)
	trains, err := plan(o.Open, o.Stack.Regions[:1], sequential)
	if err != nil {
		return err
	}
	if err := s.fire(ctx, trains, o.Concurrency); err != nil {
		return err
	}
	if accepted := s.answers[strconv.Itoa(http.StatusAccepted)]; accepted != o.Open {
		return fmt.Errorf("of %d notifications only %d could be opened: %v", o.Open, accepted, s.answers)
	}
	fmt.Fprintf(os.Stderr, "Opened them in %.0f s. Waiting %v for the scheduler.\n", s.took.Seconds(), settle)
	s.latencies, s.answers, s.took = nil, map[string]int{}, 0
	select {
	case <-time.After(settle):
		return nil
	case <-ctx.Done():
		return process.ErrInterrupted
	}
}

// fire sends the trains, and measures the processes meanwhile.
func (s *system) fire(ctx context.Context, trains []train, concurrency int) error {
	if err := s.account(-1); err != nil {
		return err
	}
	begin := time.Now()
	var senders errgroup.Group
	senders.SetLimit(concurrency)
	for _, t := range trains {
		senders.Go(func() error {
			for _, w := range t {
				if ctx.Err() != nil {
					return process.ErrInterrupted
				}
				s.send(ctx, w)
			}
			return nil
		})
	}
	err := senders.Wait()
	s.took += time.Since(begin)
	return errors.Join(err, s.account(1))
}

func (s *system) send(ctx context.Context, w webhook) {
	begin := time.Now()
	status, _, _ := s.registry.Fire(ctx, w.push, w.region)
	took := time.Since(begin)
	name := strconv.Itoa(status)
	if status == 0 {
		name = "none"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latencies = append(s.latencies, took)
	s.answers[name]++
}

// account adds what the processes have used so far, or takes it off.
func (s *system) account(sign float64) error {
	for i := range s.used {
		cpu, peak, err := process.Usage(s.processes[i].PID)
		if err != nil {
			return err
		}
		s.used[i].cpu += sign * cpu
		s.used[i].PeakMiB = max(s.used[i].PeakMiB, peak)
	}
	return nil
}
