package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"allregions/app/replication"
)

// How old what was read may be, when many notifications ask at once, and how far
// back one reading goes.
const (
	logFreshness      = 2 * time.Second
	logShare          = 10 // so many times what the reading took, if that is more: after an outage, reading must not be all that is done
	webhooksFreshness = 30 * time.Second
	maxLogPages       = 20

	// firedEarlier is how long before the first accepted event of a notification the log is
	// read: others may have been fired, and refused. The sweep finds what is older.
	firedEarlier = time.Minute
)

// EventLog reads ACR's own record of what its webhooks have fired and what came
// of it. It needs the right Microsoft.ContainerRegistry/registries/webhooks/
// read and listEvents/action.
type EventLog struct {
	arm   *ARM
	owner string // of the webhooks to ask; those of others only where there is none
	now   func() time.Time
	log   *slog.Logger

	webhooks *shared[map[replication.Region][]string] // names
	logs     sync.Map                                 // by webhook: a *shared[recentLog]
}

// recentLog is what was read of a webhook's log.
type recentLog struct {
	byID map[string]firing // by notification
	to   time.Time         // it has what was fired since then
}

// firing is one firing of one webhook, as ACR has logged it.
type firing struct {
	event  replication.Event
	status string // what ACR was answered: "503", or "" if it was not
	reason string

	webhook string
	uri     string                             // that was called; "" if ACR does not say
	content *armcontainerregistry.EventContent // what was sent
}

// NewEventLog returns the log of the registry that a reads.
func NewEventLog(a *ARM, owner string, now func() time.Time, log *slog.Logger) *EventLog {
	return &EventLog{arm: a, owner: owner, now: now, log: log, webhooks: newShared[map[replication.Region][]string](now)}
}

// Fired returns the events of a notification that began at that time, and that the
// webhooks of these regions have fired since a little before, whatever became of them on
// their way. An error means that not all of them could be asked; what is returned with it
// was found all the same.
func (l *EventLog) Fired(ctx context.Context, id string, began time.Time, regions []replication.Region) ([]replication.Event, error) {
	webhooks, err := l.toAsk(ctx)
	if err != nil {
		return nil, err
	}
	var found []replication.Event
	var errs []error
	for _, region := range regions {
		r, ok, err := l.find(ctx, id, began.Add(-firedEarlier), webhooks[region])
		if err != nil {
			errs = append(errs, fmt.Errorf("event log of %s: %w", region, err))
		}
		if !ok {
			continue
		}
		l.log.LogAttrs(ctx, slog.LevelWarn, "a webhook that ACR fired did not come", slog.String("notification", id), slog.String("region", string(region)),
			slog.String("status", r.status), slog.String("reason", r.reason))
		r.event.Region = region
		found = append(found, r.event)
	}
	return found, errors.Join(errs...)
}

// toAsk returns the names of the webhooks whose logs count, by region.
func (l *EventLog) toAsk(ctx context.Context) (map[replication.Region][]string, error) {
	return l.webhooks.get(ctx, newerThan(webhooksFreshness), func(ctx context.Context) (map[replication.Region][]string, error) {
		listed, err := l.arm.listWebhooks(ctx)
		return webhooksToAsk(listed, l.owner), err
	})
}

// newerThan accepts what was read without an error less than most ago.
func newerThan(most time.Duration) func(time.Duration, reading) bool {
	return func(age time.Duration, last reading) bool { return last.err == nil && age < most }
}

// freshLog accepts a reading of a log. One that failed counts, too, unless its caller had
// hardly any time for it: else thousands of notifications would ask in vain, one after
// another.
func freshLog(age time.Duration, last reading) bool {
	hurried := errors.Is(last.err, context.DeadlineExceeded) || errors.Is(last.err, context.Canceled)
	return age < max(logFreshness, logShare*last.took) && (!hurried || last.took >= logFreshness)
}

