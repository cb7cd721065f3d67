package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/sync/errgroup"

	"allregions/app/replication"
)

const (
	maxSweepPages = 200 // of a log, in one reading
	givenAtATime  = 8   // images
)

// Intake takes what a Sweeper finds.
type Intake interface {
	// Regions returns the regions whose events the notification has; none if there is no
	// such notification, or can be none with that id.
	Regions(ctx context.Context, id string) ([]replication.Region, error)

	// Give has e join its notification. With two nil errors that is safe. If it is refused,
	// it always will be.
	Give(ctx context.Context, e replication.Event, awaited replication.Awaited) (refused, err error)
}

// Sweeper gives in what ACR's log has and no notification has: what was refused, or lost on
// its way, or fired while nobody was there. It needs the rights of an EventLog.
type Sweeper struct {
	Log       *EventLog
	Intake    Intake
	CatchUp   time.Duration // nothing that was fired longer ago counts
	Timeout   time.Duration // of notifications
	Optional  Static        // regions that nobody waits for
	Disagreed func()        // is called when ids are found that disagree; must not block
}

// Sweep does it once, for the registry with that record. See SweepFunc.
func (s *Sweeper) Sweep(ctx context.Context, r record, now time.Time) (*sweepRecord, error) {
	from := r.Sweep.from(s.CatchUp, now)
	readings, err := s.read(ctx, r.Sweep, from)
	if readings == nil {
		return nil, err
	}
	todo, counts := sweep(r.Sweep, readings, from, now)
	after := r.Sweep.carry(readings, from, now)
	s.Log.log.LogAttrs(ctx, slog.LevelDebug, "ACR's log", slog.Any("firings", counts))
	s.compare(ctx, &after, readings, from, now)
	err = errors.Join(err, s.giveAll(ctx, &after, todo, r))
	after.forget()
	return &after, err
}

// read reads the logs one after another, each back to where the last reading began, and
// stops when ARM wants to be left alone. The error is about those that were not read, or
// not far enough.
func (s *Sweeper) read(ctx context.Context, r sweepRecord, from time.Time) (readings []logReading, err error) {
	// The actor has the patience, not a call: see retryAfter.
	ctx = policy.WithRetryOptions(ctx, policy.RetryOptions{MaxRetries: -1})
	webhooks, err := s.Log.toAsk(ctx)
	if err != nil {
		return nil, err
	}
	readings = []logReading{}
	for region, names := range webhooks {
		for _, name := range names {
			l := logReading{webhook: name, began: s.Log.now()}
			if retryAfter(err) == 0 {
				var failed error
				if l, failed = s.readLog(ctx, l, region, r.Logs[name].readTo(from)); failed != nil {
					err = errors.Join(err, fmt.Errorf("event log of %s: %w", region, failed))
				}
			}
			readings = append(readings, l)
		}
	}
	return readings, err
}

// readLog reads a log back to that time. What its last page has of before is left out: it
// was read the last time.
func (s *Sweeper) readLog(ctx context.Context, l logReading, region replication.Region, to time.Time) (logReading, error) {
	pages := 0
	err := s.Log.arm.readEvents(ctx, l.webhook, func(page []firing) bool {
		for _, f := range page {
			if f.event.Region = region; f.toUs() && !f.event.ReceivedAt.Before(to.Truncate(time.Second)) { // ACR dates what was answered to the second
				l.firings = append(l.firings, f)
			}
		}
		pages++
		return !reaches(page, to) && pages < maxSweepPages
	})
	l.whole = err == nil
	if pages == maxSweepPages && err == nil {
		err = fmt.Errorf("%s has more than %d pages of events since %s: the older ones are left out", l.webhook, maxSweepPages, to.Format(time.RFC3339))
	}
	return l, err
}

// toUs tells whether a firing went to a service like this one, and not to another one of a
// webhook that somebody has made for it.
func (f firing) toUs() bool {
	u, err := url.Parse(f.uri)
	return f.uri == "" || err == nil && slices.ContainsFunc([]string{"/webhooks/acr", "/api/ImagePush", "/images/push"}, func(path string) bool { return strings.HasSuffix(u.Path, path) })
}

// giveAll gives in what is to do, and notes in after what is settled by that.
func (s *Sweeper) giveAll(ctx context.Context, after *sweepRecord, todo [][][]firing, r record) error {
	var mu sync.Mutex
	var errs []error
	var giving errgroup.Group
	giving.SetLimit(givenAtATime)
	for _, notifications := range todo {
		giving.Go(func() error {
			for _, firings := range notifications {
				done, found, err := s.give(ctx, firings, r)
				mu.Lock()
				for _, f := range done {
					after.Logs[f.webhook].settle(f)
				}
				after.Found += found
				if err != nil {
					errs = append(errs, err)
				}
				for _, f := range firings[len(done):] { // the next reading is to find it again
					if m := after.Logs[f.webhook]; f.event.ReceivedAt.Before(m.At) {
						m.At = f.event.ReceivedAt
						after.Logs[f.webhook] = m
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	giving.Wait()
	return errors.Join(errs...)
}

// give gives in the firings of one notification. It returns those that are settled, and how
// many of them the notification did not have.
func (s *Sweeper) give(ctx context.Context, firings []firing, r record) (done []firing, found int, err error) {
	id := firings[0].event.ID
	awaited, err := s.Optional.await(r.Replicas.expected())
	if err != nil {
		return nil, 0, err
	}
	regions, err := s.Intake.Regions(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("look up %s: %w", id, err)
	}
	for _, f := range firings {
		e := f.event
		if !slices.Contains(regions, e.Region) {
			e.Registry = cmp.Or(r.LoginServer, e.Registry)
			original, err := json.Marshal(f.content)
			e.Original = string(original)
			var refused error
			if err == nil {
				refused, err = s.Intake.Give(ctx, e, awaited)
			}
			if err != nil {
				return done, found, fmt.Errorf("event %s of %s: %w", id, e.Region, err)
			}
			s.logFound(ctx, f, refused)
			if regions = append(regions, e.Region); refused == nil {
				found++
			}
		}
		done = append(done, f)
	}
	return done, found, nil
}

func (s *Sweeper) logFound(ctx context.Context, f firing, refused error) {
	attrs := []slog.Attr{slog.String("notification", f.event.ID), slog.String("region", string(f.event.Region)),
		slog.String("status", f.status), slog.String("reason", f.reason)}
	message := "a webhook that ACR fired did not come"
	if refused != nil {
		message = "an event in ACR's log is refused"
		attrs = append(attrs, slog.Any("err", refused))
	}
	s.Log.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
}

// compare notes in after whether ids agree. Each pair that does not is told once.
func (s *Sweeper) compare(ctx context.Context, after *sweepRecord, readings []logReading, from, now time.Time) {
	pair, agree := compare(readings, s.Timeout, from, now.Add(-min(s.Timeout, overlap)))
	switch {
	case pair == nil && agree:
		after.Disagree = nil
	case pair != nil && (after.Disagree == nil || pair.At.After(after.Disagree.At)):
		after.Disagree = pair
		s.Log.log.LogAttrs(ctx, slog.LevelError, "ACR gives one push several ids", slog.Any("events", pair.Events))
		s.Disagreed()
	}
}
