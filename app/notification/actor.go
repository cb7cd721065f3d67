// Package notification is the actor of a notification, and the client that reaches
// it. Package replication decides; this package reads before a decision and writes
// after it, in the one order that survives a crash between any two lines.
//
// The turn of an event:
//
//  1. load the record
//  2. register the reminder that the record is to name, unless it is set already
//  3. save the record, with new outcomes marked as unpublished
//  4. reply: the event is safe
//  5. publish what is unpublished, if this turn added an outcome
//  6. if all that is decided is published: wait until index and list are written
//  7. and remove the reminder
//
// The turn of the reminder does 1, decides what the time decides, and does 3 and 5 to
// 7. Between 5 and 6 it saves that the outcomes are published.
//
// A crash after 2 leaves a reminder that no record names. It removes itself
// (actor.Orphaned). After a crash behind 3, the reminder does what is left: events keep
// their id, so that consumers can drop the second one. So while a notification has a
// reminder something may be left to do, and without one nothing is.
//
// A record names one reminder. The first event registers it, for when the notification
// is due. An event that changes a record with an outcome registers another one, for
// the old one may be on its way out. An outcome does not wait for a reminder that is
// far ahead: the same one is registered again, sooner. A record that names none adopts
// the one that fires. See actor.Reminders for what
// may not be done inside a firing.
//
// Package conformance plays all of that through.
package notification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"allregions/app/actor"
	"allregions/app/catalog"
	"allregions/app/replication"
)

// ActorType is the Dapr actor type; the actor's id is the notification's id.
const ActorType = "Notification"

// methodAdd is the one method of the actor.
const methodAdd = "Add"

const (
	// Period is the time between two firings of the reminder, once it is due. Whole
	// seconds, because Dapr's scheduler counts in them.
	Period = 30 * time.Second

	// Soon is how far ahead the reminder is set where a publication follows at once: if
	// a crash prevents that, it is late by no more.
	Soon = 10 * time.Second

	// farAhead is how far ahead a reminder may be and still repeat a publication.
	farAhead = 3 * time.Minute

	// followTimeout bounds what follows the reply; the reminder does the remainder.
	// Meanwhile the actor's next turn waits, and an event that waits for longer than
	// CallTimeout is queued. A broker's first connection takes a second or two.
	followTimeout = CallTimeout - 500*time.Millisecond

	// eventLogTimeout bounds the reading of ACR's event log. Nobody waits for the
	// reminder's turn.
	eventLogTimeout = 8 * time.Second
)

// Catalog finds notifications.
type Catalog interface {
	// Send has what is known of a notification written soon. The nil error of settled
	// means that each entry of the index leads to the notification or to a newer one,
	// that the list has this or what was saved later, and that both survive a kill -9 of
	// every process.
	Send(index []catalog.Entry, listed catalog.Listed) (settled func(context.Context) error)
}

// EventLog is ACR's own record of its webhooks.
type EventLog interface {
	// Fired returns the events of a notification that the webhooks of these regions of the
	// registry have fired since it began, or shortly before, whether they reached us or
	// not. An error means that some regions could not be asked; the events of the others
	// are returned with it.
	Fired(ctx context.Context, registry, id string, began time.Time, regions []replication.Region) ([]replication.Event, error)
}

// Observer counts what becomes of notifications, in the process in which it happens.
// It must not block.
type Observer interface {
	// Saved is called when a decision is saved, with the states before and after it.
	Saved(before, after replication.State)

	// Published is called when the broker has an outcome, with the time since it was
	// decided.
	Published(o replication.Outcome, lag time.Duration)

	// Repeated is called when the reminder has published an outcome that an earlier turn
	// could not publish.
	Repeated()
}