// find looks for a notification in what the webhooks of a region have fired since then.
func (l *EventLog) find(ctx context.Context, id string, since time.Time, webhooks []string) (firing, bool, error) {
	var errs []error
	for _, name := range webhooks {
		stored, _ := l.logs.LoadOrStore(name, newShared[recentLog](l.now))
		log := stored.(*shared[recentLog])
		fresh := func(age time.Duration, last reading) bool { return freshLog(age, last) && !log.value.to.After(since) }
		read, err := log.get(ctx, fresh, func(ctx context.Context) (recentLog, error) { return l.readSince(ctx, name, since) })
		if r, ok := read.byID[id]; ok {
			return r, true, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return firing{}, false, errors.Join(errs...)
}

func (l *EventLog) readSince(ctx context.Context, webhook string, since time.Time) (recentLog, error) {
	read, pages := recentLog{map[string]firing{}, since}, 0
	err := l.arm.readEvents(ctx, webhook, func(page []firing) bool {
		for _, f := range page {
			read.byID[f.event.ID] = f
		}
		pages++
		return pages < maxLogPages && !reaches(page, since)
	})
	return read, err
}

// reaches tells whether the pages behind this one of a log have nothing new. ACR lists the
// newest firing first, but nothing says so of the order within a page. When an unanswered
// firing was is not exactly known: only a page of them ends a reading.
func reaches(page []firing, to time.Time) bool {
	before := func(f firing) bool { return f.event.ReceivedAt.Before(to) }
	exact := func(f firing) bool { return f.status != "" && before(f) }
	return slices.ContainsFunc(page, exact) || len(page) > 0 && !slices.ContainsFunc(page, func(f firing) bool { return !before(f) })
}

// webhooksToAsk returns the names of the owner's webhooks, by region, and in a region
// where the owner has none, of all that are there.
func webhooksToAsk(listed []webhook, owner string) map[replication.Region][]string {
	ours, others := map[replication.Region][]string{}, map[replication.Region][]string{}
	for _, w := range listed {
		if owner != "" && w.Owner == owner {
			ours[w.Region] = append(ours[w.Region], w.Name)
		} else {
			others[w.Region] = append(others[w.Region], w.Name)
		}
	}
	maps.Copy(others, ours)
	return others
}

// readEvents reads what a webhook has fired, pings left out, page by page for as long as
// more returns true.
func (a *ARM) readEvents(ctx context.Context, webhook string, more func(page []firing) bool) error {
	for pager := a.webhooks.NewListEventsPager(a.group, a.name, webhook, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read the events of %s: %w", webhook, err)
		}
		var firings []firing
		for _, e := range page.Value {
			if f := firingOf(value(e)); f.event.ID != "" && f.event.Action != "" && f.event.Action != "ping" {
				f.webhook = webhook
				firings = append(firings, f)
			}
		}
		if !more(firings) {
			return nil
		}
	}
	return nil
}

// firingOf reads an event as ACR has logged it. Anything in it may be missing.
func firingOf(e armcontainerregistry.Event) firing {
	content, answer := value(value(e.EventRequestMessage).Content), value(e.EventResponseMessage)
	image := value(content.Target)
	r := firing{status: value(answer.StatusCode), reason: value(answer.ReasonPhrase), uri: value(value(e.EventRequestMessage).RequestURI), content: &content, event: replication.Event{
		ID:         value(content.ID),
		Action:     value(content.Action),
		Registry:   replication.LoginServer(value(value(content.Request).Host)),
		Repository: value(image.Repository),
		Tag:        value(image.Tag),
		Digest:     value(image.Digest),
		MediaType:  value(image.MediaType),
		Size:       value(image.Size),
		Time:       value(content.Timestamp).UTC(),
		ReceivedAt: value(content.Timestamp).UTC(),
		Via:        replication.ViaEventLog,
	}}
	for name, header := range answer.Headers {
		// When it was fired, to the second; the content's time may be that of the push.
		if at, err := time.Parse(time.RFC1123, value(header)); err == nil && strings.EqualFold(name, "Date") {
			r.event.ReceivedAt = at.UTC()
		}
	}
	return r
}
