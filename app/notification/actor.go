// Package notification is the actor that owns one notification, and the client
// that reaches it. What is decided, package replication decides; this package
// does the reading and writing around a decision, in the one order that
// survives a crash between any two lines. What one line names is done at the same
// time, and a crash may leave any part of it:
//
//  1. register the reminder, if the new state needs one and the old did not, or
//     if it rests; at the first event, make the image lead to this notification
//  2. save the state, with the outcomes in it marked as unpublished
//  3. publish, and store the document
//  4. save the state, with what 3 did marked as done, if anything may follow
//  5. unregister the reminder, if nothing is left to do
//
// A crash after 1 leaves a reminder that finds nothing, or another one in the state,
// and removes itself (package reminder), and an image that leads to nothing until
// another region reports. A crash after 2 or 3 leaves work that the reminder finds
// and repeats; events keep their id, so consumers can drop the second one. A crash
// after 4 leaves a reminder that finds nothing left to do.
//
// Nothing follows when all regions are in and all of 3 is done. Then 5 says what
// 4 would: a notification without a reminder has nothing left to do, whatever
// its state says. If 5 is lost, the reminder does 3 once more, and 4.
//
// The reminder of a notification that is still open at its first firing rests
// until the deadline. An outcome before that wakes it first (1).
//
// Package conformance plays all of that through.
//
// Only the reminder of 1 and the save of 2 can fail a webhook: an image that
// could not be indexed is left for the reminder. After 2 the event is safe: the
// caller gets its 2xx, and 3, 4 and 5 happen after that.
package notification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"allregions/app/reminder"
	"allregions/app/replication"
)

// ActorType is the Dapr actor type; the actor's id is the notification's id.
const ActorType = "Notification"

// The methods of the actor.
const (
	methodAdd      = "Add"
	methodStatus   = "Status"
	methodOriginal = "Original"
)

// How long what is beside the save may take: longer, and it is left for the
// reminder. While a turn finishes, the next one of the actor waits, and an event that
// waits for longer than Intake does is queued. It leaves a broker the second or two
// that its first connection takes.
const (
	finishTimeout = actorPatience - 500*time.Millisecond // of what comes after the save
	indexTimeout  = time.Second                          // of the index, which comes before it
)

// Store keeps the state of actors. A nil error of Save means that the state
// survives a kill -9 of every process, and that nobody has saved another one
// since this turn's Load; Load then returns it. Load of an id that was never
// saved returns no data and no error.
type Store interface {
	Load(ctx context.Context, id string) ([]byte, error)
	Save(ctx context.Context, id string, state []byte) error
}

// Reminders wakes actors. A nil error of Register means that the reminder
// survives a kill -9 of every process, and that it fires at due and every
// period from then on, late rather than never, until Unregister. Registering
// a name again replaces what has it. Unregister of a reminder that is not there is
// no error. After an error both may be done all the same, now or much later.
type Reminders interface {
	Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error
	Unregister(ctx context.Context, id, name string) error
}

// Topic takes CloudEvents. A nil error of Publish means that the broker has the
// event; an error does not mean that it has not.
type Topic interface {
	Publish(ctx context.Context, eventID string, event []byte) error
}