// Actor is the server side: its methods are turns of the actor with the given id. Of
// two turns of one id that overlap, one has loaded an old record, and cannot save: an
// event's decides once more with the new record, a reminder's fails and comes again.
type Actor struct {
	Records   actor.Records
	Reminders actor.Reminders
	Topic     actor.Topic
	Catalog   Catalog

	EventLog EventLog      // read before a notification times out; nil for none
	Finder   Finder        // asked about the image of a notification that has timed out; nil for none
	Timeout  time.Duration // how long a new notification waits for its regions

	// Replicas, if not nil, is what Azure says of the registry's replicas in these regions,
	// as far as it is known. It must not block: a notification that times out says it of those
	// that are missing.
	Replicas func(registry string, regions []replication.Region) map[replication.Region]string

	// Concluded, if not nil, is called with the id of each notification for which this
	// process saved an outcome. It must not block.
	Concluded func(id string)

	Observer Observer     // nil for none
	Tracer   trace.Tracer // of turns and publications; nil for none

	// Now is wall time: it is compared with times that another process stored.
	Now func() time.Time
	Log *slog.Logger
}

// Methods are the turns that Client asks for, by name.
func (a *Actor) Methods() map[string]actor.Method { return map[string]actor.Method{methodAdd: a.add} }

// loaded is a record and what is needed to replace it.
type loaded struct {
	record
	version string
}

func (a *Actor) add(ctx context.Context, id string, body []byte) (actor.Turn, error) {
	var m Message
	if err := json.Unmarshal(body, &m); err != nil {
		return actor.Turn{}, fmt.Errorf("add to %s: decode event: %w", id, err)
	}
	if m.Event.ID != id {
		return actor.Turn{}, fmt.Errorf("add to %s: the event is of %q", id, m.Event.ID)
	}
	ctx, span := a.startSpan(ctx, "turn", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attrNotification.String(id), attrRegion.String(string(m.Event.Region))))
	plan := replication.Plan{Awaited: m.Awaited(), Timeout: a.Timeout}
	turn, d, err := a.addEvent(ctx, replication.Event(m.Event), plan)
	if errors.Is(err, actor.ErrConflict) { // often with what this turn, or one that was cut off, has saved itself
		turn, d, err = a.addEvent(ctx, replication.Event(m.Event), plan)
	}
	endTurn(span, d, err)
	if err != nil {
		return actor.Turn{}, fmt.Errorf("add to %s: %w", id, err)
	}
	return turn, nil
}

// addEvent is the turn of an event. Its nil error means that the decision is saved.
func (a *Actor) addEvent(ctx context.Context, e replication.Event, plan replication.Plan) (turn actor.Turn, d replication.Decision, err error) {
	before, err := a.load(ctx, e.ID) // 1
	if err != nil {
		return turn, d, err
	}
	now := a.Now()
	r := before.record
	r.State, d = replication.Add(before.State, e, plan, now)
	if d.Changed {
		r.Saves++
		r.State = a.annotated(ctx, before.State, r.State)
		if r.Reminder, err = a.setReminder(ctx, before.record, r.State, now); err != nil { // 2
			return turn, d, err
		}
		if err := a.save(ctx, before, r, d); err != nil { // 3
			return turn, d, err
		}
	}
	a.logDecision(ctx, slog.LevelInfo, e.ID, d, slog.String("region", string(e.Region)))
	turn.Reply, err = encodeReply(r.State, d, plan) // 4
	if err == nil && d.Changed {
		var settle func(context.Context) error
		turn.After = func(after context.Context) {
			after, cancel := context.WithTimeout(trace.ContextWithSpan(after, trace.SpanFromContext(ctx)), followTimeout)
			defer cancel()
			var err error
			settle, err = a.followEvent(after, r, len(d.New) > 0)
			a.logUnfinished(after, e.ID, err)
		}
		turn.Settle = func(after context.Context) { a.finish(after, e.ID, settle) }
	}
	return turn, d, err
}

// finish does 6 and 7, if it is time for that: then settle is not nil.
func (a *Actor) finish(ctx context.Context, id string, settle func(context.Context) error) {
	if settle != nil {
		a.logUnfinished(ctx, id, settle(ctx))
	}
}

