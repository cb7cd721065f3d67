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

// Methods are the turns that Worker and View ask for, by name.
func (a *Actor) Methods() map[string]actor.Method {
	return map[string]actor.Method{methodTake: a.turn(methodTake, a.take), methodReturn: a.turn(methodReturn, a.giveBack),
		methodRecheck: a.turn(methodRecheck, a.recheck)}
}

// take gives the caller the lease, if it can have it.
func (a *Actor) take(r record, m request, now time.Time) (record, decision, []string) {
	var d decision
	r.Lease, d = r.Lease.take(m.Holder, len(plan(r, m.Duties, now)) > 0, now)
	return r, d, nil
}

// giveBack takes a result. The caller keeps the lease while there is more to do.
func (a *Actor) giveBack(r record, m request, now time.Time) (record, decision, []string) {
	if r.Lease.Holder != m.Holder {
		return r, lost, nil
	}
	r, changes := r.apply(m.Result, now)
	var d decision
	if r.Lease, d = r.Lease.take(m.Holder, len(plan(r, m.Duties, now)) > 0, now); d == idle {
		d = done
	}
	return r, d, changes
}

// recheck has the replicas read soon. The caller may have the lease for it.
func (a *Actor) recheck(r record, m request, now time.Time) (record, decision, []string) {
	return a.take(r.ask(now), m, now)
}

// turn is that of a method which decide decides.
func (a *Actor) turn(method string, decide func(record, request, time.Time) (record, decision, []string)) actor.Method {
	return func(ctx context.Context, id string, body []byte) (actor.Turn, error) {
		var m request
		err := json.Unmarshal(body, &m)
		if err == nil && m.Holder == "" {
			err = errors.New("no holder")
		}
		if err != nil {
			return actor.Turn{}, fmt.Errorf("%s of registry %s: decode: %w", method, id, err)
		}
		now := a.Now().UTC()
		before, data, version, err := a.load(ctx, id)
		if err != nil {
			return actor.Turn{}, fmt.Errorf("%s of registry %s: %w", method, id, err)
		}
		r, d, changes := decide(before, m, now)
		if data, err = a.save(ctx, id, before, r, m.Duties, data, version, now); err != nil {
			return actor.Turn{}, fmt.Errorf("%s of registry %s: %w", method, id, err)
		}
		answer := reply{Decision: d, Record: data}
		if d.granted() {
			answer.Due = plan(r, m.Duties, now)
		}
		a.logTurn(ctx, method, id, m, answer, changes, r)
		body, err = json.Marshal(answer)
		return actor.Turn{Reply: body}, err
	}
}

func (a *Actor) load(ctx context.Context, id string) (r record, data []byte, version string, err error) {
	if data, version, err = a.Records.Load(ctx, id); err != nil {
		return r, nil, "", fmt.Errorf("load: %w", err)
	}
	r, err = decodeRecord(data)
	return r, data, version, err
}

// save replaces the record before by r, if that is another one, and returns what is then
// stored. It registers the reminder that the record is to name, if it names none, or one
// that must be lost.
func (a *Actor) save(ctx context.Context, id string, before, r record, d Duties, old []byte, version string, now time.Time) ([]byte, error) {
	if before.Reminder == "" || stalled(before, d, now) {
		r.Reminder = actor.ReminderName(now, before.Reminder)
		if err := a.Reminders.Register(ctx, id, r.Reminder, now.Add(Period), Period); err != nil {
			return nil, fmt.Errorf("register reminder: %w", err)
		}
	}
	data, err := r.replace(old)
	if err != nil {
		return nil, err
	}
	if was, err := before.replace(old); err == nil && bytes.Equal(was, data) {
		return data, nil
	}
	if err := a.Records.Save(ctx, id, data, version); err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	return data, nil
}

// Remind is the turn of the reminder with that name: it wakes this process, unless another
// one is at work. A reminder that the record does not name removes itself, in time.
func (a *Actor) Remind(ctx context.Context, id, name string) error {
	r, _, _, err := a.load(ctx, id)
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
