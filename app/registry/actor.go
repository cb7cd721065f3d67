package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"allregions/app/actor"
)

// ActorType is the Dapr actor type.
const ActorType = "Registry"

// actorID is the id of the actor of the registry with that name, and the key of its record:
// Azure does not tell upper case from lower case.
func actorID(name string) string { return strings.ToLower(name) }

const (
	methodTake    = "Take"
	methodReturn  = "Return"
	methodRecheck = "Recheck"
)

// request is what a process says when it calls the actor.
type request struct {
	Holder string `json:"holder"`
	Duties Duties `json:"duties"`
	Result result `json:"result,omitzero"` // with methodReturn
}

// reply is what the actor answers.
type reply struct {
	Decision decision        `json:"decision"`
	Due      []task          `json:"due,omitempty"` // what the caller is to do, if it has the lease
	Record   json.RawMessage `json:"record"`
}

// Actor is the server side. It gives out the work on a registry: to one process at a time,
// as a lease. Its turns call nobody but the store and the scheduler.
type Actor struct {
	Records   actor.Records
	Reminders actor.Reminders

	// Wake is called when nobody has the lease: this process is to ask for work. It must
	// not block.
	Wake func(id string)

	Now func() time.Time
	Log *slog.Logger
}

// Methods are the turns that a Worker asks for, by name.
func (a *Actor) Methods() map[string]actor.Method {
	methods := map[string]actor.Method{}
	for name, decide := range map[string]decider{methodTake: take, methodReturn: giveBack, methodRecheck: recheck} {
		methods[name] = func(ctx context.Context, id string, body []byte) (actor.Turn, error) {
			answer, err := a.turn(ctx, id, name, body, decide)
			if err != nil {
				return actor.Turn{}, fmt.Errorf("%s of registry %s: %w", name, id, err)
			}
			data, err := json.Marshal(answer)
			return actor.Turn{Reply: data}, err
		}
	}
	return methods
}

// decider decides about a request. Changes are for the log.
type decider func(r record, m request, now time.Time) (_ record, d decision, changes []string)

// take gives the caller the lease, if it can have it.
func take(r record, m request, now time.Time) (record, decision, []string) {
	var d decision
	r.Lease, d = r.Lease.take(m.Holder, len(plan(r, m.Duties, now)) > 0, now)
	return r, d, nil
}

// giveBack takes a result. The caller keeps the lease while there is more to do.
func giveBack(r record, m request, now time.Time) (record, decision, []string) {
	if r.Lease.Holder != m.Holder {
		return r, lost, nil
	}
	r, changes := r.apply(m.Result, now)
	r, d, _ := take(r, m, now)
	if d == idle {
		d = done
	}
	return r, d, changes
}

// recheck has the replicas read soon. The caller may have the lease for it.
func recheck(r record, m request, now time.Time) (record, decision, []string) {
	return take(r.ask(now), m, now)
}

func (a *Actor) turn(ctx context.Context, id, method string, body []byte, decide decider) (answer reply, err error) {
	var m request
	if err = json.Unmarshal(body, &m); err == nil && m.Holder == "" {
		err = errors.New("no holder")
	}
	if err != nil {
		return answer, fmt.Errorf("decode: %w", err)
	}
	before, err := a.load(ctx, id)
	if err != nil {
		return answer, err
	}
	now := a.Now().UTC()
	r, d, changes := decide(before.record, m, now)
	if before.Reminder == "" || stalled(before.record, m.Duties, now) { // it must be lost
		r.Reminder = actor.ReminderName(now, before.Reminder)
		if err := a.Reminders.Register(ctx, id, r.Reminder, now.Add(Period), Period); err != nil {
			return answer, fmt.Errorf("register reminder: %w", err)
		}
	}
	if answer.Decision = d; d.granted() {
		answer.Due = plan(r, m.Duties, now)
	}
	answer.Record, err = a.save(ctx, id, before, r)
	if err == nil {
		a.logTurn(ctx, method, id, m, answer, changes, r)
	}
	return answer, err
}

// loaded is a record and what is needed to replace it.
type loaded struct {
	record
	data    []byte
	version string
}

func (a *Actor) load(ctx context.Context, id string) (l loaded, err error) {
	if l.data, l.version, err = a.Records.Load(ctx, id); err != nil {
		return l, fmt.Errorf("load: %w", err)
	}
	l.record, err = decodeRecord(l.data)
	return l, err
}

// save replaces a record by r, if that is another one, and returns what is then stored.
func (a *Actor) save(ctx context.Context, id string, before loaded, r record) ([]byte, error) {
	was, err := before.replace(before.data)
	if err != nil {
		return nil, err
	}
	data, err := r.replace(before.data)
	if err != nil || bytes.Equal(was, data) {
		return data, err
	}
	if err := a.Records.Save(ctx, id, data, before.version); err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	return data, nil
}

// Remind is the turn of the reminder with that name: it wakes this process, unless another
// one is at work. A reminder that the record does not name removes itself, in time.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	r, err := a.load(ctx, id)
	now := a.Now()
	switch {
	case err != nil:
	case r.Reminder == name:
		if !now.Before(r.Lease.Until) {
			a.Wake(id)
		}
	case actor.Orphaned(name, now):
		if err = a.Reminders.Unregister(ctx, id, name); err != nil {
			err = fmt.Errorf("unregister %s: %w", name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("reminder of registry %s: %w", id, err)
	}
	return nil
}

// logTurn logs a decision. Those that come at every interval are for debugging.
func (a *Actor) logTurn(ctx context.Context, method, id string, m request, answer reply, changes []string, r record) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("registry", id), slog.String("turn", method), slog.String("holder", m.Holder),
		slog.String("decision", string(answer.Decision)), slog.String("due", fmt.Sprint(answer.Due)), slog.String("work", string(m.Result.Work))}
	if len(changes) > 0 {
		attrs = append(attrs, slog.Any("changes", changes), slog.Any("regions", r.Replicas.expected()))
	}
	switch {
	case m.Result.Error != "":
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("err", m.Result.Error))
	case len(changes) > 0, answer.Decision == takenOver, answer.Decision == lost,
		slices.ContainsFunc(answer.Due, func(t task) bool { return t.Why != interval }):
		level = slog.LevelInfo
	}
	a.Log.LogAttrs(ctx, level, "registry", attrs...)
}
