// Package notification is the actor that owns one notification, and the client
// that reaches it. What is decided, package replication decides; this package
// does the reading and writing around a decision, in the one order that
// survives a crash between any two lines.
//
// The turn of an event:
//
//  1. load the record
//  2. register a reminder, if the record that is to be saved relies on another one
//  3. save the record, with the outcomes in it marked as unpublished
//  4. reply: the event is safe
//  5. publish what is unpublished, if this turn added an outcome
//  6. if there is an outcome: wait until the index is written
//  7. and unregister the reminder
//
// The turn of the reminder does 1, decides what the time decides, and does 3 and 5
// to 7; between 5 and 6 it saves that the outcomes are published.
//
// A crash after 2 leaves a reminder on which no record relies. It removes itself
// (actor.Orphaned). A crash after 3 leaves work that the reminder finds and repeats;
// events keep their id, so consumers can drop the second one. A crash after 5, or a 7
// that is lost, leaves a reminder that does 5 once more, if the record does not say
// that it is done, and then 6 and 7. So while a notification has a reminder
// something may be left to do, and without one nothing is.
//
// A record relies on one reminder, by its name. The first event registers it, for
// when the notification is due. An event that changes a record with an outcome
// registers another one, for the old one may be going. And one that is far ahead is
// advanced before an outcome relies on it. None is registered again from inside its
// own firing, for Dapr's scheduler may lose it then: the firing's answer meets the
// new registration, which closes the job that was just scheduled
// (diagridio/go-etcd-cron 0.9.1, counters.handleExecuteResponse and
// router.handleCloseJob).
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

// followTimeout is how long what follows the reply may take: longer, and it is left
// for the reminder. Meanwhile the actor's next turn waits, and an event that waits for
// longer than CallTimeout is queued. It leaves a broker the second or two that its
// first connection takes.
const followTimeout = CallTimeout - 500*time.Millisecond

// Index finds notifications by their image.
type Index interface {
	// Send has the entries written soon. The nil error of settled means that each
	// leads to its notification or to a newer one, and survives a kill -9 of every
	// process.
	Send(entries []catalog.Entry) (settled func(context.Context) error)
}

// EventLog is ACR's own record of its webhooks. Fired returns the events of a
// notification that the webhooks of these regions have fired, and that may not
// have reached us. An error means that not all of them could be asked.
type EventLog interface {
	Fired(ctx context.Context, id string, regions []replication.Region) ([]replication.Event, error)
}

// Observer is told what becomes of notifications, by the process in which it does.
// It must not block.
type Observer interface {
	// Saved is told of a decision that is saved: the state before and after it.
	Saved(before, after replication.State)

	// Published is told of an outcome that the broker has taken, and how long
	// after it was decided.
	Published(o replication.Outcome, lag time.Duration)

	// Repeated is told of work that an earlier turn could not finish, and that the
	// reminder has done: one of the names below.
	Repeated(work string)
}

// WorkPublish is the work that a reminder repeats.
const WorkPublish = "publish"

// askTimeout is how long ACR may take to say what it has fired, before a timeout is
// decided without it. Nobody waits for the reminder's turn.
const askTimeout = 8 * time.Second

// Actor is the server side: its methods are turns of the actor with the given
// id. Where turns of one id overlap, those that have seen an old record fail.
type Actor struct {
	Records   actor.Records
	Reminders actor.Reminders
	Topic     actor.Topic
	Index     Index

	// EventLog, if set, is asked about the missing regions before a
	// notification times out.
	EventLog EventLog

	// Timeout is how long a new notification waits for its regions.
	Timeout time.Duration

	// Concluded, if set, is told of every outcome that this process saved.
	// It must not block.
	Concluded func(id string)

	Observer Observer // nil for none

	// Tracer, if set, traces turns and publications.
	Tracer trace.Tracer

	// Now is wall time: it is compared with times that another process stored.
	Now func() time.Time
	Log *slog.Logger
}

// Methods are the turns that Client asks for, by name.
func (a *Actor) Methods() map[string]actor.Method { return map[string]actor.Method{methodAdd: a.add} }

// loaded is a state and what is needed to replace it.
type loaded struct {
	replication.State
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
	ctx, span := a.traceTurn(ctx, id, m.Event.Region, false)
	turn, d, err := a.addEvent(ctx, m.Event, replication.Plan{Expected: m.Expected, Timeout: a.Timeout})
	endTurn(span, d, err)
	if err != nil {
		return actor.Turn{}, fmt.Errorf("add to %s: %w", id, err)
	}
	return turn, nil
}

