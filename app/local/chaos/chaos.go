// Package chaos holds the service to its promises while everything around it
// fails: real processes, killed and frozen at random, under a steady load of
// webhooks that nobody sends twice.
//
// Three replicas, each with a sidecar, share a placement service, a scheduler,
// a store and a broker. The store is the emulator of Cosmos DB, behind a proxy
// that throttles, refuses, delays, or loses the answer of a write that was done;
// the emulator itself keeps everything in memory, and so is the one process
// that is never hit. The broker is a Redis that acknowledges what is on disk. A
// target takes the outcomes, when it is not slow or dead itself. A simulated Azure
// has ACR's log of every webhook, whatever became of it.
//
// A soak is the same with one replica, SQLite, and one fault: see Options.Soak.
//
// When the load is over everything is mended. Then a Record of what was seen
// from outside is compared with what was promised: see Verify.
package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// Options say what to run.
type Options struct {
	Length  time.Duration // of the faults; the load goes on for 25 s more, and what follows takes a minute or two
	Soak    int           // instead of Length: at least so many notifications, and everything is killed every two minutes
	Seed    uint64
	Timeout time.Duration // of notifications
	Regions []string
	Keep    bool      // what the run has written, although all was well
	Log     io.Writer // is told of every fault when it happens
}

// settleTimeout is how long everything may take to be finished and right after the
// last fault: the scheduler needs 20 s or so to answer, the reminders come every 30 s,
// and each may have to come twice.
const settleTimeout = 4 * time.Minute

// soakSettleTimeout is the same for a soak, in which it takes minutes to read every status.
const soakSettleTimeout = 30 * time.Minute

// Run runs it. Its error means that there was no run to judge; whether the
// service has kept its promises, the report says. What the run has written is
// removed, unless there is an error or a violation, or Options.Keep says no.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	dir, err := os.MkdirTemp("", "allregions-chaos-")
	if err != nil {
		return nil, fmt.Errorf("temporary directory: %w", err)
	}
	defer func() {
		switch {
		case ctx.Err() != nil, err == nil && report.Dir == "":
			os.RemoveAll(dir)
		case err != nil:
			err = fmt.Errorf("%w; logs: %s", err, filepath.Join(dir, "logs"))
		}
	}()
	logger := log.New(o.Log, "", log.LUTC|log.Ltime|log.Lmicroseconds)
	logger.Printf("seed %d", o.Seed)
	if o.Soak > 0 {
		o.Length = soakLength(o.Soak) - calm
	}
	c, err := startCluster(ctx, dir, o, logger)
	if err != nil {
		return nil, err
	}
	defer c.kill()
	r := &run{cluster: c, Options: o}
	if report, err = r.play(ctx); err != nil || len(report.Violations) == 0 && !o.Keep {
		return report, err
	}
	report.Dir = dir
	data, err := json.MarshalIndent(r.record, "", " ")
	return report, errors.Join(err, os.WriteFile(filepath.Join(dir, "record.json"), data, 0o644))
}

// run is one run on a cluster.
type run struct {
	*cluster
	Options
	begun  time.Time
	record Record
	last   string  // of the broker's messages in the record
	faults counter // by kind
}

func (r *run) play(ctx context.Context) (*Report, error) {
	gap, faults := pushGap, planFaults(source(r.Seed, faultStream), r.Length, len(r.Replicas))
	if r.Soak > 0 {
		gap, faults = soakGap, planKills(r.Length)
	}
	shots, kinds := planLoad(source(r.Seed, loadStream), gap, r.Length+calm, r.Options.Timeout, r.Regions, len(r.Replicas))
	r.record.Regions = r.Regions
	r.begun = time.Now()
	r.logger.Printf("ready: %d webhooks and %d faults in %s", len(shots), len(faults), r.Length+calm)

	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { r.record.Posts = r.fire(ctx, shots) })
	wg.Go(func() { failed = r.fail(ctx, faults) })
	wg.Wait()
	if err := errors.Join(ctx.Err(), failed); err != nil {
		return nil, err
	}
	healed := time.Now()
	r.logger.Print("the load is over, and everything is mended")
	readyCtx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := r.Ready(readyCtx); err != nil {
		return nil, err
	}
	r.logger.Print("every replica is ready")
	violations, err := r.judge(ctx)
	if err != nil {
		return nil, err
	}
	report := newReport(r.record)
	report.Seed, report.Length, report.Settled = r.Seed, r.Length, time.Since(healed)
	report.Pushes, report.Faults, report.Restarts = kinds, r.faults.counts(), r.ended.counts()
	report.StoreHits, report.TargetHits = r.store.counts(), r.target.counts()
	report.Violations = violations
	return report, r.readLogs(report)
}