// annotated returns s with what belongs to the outcomes that before has not.
func (a *Actor) annotated(ctx context.Context, before, s replication.State) replication.State {
	if a.Replicas != nil {
		s = s.Explained(before, func(missing []replication.Region) map[replication.Region]string {
			return a.Replicas(s.First.Registry, missing)
		})
	}
	return s.Traced(before, traceOf(ctx))
}

// setReminder registers the reminder of a record that is to be saved with this state,
// where that is not the one of the record before, and returns its name.
func (a *Actor) setReminder(ctx context.Context, before record, s replication.State, now time.Time) (name string, err error) {
	name, due := actor.ReminderName(now, before.Reminder), now.Add(Soon)
	collecting := s.Status() == replication.Collecting
	if before.Reminder != "" && before.Status() == replication.Collecting {
		if collecting || s.Due.Sub(now) <= farAhead {
			return before.Reminder, nil
		}
		name = before.Reminder // the same one, sooner
	}
	if collecting {
		due = s.Due
	}
	if err := a.Reminders.Register(ctx, s.First.ID, name, due, Period); err != nil {
		return "", fmt.Errorf("register reminder: %w", err)
	}
	return name, nil
}

// followEvent does 5 for the turn of an event, and returns what does 6 and 7, if it is
// time for that. Its error is not the turn's: it means that something is left for the
// reminder. A turn that adds no outcome publishes nothing, so that a broker that is down
// costs each webhook nothing.
func (a *Actor) followEvent(ctx context.Context, r record, publish bool) (settle func(context.Context) error, err error) {
	settled := a.Catalog.Send(entries(r.State), listed(r))
	if publish {
		if r.State, err = a.publishAll(ctx, r.State); err != nil { // 5
			return nil, err
		}
		// The event of an optional region may still change the record: its reminder would
		// publish again what that does not show as published.
		if len(r.Absent(r.Optional)) > 0 {
			if err := a.savePublished(ctx, r.State); err != nil {
				return nil, err
			}
		}
	}
	if r.unfinished() {
		return nil, nil
	}
	return func(ctx context.Context) error { return a.settle(ctx, r, settled) }, nil
}

// Remind is the turn of the reminder with that name: it decides what is due, and
// repeats what an earlier turn could not finish. Firings that were missed may all come
// at once; a second one finds nothing to do. A reminder that the record does not name
// removes itself, in time. After an error Dapr tries again. Events do not wait until
// index and list are written.
func (a *Actor) Remind(ctx context.Context, id, name string) (turn actor.Turn, err error) {
	ctx, span := a.startSpan(ctx, "reminder", trace.WithNewRoot(), trace.WithAttributes(attrNotification.String(id)))
	d, settle, err := a.remind(ctx, id, name)
	endTurn(span, d, err)
	if err != nil {
		return turn, fmt.Errorf("reminder of %s: %w", id, err)
	}
	turn.Settle = func(after context.Context) { a.finish(after, id, settle) }
	return turn, nil
}

func (a *Actor) remind(ctx context.Context, id, name string) (d replication.Decision, settle func(context.Context) error, err error) {
	before, err := a.load(ctx, id) // 1
	if err != nil {
		return d, nil, err
	}
	now := a.Now()
	r := before.record
	adopted := r.unfinished() && r.Reminder == ""
	if adopted {
		r.Reminder = name
	}
	if name != r.Reminder {
		if actor.Orphaned(name, now) {
			err = a.unregister(ctx, id, name)
		}
		return d, nil, err
	}
	r.State, d = a.decideDue(ctx, before.State, now)
	if d.Changed || adopted {
		r.Saves++
		r.State = a.annotated(ctx, before.State, r.State)
		if err := a.save(ctx, before, r, d); err != nil { // 3
			return d, nil, err
		}
	}
	level := slog.LevelDebug // a firing that decides nothing is not worth a line
	if len(d.New) > 0 {
		level = slog.LevelInfo
	}
	a.logDecision(ctx, level, id, d, byReminder)
	if slices.ContainsFunc(d.New, func(o replication.Outcome) bool { return o.Status == replication.TimedOut }) {
		a.logOther(ctx, r.State)
	}
	if r.Status() != replication.Collecting {
		settle, err = a.followReminder(ctx, len(before.Unpublished()), r)
		a.logUnfinished(ctx, id, err)
	}
	return d, settle, nil
}