// Documents keeps one readable document per notification, and the index that
// leads from an image to it. A nil error of Put means that doc is what a reader
// finds under key, and one of Create that it is, or, if it returned false, that
// there was something before. A nil error of Update means that change has seen what is
// stored under key (nothing, if there is none), and that what it returned is
// stored, or, if it returned false, what it has seen. Change may be called more
// than once.
type Documents interface {
	Put(ctx context.Context, key string, doc []byte) error
	Create(ctx context.Context, key string, doc []byte) (created bool, err error)
	Update(ctx context.Context, key string, change func(old []byte) (doc []byte, ok bool, err error)) error
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

// The work that a reminder repeats.
const (
	WorkPublish  = "publish"
	WorkDocument = "document" // of an outcome; the first event's is written again in any case
	WorkIndex    = "index"
)

// How long ACR may take to say what it has fired, before a deadline is decided
// without it: in the reminder's turn, which nobody waits for, and in another's.
const (
	askReminded  = 8 * time.Second
	askOtherwise = time.Second

	// So long after a deadline, a status that is read leaves it to the reminder.
	reminderGrace = 10 * time.Second
)

// Actor is the server side: its methods are turns of the actor with the given
// id. Turns of one id must not overlap.
type Actor struct {
	Store     Store
	Reminders Reminders
	Topic     Topic
	Documents Documents

	// EventLog, if set, is asked about the missing regions before a
	// notification times out.
	EventLog EventLog

	// Timeout is how long a new notification waits for its regions.
	Timeout time.Duration

	// Together does what one line of the package comment names. Nil does it at the
	// same time; tests do it in an order that they know.
	Together func(do ...func())

	// After does what follows the save when the turn's caller has its answer, and
	// before the actor's next turn. Nil does it at once.
	After func(ctx context.Context, do func(context.Context))

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
func (a *Actor) Methods() map[string]func(ctx context.Context, id string, body []byte) ([]byte, error) {
	return map[string]func(ctx context.Context, id string, body []byte) ([]byte, error){
		methodAdd: a.add, methodStatus: a.status, methodOriginal: a.original,
	}
}

func (a *Actor) add(ctx context.Context, id string, body []byte) ([]byte, error) {
	var m addMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("add to %s: decode event: %w", id, err)
	}
	if m.Event.ID != id {
		return nil, fmt.Errorf("add to %s: the event is of %q", id, m.Event.ID)
	}
	plan := replication.Plan{Expected: m.Expected, Timeout: a.Timeout}
	s, d, err := a.step(ctx, id, m.Event.Region, "", func(s replication.State, now time.Time) (replication.State, replication.Decision) {
		return replication.Add(s, m.Event.event(), plan, now)
	})
	if err != nil {
		return nil, fmt.Errorf("add to %s: %w", id, err)
	}
	return answer(s, d, plan)
}

func (a *Actor) status(ctx context.Context, id string, _ []byte) ([]byte, error) {
	s, d, err := a.step(ctx, id, "", "", replication.Tick)
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", id, err)
	}
	return answer(s, d, replication.Plan{})
}

// original answers the body of the webhook that began the notification. It
// decides nothing.
func (a *Actor) original(ctx context.Context, id string, _ []byte) ([]byte, error) {
	s, err := a.load(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("original of %s: %w", id, err)
	}
	return json.Marshal(reply{Original: s.First.Original})
}

// Remind is the turn of the reminder with that name: it decides a passed deadline,
// and repeats what an earlier turn could not finish. Firings that were missed may
// all come at once; a second one finds nothing to do. A reminder that the
// notification does not rely on only goes, in time. An error makes Dapr try again.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	if _, _, err := a.step(ctx, id, "", name, replication.Tick); err != nil {
		return fmt.Errorf("reminder of %s: %w", id, err)
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

type decide func(replication.State, time.Time) (replication.State, replication.Decision)

// step is one turn, of a reminder if its name is given. Its nil error means that
// the decision is saved.
func (a *Actor) step(ctx context.Context, id string, region replication.Region, name string, decide decide) (replication.State, replication.Decision, error) {
	ctx, span := a.traceTurn(ctx, id, region, name != "")
	s, d, err := a.turn(ctx, id, region, name, decide)
	endTurn(span, d, err)
	return s, d, err
}

