package conformance

import (
	"context"
	"slices"
	"time"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// logMode is what ACR's event log does when it is asked; "" is none.
type logMode string

const (
	logAnswers logMode = "answers"
	logSlow    logMode = "is slow"         // but answers
	logSilent  logMode = "is silent"       // until who asks gives up
	logFails   logMode = "fails"           // each time
	logPartly  logMode = "answers in part" // one event, and that there may be more
	logBehind  logMode = "is behind"       // and has nothing yet
)

// logModes are all, and that which answers more often.
var logModes = []logMode{logAnswers, logSlow, logAnswers, logSilent, logAnswers, logFails, logAnswers, logPartly, logAnswers, logBehind, logAnswers}

// eventLog is ACR's record of a run's webhooks, those that came included.
type eventLog struct {
	*run
	withheld map[replication.Region]bool // whose event was asked for and not given
}

// Fired is the read "event log".
func (l *eventLog) Fired(ctx context.Context, _, id string, _ time.Time, of []replication.Region) (events []replication.Event, err error) {
	err = l.world.Read("event log", func(stale bool) error {
		takes := map[logMode]time.Duration{logSlow: 3 * time.Second, logSilent: time.Hour}[l.log]
		if end, ok := ctx.Deadline(); ok && time.Until(end) < takes {
			l.world.Now = l.world.Now.Add(time.Until(end))
			return context.DeadlineExceeded
		}
		l.world.Now = l.world.Now.Add(takes)
		if l.log == logFails {
			return fake.Err
		}
		if l.log == logBehind || stale {
			return nil
		}
		for _, region := range regions {
			if at, ok := l.fired[region]; ok && slices.Contains(of, region) && id == l.id {
				e := l.event(region)
				e.ReceivedAt, e.Via = at, replication.ViaEventLog
				events = append(events, e)
			}
		}
		if l.log == logPartly {
			events = events[:min(1, len(events))]
			return fake.Err
		}
		return nil
	})
	for _, region := range of {
		given := slices.ContainsFunc(events, func(e replication.Event) bool { return e.Region == region })
		l.withheld[region] = l.withheld[region] || !given
	}
	return events, err
}