// decideDue decides what the time decides. Before a timeout it reads what ACR has fired
// and has not reached us.
func (a *Actor) decideDue(ctx context.Context, before replication.State, now time.Time) (replication.State, replication.Decision) {
	s := before
	if a.EventLog != nil && s.Status() == replication.Collecting && !now.Before(s.Due) {
		s = a.addFired(ctx, s, now)
	}
	found := len(s.Arrivals) > len(before.Arrivals)
	s, d := replication.Tick(s, now)
	d.Changed = d.Changed || found
	d.New = slices.Clone(s.Outcomes[len(before.Outcomes):])
	return s, d
}

// addFired adds to s the events that ACR's log has and s has not. If the log cannot be
// read, that costs time only.
func (a *Actor) addFired(ctx context.Context, s replication.State, now time.Time) replication.State {
	ctx, cancel := context.WithTimeout(ctx, eventLogTimeout)
	defer cancel()
	id := s.First.ID
	fired, err := a.EventLog.Fired(ctx, s.First.Registry, id, s.StartedAt, s.Missing())
	if err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "ACR's event log was not read", slog.String("notification", id), slog.Any("err", err))
	}
	for _, e := range fired {
		if e.ID != id {
			continue
		}
		var d replication.Decision
		s, d = replication.Add(s, e, replication.Plan{Awaited: s.Awaited}, now)
		a.logDecision(ctx, slog.LevelInfo, id, d, slog.String("region", string(e.Region)), byReminder)
	}
	return s
}

// logOther says if the missing regions of a notification that has timed out are in another
// one of the same image, which has none of its regions: ACR may not give a push one id.
func (a *Actor) logOther(ctx context.Context, s replication.State) {
	if a.Finder == nil {
		return
	}
	id, err := a.Finder.Find(ctx, image(s))
	if err != nil || id == "" || id == s.First.ID {
		return // the timeout itself is there for all to see
	}
	other, err := a.load(ctx, id)
	if err != nil || other.First.Digest != s.First.Digest || other.First.Action != s.First.Action {
		return
	}
	var regions []replication.Region
	for _, arrival := range other.Arrivals {
		if !slices.Contains(s.Missing(), arrival.Region) {
			return
		}
		regions = append(regions, arrival.Region)
	}
	a.Log.LogAttrs(ctx, slog.LevelError, "the missing regions are in another notification of the same image",
		slog.String("notification", s.First.ID), slog.String("other", id), slog.Any("regions", regions))
}

// followReminder does 5 for the reminder's turn, of which unfinished outcomes were
// decided by an earlier one, and returns what does 6 and 7. It saves that outcomes are
// published before the reminder may go: a firing that finds them unpublished publishes
// them again.
func (a *Actor) followReminder(ctx context.Context, unfinished int, r record) (settle func(context.Context) error, err error) {
	settled := a.Catalog.Send(entries(r.State), listed(r))
	s, err := a.publishAll(ctx, r.State) // 5
	published := len(r.Unpublished()) - len(s.Unpublished())
	for range min(published, unfinished) {
		if a.Observer != nil {
			a.Observer.Repeated()
		}
	}
	if published > 0 {
		err = errors.Join(err, a.savePublished(ctx, s))
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return a.settle(ctx, r, settled) }, nil
}