// turn does the work of step. The writes are numbered as in the package comment.
func (a *Actor) turn(ctx context.Context, id string, region replication.Region, name string, decide decide) (replication.State, replication.Decision, error) {
	fail := func(err error) (replication.State, replication.Decision, error) {
		return replication.State{}, replication.Decision{}, err
	}
	before, err := a.load(ctx, id)
	if err != nil {
		return fail(err)
	}
	now, reminded := a.Now(), name != ""
	if reminded && name != before.ReminderName {
		return before, replication.Decision{}, a.dismiss(ctx, id, name, now)
	}
	found := before
	if a.EventLog != nil && before.Exists() && before.Status() == replication.Collecting && !now.Before(before.Deadline) {
		if region == "" && !reminded && now.Before(before.Deadline.Add(reminderGrace)) {
			now = before.Deadline.Add(-1) // as the caller would have seen it a moment ago
		} else {
			found = a.ask(ctx, before, now, reminded)
		}
	}
	s, d := decide(found, now)
	// What was found belongs to this decision.
	d.Changed = d.Changed || len(found.Arrivals) > len(before.Arrivals)
	d.New = slices.Concat(found.Outcomes[len(before.Outcomes):], d.New)
	if len(d.New) > 0 {
		s = s.Traced(before, traceOf(ctx))
	}
	hasReminder := before.NeedsReminder() || reminded

	if d.Changed {
		var register, index func() error // 1
		if s.NeedsReminder() && (!before.NeedsReminder() || len(d.New) > 0 && before.Resting(now)) {
			if !before.NeedsReminder() {
				s.ReminderName = reminder.Name(now)
			}
			register = func() error {
				return a.Reminders.Register(ctx, id, s.ReminderName, s.Reminder(now), replication.Period)
			}
			hasReminder = true
		}
		if !before.Exists() {
			index = func() error { return a.index(ctx, s) }
		}
		errs := a.together(register, index)
		if errs[0] != nil {
			return fail(fmt.Errorf("register reminder: %w", errs[0]))
		}
		if errs[1] != nil {
			a.leave(ctx, id, errs[1])
		}
		s.Indexed = s.Indexed || index != nil && errs[1] == nil
		if err := a.save(ctx, id, s); err != nil { // 2
			return fail(err)
		}
		if a.Observer != nil {
			a.Observer.Saved(before, s)
		}
	}
	a.log(ctx, id, region, reminded, d)
	if len(d.New) > 0 && a.Concluded != nil {
		a.Concluded(id)
	}

	// The event is safe. From here on nothing is an error of the turn.

	// What an earlier turn left over waits for the reminder, so that a broker
	// that is down costs each webhook nothing.
	unfinished := d.Changed && !before.Exists() || len(d.New) > 0 || reminded
	unneeded := func(s replication.State) bool { return hasReminder && !s.NeedsReminder() }
	follow := func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, finishTimeout)
		defer cancel()
		s := s
		if unfinished {
			if err := a.finish(ctx, before, &s, reminded); err != nil {
				a.leave(ctx, id, err)
			}
		}
		if unneeded(s) {
			if err := a.Reminders.Unregister(ctx, id, s.ReminderName); err != nil { // 5
				a.Log.LogAttrs(ctx, slog.LevelWarn, "the reminder will fire once more", slog.String("notification", id), slog.Any("err", err))
			}
		}
		if until, ok := s.Rest(now); ok && reminded {
			if err := a.Reminders.Register(ctx, id, name, until, replication.Period); err != nil {
				a.Log.LogAttrs(ctx, slog.LevelWarn, "the reminder goes on firing", slog.String("notification", id), slog.Any("err", err))
			}
		}
	}
	switch {
	case !unfinished && !unneeded(s):
	case reminded || a.After == nil: // Dapr counts on a firing being over
		follow(ctx)
	default:
		a.After(ctx, follow)
	}
	return s, d, nil
}

// dismiss removes a reminder that the state does not rely on, once it never will.
func (a *Actor) dismiss(ctx context.Context, id, name string, now time.Time) error {
	if !reminder.Orphaned(name, now) {
		return nil
	}
	if err := a.Reminders.Unregister(ctx, id, name); err != nil {
		return fmt.Errorf("unregister %s: %w", name, err)
	}
	return nil
}

// together does those that are not nil, by Together, and returns the errors of all.
func (a *Actor) together(do ...func() error) []error {
	errs := make([]error, len(do))
	var some []func()
	for i, f := range do {
		if f != nil {
			some = append(some, func() { errs[i] = f() })
		}
	}
	switch {
	case len(some) == 1:
		some[0]()
	case a.Together != nil:
		a.Together(some...)
	default:
		atTheSameTime(some...)
	}
	return errs
}

// atTheSameTime ends when all have. A panic of one of them is the caller's.
func atTheSameTime(do ...func()) {
	panics := make([]any, len(do))
	var wg sync.WaitGroup
	for i, f := range do {
		wg.Go(func() {
			defer func() { panics[i] = recover() }()
			f()
		})
	}
	wg.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
}