// fire posts every webhook at its time, once, and returns what became of them.
func (r *run) fire(ctx context.Context, shots []shot) []Post {
	posts := make([]Post, len(shots))
	var wg sync.WaitGroup
	for i, s := range shots {
		if !r.await(ctx, s.after) {
			break
		}
		wg.Go(func() {
			s.push.At = time.Now()
			status, _, err := r.registry(s.replica).Fire(ctx, s.push, s.region)
			posts[i] = Post{ID: s.push.ID, Region: s.region, Replica: s.replica, Answered: time.Now(), Status: status, Unanswered: unanswered(err)}
		})
	}
	wg.Wait()
	return posts
}

// fail lets every fault happen at its time. When it returns they are over.
func (r *run) fail(ctx context.Context, faults []fault) error {
	var mu sync.Mutex // of the record's faults and errs
	var errs []error
	var wg sync.WaitGroup
	for _, f := range faults {
		if !r.await(ctx, f.after) {
			break
		}
		r.logger.Print(f)
		r.faults.count(f.kind())
		begun := r.begin(f)
		wg.Go(func() {
			r.await(ctx, f.after+f.lasts)
			ended := r.end(f)
			over := time.Now().Add(f.lastsUntil() - f.after - f.lasts)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, begun, ended)
			r.record.Faults = append(r.record.Faults, Span{r.begun.Add(f.after), over})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// await waits for a time after the begin; it returns false if ctx ends first.
func (r *run) await(ctx context.Context, after time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(r.begun.Add(after))):
		return true
	}
}

// judge completes the record and verifies it until everything is right and finished,
// or should be: what is not at first may be on its way.
func (r *run) judge(ctx context.Context) (violations []Violation, err error) {
	timeout := settleTimeout
	if r.Soak > 0 {
		timeout = soakSettleTimeout
	}
	settleCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := r.quiet(ctx, timeout/2); err != nil {
		r.logger.Print(err)
	}
	judged, took := false, time.Duration(0)
	err = process.Until(settleCtx, "not right", func() error {
		select {
		case <-time.After(took): // what is left to do needs the machine, too
		case <-settleCtx.Done():
		}
		judged = false
		defer func(begun time.Time) { took = time.Since(begun) }(time.Now())
		if err := errors.Join(r.readEvents(ctx), r.readReminders(ctx)); err != nil {
			return err
		}
		r.readStatuses(ctx)
		if r.Soak == 0 {
			r.record.Received = r.target.received()
		}
		violations, judged = Verify(r.record), true
		if len(violations) > 0 {
			return fmt.Errorf("%d violations, such as %s", len(violations), violations[0])
		}
		for event, state := range r.record.Deliveries {
			if state == "pending" {
				return fmt.Errorf("%s has not come to the target", event)
			}
		}
		return nil
	})
	if !judged || ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		r.logger.Print(err)
	}
	return violations, nil
}

// quiet waits until no notification has a reminder. What has none has nothing left to
// do, unless ACR's log has more of it.
func (r *run) quiet(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return process.Until(ctx, "not finished", func() error {
		err := r.readReminders(ctx)
		if n := len(r.record.Reminders); err == nil && n > 0 {
			err = fmt.Errorf("%d notifications have a reminder", n)
		}
		return err
	})
}

func (r *run) readEvents(ctx context.Context) error {
	for {
		messages, err := r.Redis.Messages(ctx, stack.Topic, r.last)
		if err != nil || len(messages) == 0 {
			return err
		}
		for _, m := range messages {
			r.record.Events, r.last = append(r.record.Events, m.Data), m.ID
		}
	}
}

func (r *run) readReminders(ctx context.Context) error {
	reminders, err := r.Scheduler.Reminders(ctx, "Notification")
	var ids []string
	for _, one := range reminders {
		ids = append(ids, one.ActorID)
	}
	slices.Sort(ids)
	r.record.Reminders = slices.Compact(ids)
	return err
}

// readStatuses asks any replica for each status, a few at a time.
func (r *run) readStatuses(ctx context.Context) {
	ids := map[string]bool{}
	for _, p := range r.record.Posts {
		ids[p.ID] = true
	}
	statuses, unanswered, deliveries := map[string]Status{}, map[string]string{}, map[string]string{}
	var mu sync.Mutex // of the three
	var readers errgroup.Group
	readers.SetLimit(8)
	for id := range ids {
		readers.Go(func() error {
			replica := rand.IntN(len(r.Replicas))
			st, ok, err := r.status(ctx, replica, id)
			var states map[string]string
			if err == nil && ok && r.Soak == 0 {
				states, err = r.deliveries(ctx, replica, id)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(deliveries, states)
			switch {
			case err != nil:
				unanswered[id] = fmt.Sprintf("replica %d: %v", replica+1, err)
			case ok:
				statuses[id] = st
			}
			return nil
		})
	}
	readers.Wait()
	r.record.Statuses, r.record.Unanswered, r.record.Deliveries = statuses, unanswered, deliveries
}
