package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	webhooksFreshness = time.Minute
	maxLogPages       = 20
)

// EventLog reads ACR's own record of what its webhooks have fired and what came
// of it. It needs the right Microsoft.ContainerRegistry/registries/webhooks/
// read and listEvents/action.
type EventLog struct {
	arm   *ARM
	owner string // of the webhooks to ask; those of others only where there is none
	now   func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	webhooks shared[map[replication.Region][]string] // names
	records  map[string]*shared[map[string]record]   // by webhook, then by notification
}

// record is one firing of one webhook.
type record struct {
	event  replication.Event
	status string // what ACR was answered: "503", or "" if it was not
	reason string
}

// NewEventLog returns the log of the registry that a reads.
func NewEventLog(a *ARM, owner string, now func() time.Time, log *slog.Logger) *EventLog {
	return &EventLog{arm: a, owner: owner, now: now, log: log, records: map[string]*shared[map[string]record]{}}
}

// Fired returns the events of a notification that the webhooks of these regions
// have fired, whatever became of them on their way. An error means that not all
// of them could be asked; what is returned with it was found all the same.
func (l *EventLog) Fired(ctx context.Context, id string, regions []replication.Region) ([]replication.Event, error) {
	webhooks, err := l.webhooks.get(ctx, l.now, webhooksFreshness, l.list)
	if err != nil {
		return nil, err
	}
	var found []replication.Event
	var errs []error
	for _, region := range regions {
		r, ok, err := l.look(ctx, id, webhooks[region])
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

// look looks through the records of a region's webhooks.
func (l *EventLog) look(ctx context.Context, id string, webhooks []string) (record, bool, error) {
	var errs []error
	for _, name := range webhooks {
		l.mu.Lock()
		s := l.records[name]
		if s == nil {
			s = &shared[map[string]record]{}
			l.records[name] = s
		}
		l.mu.Unlock()
		records, err := s.get(ctx, l.now, logFreshness, func(ctx context.Context) (map[string]record, error) { return l.read(ctx, name) })
		if r, ok := records[id]; ok {
			return r, true, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return record{}, false, errors.Join(errs...)
}

// list returns the names of the webhooks to ask, by region: ours, or, in a region
// where we have none, whatever is there.
func (l *EventLog) list(ctx context.Context) (map[replication.Region][]string, error) {
	ours, others := map[replication.Region][]string{}, map[replication.Region][]string{}
	for pager := l.arm.webhooks.NewListPager(l.arm.group, l.arm.name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the webhooks of %s: %w", l.arm.name, err)
		}
		for _, w := range page.Value {
			if w == nil {
				continue
			}
			into, have := others, fromARM(w)
			if l.owner != "" && have.Owner == l.owner {
				into = ours
			}
			into[have.Region] = append(into[have.Region], text(w.Name))
		}
	}
	for region, names := range ours {
		others[region] = names
	}
	return others, nil
}

// read reads a webhook's records. With an error it returns those before it.
func (l *EventLog) read(ctx context.Context, webhook string) (map[string]record, error) {
	records := map[string]record{}
	pager := l.arm.webhooks.NewListEventsPager(l.arm.group, l.arm.name, webhook, nil)
	for pages := 0; pager.More() && pages < maxLogPages; pages++ {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return records, fmt.Errorf("read the events of %s: %w", webhook, err)
		}
		for _, e := range page.Value {
			if r, ok := recordOf(e); ok {
				records[r.event.ID] = r
			}
		}
	}
	return records, nil
}

// recordOf is false for what is no event of a notification.
func recordOf(e *armcontainerregistry.Event) (record, bool) {
	if e == nil || e.EventRequestMessage == nil || e.EventRequestMessage.Content == nil {
		return record{}, false
	}
	c := e.EventRequestMessage.Content
	r := record{event: replication.Event{ID: text(c.ID), Action: text(c.Action), Via: replication.ViaEventLog}}
	if c.Timestamp != nil {
		r.event.Time = c.Timestamp.UTC()
		r.event.ReceivedAt = r.event.Time
	}
	if c.Request != nil {
		r.event.Registry = strings.ToLower(text(c.Request.Host))
	}
	if t := c.Target; t != nil {
		r.event.Repository, r.event.Tag, r.event.Digest, r.event.MediaType = text(t.Repository), text(t.Tag), text(t.Digest), text(t.MediaType)
		if t.Size != nil {
			r.event.Size = *t.Size
		}
	}
	if a := e.EventResponseMessage; a != nil {
		r.status, r.reason = text(a.StatusCode), text(a.ReasonPhrase)
		for name, value := range a.Headers {
			// When it was fired, to the second; the content's time may be that of the push.
			if at, err := time.Parse(time.RFC1123, text(value)); err == nil && strings.EqualFold(name, "Date") {
				r.event.ReceivedAt = at.UTC()
			}
		}
	}
	return r, r.event.ID != "" && r.event.Action != "" && r.event.Action != "ping"
}

// shared is what many ask for at once and one reads.
type shared[T any] struct {
	mu      sync.Mutex
	reading chan struct{} // closed when the reading that is under way ends; nil if none is
	value   T
	err     error
	at      time.Time // when the reading of value began
}

// get returns what was read at most freshness ago, or reads, or waits for who
// reads. A reading ends with ctx, and its error is not kept.
func (s *shared[T]) get(ctx context.Context, now func() time.Time, freshness time.Duration, read func(context.Context) (T, error)) (T, error) {
	for {
		s.mu.Lock()
		if !s.at.IsZero() && s.err == nil && now().Sub(s.at) < freshness {
			defer s.mu.Unlock()
			return s.value, nil
		}
		reading := s.reading
		if reading == nil {
			break // still locked
		}
		s.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		}
	}
	s.reading = make(chan struct{})
	began := now()
	s.mu.Unlock()

	value, err := read(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err, s.at = value, err, began
	close(s.reading)
	s.reading = nil
	return value, err
}
