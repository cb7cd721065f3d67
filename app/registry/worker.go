package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"allregions/app/actor"
	"allregions/app/replication"
)

const (
	callTimeout  = 10 * time.Second // of one call of the actor
	startPause   = time.Second      // before the second try to reach the actor at start, when the sidecar may be away
	keepInterval = leaseTime / 3    // at which the lease is kept during work
	giveTries    = 3                // to return a result
	readTimeout  = 30 * time.Second // of the reading of the replicas
	sweepTimeout = 2 * time.Minute

	recheckTimeout = 1500 * time.Millisecond // a webhook waits for it
	recheckPause   = 100 * time.Millisecond
)

// errLost is why work ends early: the lease is gone.
var errLost = errors.New("the lease of the registry is lost")

// Observer counts. It must not block.
type Observer interface {
	// Worked is called by the process that did the work on a registry, with its error.
	Worked(registry, work string, err error)

	// Age is called by each process, with the time since the work was last done without
	// an error.
	Age(registry, work string, age time.Duration)
}

// Worker does the work on one registry, while this process has the lease. What the actor
// answers goes into the View.
type Worker struct {
	*View
	Webhooks *Registration // nil leaves the registry's webhooks alone
	Sweep    SweepFunc     // nil for none

	holder   string
	actors   actor.Invoker
	arm      *ARM
	wake     chan struct{}
	rechecks *shared[struct{}]
}

// NewWorker returns one for the registry that a reaches. Holder is this process; no two have
// the same.
func NewWorker(v *View, holder string, actors actor.Invoker, a *ARM) *Worker {
	return &Worker{View: v, holder: holder, actors: actors, arm: a, wake: make(chan struct{}, 1), rechecks: newShared[struct{}](v.Now)}
}

// Wake makes the worker ask for work. It does not block.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Duties are what this worker can do.
func (w *Worker) Duties() Duties { return Duties{Webhooks: w.Webhooks != nil, Sweep: w.Sweep != nil} }

// Run asks for work now, until the actor answers, which it does not before its reminder
// exists; and then when it is woken, or when work is due for so long that the reminder must
// be lost, until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	for pause := startPause; w.work(ctx) != nil && ctx.Err() == nil; pause = min(pause+startPause/4, viewInterval) {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.work(ctx) // after an error the reminder comes again
		case <-time.After(viewInterval):
			if r, _ := w.current(); r.Reminder == "" || stalled(r, w.Duties(), w.Now()) {
				w.work(ctx)
			}
		}
	}
}

// Recheck has the replicas read again because a region posted that is not expected, at
// most once a minute. It tells whether the region is expected now: for a short time it
// waits for the reading, for the webhook is the first one of a new replica, and ACR does
// not repeat it.
func (w *Worker) Recheck(ctx context.Context, region replication.Region) bool {
	ctx, cancel := context.WithTimeout(ctx, recheckTimeout)
	defer cancel()
	w.rechecks.get(ctx, func(age time.Duration, _ reading) bool { return age < recheckInterval }, func(ctx context.Context) (none struct{}, err error) {
		r, answer, err := w.call(ctx, methodRecheck, result{})
		if answer.Decision.granted() {
			w.Wake()
		}
		for err == nil && !r.Asked.IsZero() {
			select {
			case <-ctx.Done():
				return none, context.Cause(ctx)
			case <-time.After(recheckPause):
			}
			err = w.load(ctx) // another process may do the work
			r, _ = w.current()
		}
		return none, err
	})
	awaited, err := w.Expected(ctx)
	return err == nil && slices.Contains(awaited.All(), region)
}

// work does what is due, if this process gets the lease. After a nil error the actor has
// answered.
func (w *Worker) work(ctx context.Context) error {
	r, answer, err := w.call(ctx, methodTake, result{})
	if err != nil {
		w.Log.LogAttrs(ctx, slog.LevelDebug, "the registry's actor does not answer", slog.Any("err", err))
		return err
	}
	for err == nil && answer.Decision.granted() && len(answer.Due) > 0 {
		r, answer, err = w.do(ctx, r, answer.Due[0])
	}
	if err != nil && ctx.Err() == nil {
		w.Log.LogAttrs(ctx, slog.LevelWarn, "work on the registry was not finished", slog.Any("err", err))
	}
	return nil
}

// do does one task and returns its result to the actor.
func (w *Worker) do(ctx context.Context, r record, t task) (record, reply, error) {
	working, stop := w.keepLease(ctx)
	m, err := w.perform(working, r, t)
	ended := context.Cause(working)
	stop()
	if ended != nil {
		return r, reply{}, fmt.Errorf("%s: %w", t, ended)
	}
	if w.Observer != nil {
		w.Observer.Worked(actorID(w.Name), string(t.Work), err)
	}
	m.Work, m.Asked = t.Work, r.Asked
	if err != nil {
		m.Error, m.RetryAfter = brief(err), retryAfter(err)
	}
	var answer reply
	for try := 1; ; try++ {
		if r, answer, err = w.call(ctx, methodReturn, m); err == nil || try == giveTries {
			return r, answer, err
		}
	}
}

// perform is the work itself.
func (w *Worker) perform(ctx context.Context, r record, t task) (m result, err error) {
	switch t.Work {
	case readReplicas:
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		m.Observed, err = w.arm.observe(ctx, r.Replicas.List)
	case checkWebhooks:
		m.Webhooks, err = w.Webhooks.Check(ctx, r.Replicas.expected(), r.Webhooks.By, w.Now)
	case sweepLog:
		ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
		defer cancel()
		m.Sweep, err = w.Sweep(ctx, r, w.Now())
	}
	return m, err
}

// keepLease keeps the lease until stop is called. The context ends when it is lost.
func (w *Worker) keepLease(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		until := time.Now().Add(leaseTime)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(keepInterval):
			}
			asked := time.Now()
			switch _, answer, err := w.call(ctx, methodTake, result{}); {
			case err == nil && answer.Decision.granted():
				until = asked.Add(leaseTime)
			case err == nil, time.Now().After(until):
				cancel(errLost)
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// call calls the actor, and shows the view what it answers.
func (w *Worker) call(ctx context.Context, method string, m result) (r record, answer reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, answer, err = call(ctx, w.actors, actorID(w.Name), method, request{Holder: w.holder, Duties: w.Duties(), Result: m})
	if err == nil {
		w.learn(r)
	}
	return r, answer, err
}

func call(ctx context.Context, actors actor.Invoker, id, method string, m request) (r record, answer reply, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return r, answer, fmt.Errorf("%s of registry %s: %w", method, id, err)
	}
	data, err := actors.Invoke(ctx, id, method, body)
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err == nil {
		r, err = decodeRecord(answer.Record)
	}
	if err != nil {
		err = fmt.Errorf("%s of registry %s: %w", method, id, err)
	}
	return r, answer, err
}