// ask adds to s what ACR has fired for it and we have not got. Trouble with ACR
// only costs time.
func (a *Actor) ask(ctx context.Context, s replication.State, now time.Time, reminded bool) replication.State {
	limit := askOtherwise
	if reminded {
		limit = askReminded
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	id := s.First.ID
	fired, err := a.EventLog.Fired(ctx, id, s.Missing())
	if err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, "ACR's event log was not read", slog.String("notification", id), slog.Any("err", err))
	}
	// In time order: an event from after the deadline decides it, and those from before
	// must be in by then.
	fired = slices.SortedStableFunc(slices.Values(fired), func(a, b replication.Event) int { return a.ReceivedAt.Compare(b.ReceivedAt) })
	for _, e := range fired {
		if e.ID != id {
			continue
		}
		var d replication.Decision
		s, d = replication.Add(s, e, replication.Plan{Expected: s.Expected}, now)
		a.log(ctx, id, e.Region, reminded, d)
	}
	return s
}

func (a *Actor) leave(ctx context.Context, id string, err error) {
	a.Log.LogAttrs(ctx, slog.LevelWarn, "left for the reminder", slog.String("notification", id), slog.Any("err", err))
}

// finish publishes what is unpublished and stores the document (3), and saves
// what of it worked (4). The document of an open notification is no reason to
// save: the first firing of the reminder may write it again, and there is no
// other before the deadline. Found is the state that the turn has loaded.
func (a *Actor) finish(ctx context.Context, found replication.State, s *replication.State, reminded bool) error {
	before, saveIt := *s, false
	repeated := func(work string, left bool) {
		if a.Observer != nil && reminded && left {
			a.Observer.Repeated(work)
		}
	}
	var published []replication.Outcome
	var publish, document, index func() error
	if unpublished := before.Unpublished(); len(unpublished) > 0 {
		publish = func() error {
			for _, o := range unpublished {
				if err := a.publish(ctx, before, o); err != nil {
					return err // outcomes stay in order
				}
				published = append(published, o)
			}
			return nil
		}
	}
	if before.Undocumented() {
		document = func() error { return a.putDocument(ctx, before) }
	}
	if reminded && before.Exists() && !before.Indexed {
		index = func() error { return a.index(ctx, before) }
	}
	errs := a.together(publish, document, index)
	for i, o := range published {
		repeated(WorkPublish, i < len(found.Unpublished()))
		*s = s.Published(o)
		saveIt = true
	}
	if document != nil && errs[1] == nil {
		*s = s.DocumentStored()
		saveIt = saveIt || reminded && s.Status() != replication.Collecting
		repeated(WorkDocument, len(found.Outcomes) > 0 && found.Undocumented())
	}
	if index != nil && errs[2] == nil {
		s.Indexed = true
		saveIt = true
		repeated(WorkIndex, true)
	}
	if s.Final() && !s.NeedsReminder() && !reminded {
		saveIt = false // the reminder goes, and no outcome follows: nobody will look
	}
	if saveIt {
		if err := a.save(ctx, s.First.ID, *s); err != nil {
			*s = before
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *Actor) load(ctx context.Context, id string) (replication.State, error) {
	data, err := a.Store.Load(ctx, id)
	if err != nil {
		return replication.State{}, fmt.Errorf("load: %w", err)
	}
	return decodeState(data)
}

func (a *Actor) save(ctx context.Context, id string, s replication.State) error {
	data, err := encodeState(s)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := a.Store.Save(ctx, id, data); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
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

func (a *Actor) putDocument(ctx context.Context, s replication.State) error {
	doc, err := json.Marshal(documentOf(s))
	if err != nil {
		return fmt.Errorf("encode document: %w", err)
	}
	if err := a.Documents.Put(ctx, s.First.ID, doc); err != nil {
		return fmt.Errorf("store document: %w", err)
	}
	return nil
}

// log writes the decision. What decides nothing is not worth a line above
// debug: a reminder that finds the deadline ahead, a status that is read.
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