// addEvent is the turn of an event. Its nil error means that the decision is saved.
func (a *Actor) addEvent(ctx context.Context, e replication.Event, plan replication.Plan) (actor.Turn, replication.Decision, error) {
	fail := func(err error) (actor.Turn, replication.Decision, error) {
		return actor.Turn{}, replication.Decision{}, err
	}
	before, err := a.load(ctx, e.ID) // 1
	if err != nil {
		return fail(err)
	}
	now := a.Now()
	s, d := replication.Add(before.State, e, plan, now)
	if d.Changed {
		s = s.Traced(before.State, traceOf(ctx))
		if s, err = a.rely(ctx, before.State, s, now); err != nil { // 2
			return fail(err)
		}
		if err := a.save(ctx, before, s, d); err != nil { // 3
			return fail(err)
		}
	}
	a.log(ctx, e.ID, e.Region, false, d)
	reply, err := answer(s, d, plan)
	if err != nil {
		return fail(err)
	}
	turn := actor.Turn{Reply: reply} // 4
	if d.Changed {
		turn.After = func(after context.Context) {
			after, cancel := context.WithTimeout(trace.ContextWithSpan(after, trace.SpanFromContext(ctx)), followTimeout)
			defer cancel()
			if err := a.follow(after, s, len(d.New) > 0); err != nil {
				a.leave(after, e.ID, err)
			}
		}
	}
	return turn, d, nil
}

// rely registers the reminder that s relies on, where that is not the one of before.
// The result names it.
func (a *Actor) rely(ctx context.Context, before, s replication.State, now time.Time) (replication.State, error) {
	due := now.Add(replication.Soon)
	switch {
	case !before.Exists() && s.Status() == replication.Collecting:
		due = s.Due
		s.ReminderName = actor.ReminderName(now, before.ReminderName)
	case !before.Exists() || before.Status() != replication.Collecting:
		s.ReminderName = actor.ReminderName(now, before.ReminderName)
	case len(s.Outcomes) == 0 || !before.Advance(now):
		return s, nil
	}
	if err := a.Reminders.Register(ctx, s.First.ID, s.ReminderName, due, replication.Period); err != nil {
		return s, fmt.Errorf("register reminder: %w", err)
	}
	return s, nil
}

// follow does what follows the save of an event. Nothing of it is an error of the
// turn: its own error means that the reminder has to do the rest.
func (a *Actor) follow(ctx context.Context, s replication.State, publish bool) error {
	settled := a.Index.Send(entries(s))
	if s.Status() == replication.Collecting {
		return nil
	}
	// Who adds no outcome leaves what an earlier turn could not publish, so that a
	// broker that is down costs each webhook nothing.
	if publish {
		published, err := a.publishAll(ctx, s)
		for _, o := range published {
			s = s.Published(o)
		}
		if err != nil {
			return err
		}
	}
	if len(s.Unpublished()) > 0 {
		return nil
	}
	if err := settled(ctx); err != nil { // 6
		return err
	}
	return a.unregister(ctx, s.First.ID, s.ReminderName) // 7
}

// Remind is the turn of the reminder with that name: it decides what is due, and
// repeats what an earlier turn could not finish. Firings that were missed may
// all come at once; a second one finds nothing to do. A reminder that the
// notification does not rely on only goes, in time. An error makes Dapr try again.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	ctx, span := a.traceTurn(ctx, id, "", true)
	d, err := a.remind(ctx, id, name)
	endTurn(span, d, err)
	if err != nil {
		return fmt.Errorf("reminder of %s: %w", id, err)
	}
	return nil
}

func (a *Actor) remind(ctx context.Context, id, name string) (replication.Decision, error) {
	before, err := a.load(ctx, id)
	if err != nil {
		return replication.Decision{}, err
	}
	now := a.Now()
	if name != before.ReminderName {
		return replication.Decision{}, a.dismiss(ctx, id, name, now)
	}
	s, d := a.decideDue(ctx, before.State, now)
	if d.Changed {
		s = s.Traced(before.State, traceOf(ctx))
		if err := a.save(ctx, before, s, d); err != nil { // 3
			return replication.Decision{}, err
		}
	}
	a.log(ctx, id, "", true, d)
	if s.Status() == replication.Collecting {
		return d, nil
	}
	if err := a.finish(ctx, before.State, s, name); err != nil {
		a.leave(ctx, id, err)
	}
	return d, nil
}

// decideDue decides what the time decides. Before a timeout it asks what ACR has
// fired and we have not got.
func (a *Actor) decideDue(ctx context.Context, before replication.State, now time.Time) (replication.State, replication.Decision) {
	s := before
	if a.EventLog != nil && s.Status() == replication.Collecting && !now.Before(s.Due) {
		s = a.ask(ctx, s, now)
	}
	found := len(s.Arrivals) > len(before.Arrivals)
	s, d := replication.Tick(s, now)
	d.Changed = d.Changed || found
	d.New = slices.Clone(s.Outcomes[len(before.Outcomes):])
	return s, d
}

// finish is follow for the reminder's turn. It saves that the outcomes are
// published, before the reminder may go: a firing that finds them unpublished
// publishes them again. Before is what the turn has loaded.
func (a *Actor) finish(ctx context.Context, before, s replication.State, name string) error {
	settled := a.Index.Send(entries(s))
	published, err := a.publishAll(ctx, s) // 5
	for i := range published {
		if a.Observer != nil && i < len(before.Unpublished()) {
			a.Observer.Repeated(WorkPublish)
		}
	}
	if len(published) > 0 {
		err = errors.Join(err, a.savePublished(ctx, s.First.ID, published))
	}
	if err != nil {
		return err
	}
	if err := settled(ctx); err != nil { // 6
		return err
	}
	return a.unregister(ctx, s.First.ID, name) // 7
}

