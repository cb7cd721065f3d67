// Package load sends webhooks as fast as they are answered, and reports how that
// went. Its benchmarks compare services, by turns.
package load

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
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

	URL, Key string        // of a running service; default: a new stack
	Stack    stack.Options // of that
}

// Run sends the webhooks, and returns what came of them.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Notifications < 1 || o.Concurrency < 1 {
		return nil, errors.New("-notifications and -concurrency: at least 1")
	}
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = o.Concurrency // before the first request
	s, err := newSystem("service", o)
	if err != nil {
		return nil, err
	}
	if o.URL == "" {
		if err := s.startStack(ctx, o.Stack); err != nil {
			return nil, err
		}
		defer s.stop()
	}
	if err := s.watch(); err != nil {
		return nil, err
	}
	if err := s.fire(ctx, s.trains, o.Concurrency); err != nil {
		return nil, err
	}
	return s.report(ctx, o)
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

// newSystem plans what a system is sent.
func newSystem(name string, o Options) (*system, error) {
	trains, err := plan(o.Notifications, o.Stack.Regions, o.Mode)
	registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: strings.TrimSuffix(o.URL, "/"), Key: o.Key}
	return &system{name: name, registry: registry, trains: trains, answers: map[string]int{}}, err
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

func (s *system) startStack(ctx context.Context, o stack.Options) error {
	st, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	s.registry.ServiceURL, s.registry.Key, s.stop = st.URL, st.Key, st.Stop
	for _, name := range []string{stack.ServiceProcess, stack.SidecarProcess, stack.SchedulerProcess} {
		s.processes = append(s.processes, st.Process(name))
	}
	return nil
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
					return ctx.Err()
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