// savePublished saves which outcomes s shows as published. It loads the record again,
// because the answer to a save does not have the new version.
func (a *Actor) savePublished(ctx context.Context, s replication.State) error {
	before, err := a.load(ctx, s.First.ID)
	if err != nil {
		return err
	}
	if !before.Exists() {
		return errors.New("save what is published: the record is gone")
	}
	r := before.record
	r.Saves++
	for _, o := range s.Outcomes {
		if o.Published {
			r.State = r.Published(o)
		}
	}
	return a.store(ctx, before, r)
}

// settle waits until the index and the list are written, and removes the reminder. Other
// turns may run meanwhile: one that saves something has registered a reminder of another
// name.
func (a *Actor) settle(ctx context.Context, r record, settled func(context.Context) error) error {
	if err := settled(ctx); err != nil { // 6
		return err
	}
	return a.unregister(ctx, r.First.ID, r.Reminder) // 7
}

func (a *Actor) unregister(ctx context.Context, id, name string) error {
	if err := a.Reminders.Unregister(ctx, id, name); err != nil {
		return fmt.Errorf("unregister %s: %w", name, err)
	}
	return nil
}

// image is what the notification is about.
func image(s replication.State) catalog.Image {
	e := s.First
	return catalog.Image{Registry: e.Registry, Repository: e.Repository, Digest: e.Digest, Tag: e.Tag}
}

func entries(s replication.State) []catalog.Entry {
	return catalog.Entries(image(s), s.First.ID, s.StartedAt)
}

func (a *Actor) load(ctx context.Context, id string) (loaded, error) {
	data, version, err := a.Records.Load(ctx, id)
	if err != nil {
		return loaded{}, fmt.Errorf("load: %w", err)
	}
	r, err := decodeRecord(data)
	return loaded{r, version}, err
}

func (a *Actor) save(ctx context.Context, before loaded, r record, d replication.Decision) error {
	if err := a.store(ctx, before, r); err != nil {
		return err
	}
	if a.Observer != nil {
		a.Observer.Saved(before.State, r.State)
	}
	if len(d.New) > 0 && a.Concluded != nil {
		a.Concluded(r.First.ID)
	}
	return nil
}

func (a *Actor) store(ctx context.Context, before loaded, r record) error {
	data, err := r.encode()
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if err := a.Records.Save(ctx, r.First.ID, data, before.version); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// publishAll publishes what s does not show as published, in order. The result shows
// what the broker has, also after an error.
func (a *Actor) publishAll(ctx context.Context, s replication.State) (replication.State, error) {
	for _, o := range s.Unpublished() {
		eventID, data, err := cloudEvent(s, o)
		if err != nil {
			return s, err
		}
		spanCtx, span := a.startPublication(ctx, eventID, o)
		err = a.Topic.Publish(spanCtx, eventID, data)
		end(span, err)
		if err != nil {
			return s, fmt.Errorf("publish %s: %w", eventID, err)
		}
		if a.Observer != nil {
			a.Observer.Published(o, max(0, a.Now().Sub(o.At)))
		}
		s = s.Published(o)
	}
	return s, nil
}

func encodeReply(s replication.State, d replication.Decision, plan replication.Plan) ([]byte, error) {
	r := reply{Reason: d.Reason}
	if s.Exists() {
		r.Status = new(statusOf(s))
		plan.Awaited = s.Awaited
	}
	if d.Reason == replication.Refused {
		r.Expected = plan.All()
	}
	return json.Marshal(r)
}

// byReminder marks the decisions of a reminder's turn in the log.
var byReminder = slog.Bool("reminder", true)

func (a *Actor) logDecision(ctx context.Context, level slog.Level, id string, d replication.Decision, more ...slog.Attr) {
	attrs := []slog.Attr{slog.String("notification", id), slog.String("decision", d.String())}
	a.Log.LogAttrs(ctx, level, "decided", append(attrs, more...)...)
}

// logUnfinished logs why the reminder has something left to do, if it has.
func (a *Actor) logUnfinished(ctx context.Context, id string, err error) {
	if err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "left for the reminder", slog.String("notification", id), slog.Any("err", err))
	}
}