// savePublished loads the record once more, for the answer to a save does not tell
// its version, and marks the outcomes as published.
func (a *Actor) savePublished(ctx context.Context, id string, published []replication.Outcome) error {
	before, err := a.load(ctx, id)
	if err != nil {
		return err
	}
	if !before.Exists() {
		return errors.New("save what is published: the record is gone")
	}
	s := before.State
	for _, o := range published {
		s = s.Published(o)
	}
	return a.store(ctx, before, s)
}

func entries(s replication.State) []catalog.Entry {
	e := s.First
	return catalog.Entries(catalog.Image{Repository: e.Repository, Digest: e.Digest, Tag: e.Tag}, e.ID, s.StartedAt)
}

// dismiss removes a reminder that no record relies on, once none ever will.
func (a *Actor) dismiss(ctx context.Context, id, name string, now time.Time) error {
	if !actor.Orphaned(name, now) {
		return nil
	}
	return a.unregister(ctx, id, name)
}

func (a *Actor) unregister(ctx context.Context, id, name string) error {
	if err := a.Reminders.Unregister(ctx, id, name); err != nil {
		return fmt.Errorf("unregister %s: %w", name, err)
	}
	return nil
}

func (a *Actor) leave(ctx context.Context, id string, err error) {
	a.Log.LogAttrs(ctx, slog.LevelWarn, "left for the reminder", slog.String("notification", id), slog.Any("err", err))
}

// ask adds to s what ACR has fired for it and we have not got. Trouble with ACR
// only costs time.
func (a *Actor) ask(ctx context.Context, s replication.State, now time.Time) replication.State {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	id := s.First.ID
	fired, err := a.EventLog.Fired(ctx, id, s.Missing())
	if err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "ACR's event log was not read", slog.String("notification", id), slog.Any("err", err))
	}
	for _, e := range fired {
		if e.ID != id {
			continue
		}
		var d replication.Decision
		s, d = replication.Add(s, e, replication.Plan{Expected: s.Expected}, now)
		a.log(ctx, id, e.Region, true, d)
	}
	return s
}

func (a *Actor) load(ctx context.Context, id string) (loaded, error) {
	data, version, err := a.Records.Load(ctx, id)
	if err != nil {
		return loaded{}, fmt.Errorf("load: %w", err)
	}
	s, err := decodeRecord(data)
	return loaded{s, version}, err
}

// save stores a decision in place of before.
func (a *Actor) save(ctx context.Context, before loaded, s replication.State, d replication.Decision) error {
	if err := a.store(ctx, before, s); err != nil {
		return err
	}
	if a.Observer != nil {
		a.Observer.Saved(before.State, s)
	}
	if len(d.New) > 0 && a.Concluded != nil {
		a.Concluded(s.First.ID)
	}
	return nil
}

func (a *Actor) store(ctx context.Context, before loaded, s replication.State) error {
	data, err := encodeRecord(s)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if err := a.Records.Save(ctx, s.First.ID, data, before.version); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// publishAll publishes what s does not show as published, in order, and returns what
// the broker has taken before an error.
func (a *Actor) publishAll(ctx context.Context, s replication.State) (published []replication.Outcome, err error) {
	for _, o := range s.Unpublished() {
		if err := a.publish(ctx, s, o); err != nil {
			return published, err
		}
		published = append(published, o)
	}
	return published, nil
}

func (a *Actor) publish(ctx context.Context, s replication.State, o replication.Outcome) error {
	eventID, data, err := cloudEvent(s, o)
	if err != nil {
		return err
	}
	ctx, span := a.tracePublication(ctx, eventID, o)
	err = a.Topic.Publish(ctx, eventID, data)
	end(span, err)
	if err != nil {
		return fmt.Errorf("publish %s: %w", eventID, err)
	}
	if a.Observer != nil {
		a.Observer.Published(o, max(0, a.Now().Sub(o.At)))
	}
	return nil
}

func answer(s replication.State, d replication.Decision, plan replication.Plan) ([]byte, error) {
	r := reply{Reason: d.Reason}
	if s.Exists() {
		st := statusOf(s)
		r.Status = &st
	}
	if d.Reason == replication.Refused {
		r.Expected = plan.Expected
		if s.Exists() {
			r.Expected = s.Expected
		}
	}
	return json.Marshal(r)
}

// log writes the decision. What decides nothing is not worth a line above
// debug: a reminder that finds nothing due.
func (a *Actor) log(ctx context.Context, id string, region replication.Region, reminded bool, d replication.Decision) {
	level := slog.LevelInfo
	if region == "" && len(d.New) == 0 {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("notification", id), slog.String("decision", d.String())}
	if region != "" {
		attrs = append(attrs, slog.String("region", string(region)))
	}
	if reminded {
		attrs = append(attrs, slog.Bool("reminder", true))
	}
	a.Log.LogAttrs(ctx, level, "decided", attrs...)
}
