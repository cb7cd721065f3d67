// Package fake is everything outside an actor, in memory: state, reminders, topic
// and documents, and a clock. Its writes are counted, and each can fail in each
// of the ways in which a write over a network can.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Failure is what becomes of a write.
type Failure int

// The failures.
const (
	None     Failure = iota
	Lost             // it did not happen
	Reported         // it happened, but the caller is told that it did not
	Crashed          // it happened, and the process died before it could go on

	// It happens World.Delay after the caller is told that it did not. A late save
	// is refused if there was another one meanwhile, as stores do that compare.
	// What is not about state or reminders is not late, but reported lost.
	Late
)

func (f Failure) String() string {
	return [...]string{"fine", "lost", "reported lost", "crashed after", "late"}[f]
}

// Err is the error of a write that failed.
var Err = errors.New("fake failure")

type crash struct{}

// InOrder is a notification.Actor's Together that can be told what it does.
func InOrder(do ...func()) {
	for _, f := range do {
		f()
	}
}

// Shuffled is InOrder, in an order that rng gives.
func Shuffled(rng *rand.Rand) func(do ...func()) {
	return func(do ...func()) {
		for _, i := range rng.Perm(len(do)) {
			do[i]()
		}
	}
}

// World is everything outside an actor. It is for one goroutine.
type World struct {
	Now       time.Time
	States    map[string][]byte
	Reminders map[Reminder]time.Time // next firing
	Period    time.Duration          // of each of them
	Topic     []string               // event ids, as published
	Events    map[string][]byte      // by event id
	Documents map[string][]byte

	Writes []string // what was written, in order

	// Fail, if set, decides about the nth write, from 0.
	Fail func(n int, what string) Failure

	Delay time.Duration // of what is late
	late  []write       // still to happen
}

// Reminder is which one.
type Reminder struct{ ID, Name string }

// write is one that happens later.
type write struct {
	at time.Time
	do func() error
}

// New returns an empty world.
func New(now time.Time) *World {
	return &World{Now: now, States: map[string][]byte{}, Reminders: map[Reminder]time.Time{},
		Events: map[string][]byte{}, Documents: map[string][]byte{}}
}

// At makes the nth write fail.
func At(n int, how Failure) func(int, string) Failure {
	return func(i int, _ string) Failure {
		if i == n {
			return how
		}
		return None
	}
}

// Orphan, as World.Fail, leaves the reminder of the first write behind, and removes
// it late.
func Orphan(n int, what string) Failure {
	switch {
	case n == 0:
		return Reported
	case what == "unregister":
		return Late
	}
	return None
}

// Write does a write, unless it is to be lost. A process that it crashes
// panics; see Survive.
func (w *World) Write(what string, do func() error) error { return w.write(what, false, do) }

func (w *World) write(what string, canBeLate bool, do func() error) error {
	how := None
	if w.Fail != nil {
		how = w.Fail(len(w.Writes), what)
	}
	w.Writes = append(w.Writes, what)
	if how == Lost {
		return Err
	}
	if how == Late && canBeLate {
		w.late = append(w.late, write{w.Now.Add(w.Delay), do})
		return Err
	}
	err := do()
	switch {
	case how == Crashed:
		panic(crash{})
	case how == Reported || how == Late:
		return Err
	}
	return err
}

// Survive, deferred, ends a process that crashed, and no other panic.
func Survive() {
	if p := recover(); p != nil && p != any(crash{}) {
		panic(p)
	}
}

func (w *World) do(what string, do func()) error {
	return w.write(what, false, func() error { do(); return nil })
}

// doLate is do for a write that may be late.
func (w *World) doLate(what string, do func()) error {
	return w.write(what, true, func() error { do(); return nil })
}

// Load returns what Save has saved.
func (w *World) Load(_ context.Context, id string) ([]byte, error) {
	return slices.Clone(w.States[id]), nil
}

// Save is the write "save".
func (w *World) Save(_ context.Context, id string, state []byte) error {
	seen := w.States[id]
	return w.doLate("save", func() {
		if bytes.Equal(w.States[id], seen) {
			w.States[id] = state
		}
	})
}

// Register is the write "register".
func (w *World) Register(_ context.Context, id, name string, due time.Time, period time.Duration) error {
	return w.doLate("register", func() { w.Reminders[Reminder{id, name}], w.Period = due, period })
}

// Unregister is the write "unregister".
func (w *World) Unregister(_ context.Context, id, name string) error {
	return w.doLate("unregister", func() { delete(w.Reminders, Reminder{id, name}) })
}

// Publish is the write "publish" and the event's id. One id with two contents is
// a bug of the caller that no test may survive.
func (w *World) Publish(_ context.Context, eventID string, event []byte) error {
	return w.do("publish "+eventID, func() {
		w.Topic = append(w.Topic, eventID)
		if old := w.Events[eventID]; old != nil && !bytes.Equal(old, event) {
			panic(fmt.Sprintf("%s was published with two contents:\n%s\n%s", eventID, old, event))
		}
		w.Events[eventID] = event
	})
}

// Put is the write "document".
func (w *World) Put(_ context.Context, key string, doc []byte) error {
	return w.do("document", func() { w.Documents[key] = doc })
}

// Create is the write "index", unless there is something.
func (w *World) Create(_ context.Context, key string, doc []byte) (created bool, err error) {
	if w.Documents[key] != nil {
		return false, nil
	}
	return true, w.do("index", func() { w.Documents[key] = doc })
}

// Update is the write "index", unless there is nothing to change.
func (w *World) Update(_ context.Context, key string, change func([]byte) ([]byte, bool, error)) error {
	doc, ok, err := change(w.Documents[key])
	if err != nil || !ok {
		return err
	}
	return w.do("index", func() { w.Documents[key] = doc })
}

// Get returns what Put and Update have stored.
func (w *World) Get(_ context.Context, key string) ([]byte, error) { return w.Documents[key], nil }

// Pass lets time go by, and calls remind for each firing of the reminders of id on
// the way, with the reminder's name. A process that crashes in it does not end the
// others.
func (w *World) Pass(d time.Duration, id string, remind func(name string) error) (errs []error) {
	end := w.Now.Add(d)
	for {
		r, due := w.next(id)
		if i := slices.IndexFunc(w.late, func(l write) bool { return !l.at.After(end) && (r.ID == "" || !l.at.After(due)) }); i >= 0 {
			late := w.late[i]
			w.late = slices.Delete(w.late, i, i+1)
			w.advance(late.at)
			late.do()
			continue
		}
		if r.ID == "" || due.After(end) {
			break
		}
		w.advance(due)
		w.Reminders[r] = due.Add(w.Period)
		func() {
			defer Survive()
			if err := remind(r.Name); err != nil && !errors.Is(err, Err) {
				errs = append(errs, err)
			}
		}()
	}
	w.Now = end
	return errs
}

// next is the first reminder of id to fire; the zero Reminder is none.
func (w *World) next(id string) (first Reminder, due time.Time) {
	for r, at := range w.Reminders {
		if r.ID == id && (first.ID == "" || at.Before(due) || at.Equal(due) && r.Name < first.Name) {
			first, due = r, at
		}
	}
	return first, due
}

func (w *World) advance(to time.Time) {
	if to.After(w.Now) {
		w.Now = to
	}
}
