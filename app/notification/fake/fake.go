// Package fake is everything outside an actor, in memory: state, reminders, topic
// and documents, and a clock. Its writes are counted, and each can fail in each
// of the ways in which a write over a network can.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
)

func (f Failure) String() string {
	return [...]string{"fine", "lost", "reported lost", "crashed after"}[f]
}

// Err is the error of a write that failed.
var Err = errors.New("fake failure")

type crash struct{}

// World is everything outside an actor.
type World struct {
	Now       time.Time
	States    map[string][]byte
	Reminders map[string]time.Time // next firing
	Period    time.Duration        // of each of them
	Topic     []string             // event ids, as published
	Events    map[string][]byte    // by event id
	Documents map[string][]byte

	Writes []string // what was written, in order

	// Fail, if set, decides about the nth write, from 0.
	Fail func(n int, what string) Failure
}

// New returns an empty world.
func New(now time.Time) *World {
	return &World{Now: now, States: map[string][]byte{}, Reminders: map[string]time.Time{},
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

// Write does a write, unless it is to be lost. A process that it crashes
// panics; see Survive.
func (w *World) Write(what string, do func() error) error {
	how := None
	if w.Fail != nil {
		how = w.Fail(len(w.Writes), what)
	}
	w.Writes = append(w.Writes, what)
	if how == Lost {
		return Err
	}
	err := do()
	switch {
	case how == Crashed:
		panic(crash{})
	case how == Reported:
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
	return w.Write(what, func() error { do(); return nil })
}

// Load returns what Save has saved.
func (w *World) Load(_ context.Context, id string) ([]byte, error) {
	return slices.Clone(w.States[id]), nil
}

// Save is the write "save".
func (w *World) Save(_ context.Context, id string, state []byte) error {
	return w.do("save", func() { w.States[id] = state })
}

// Register is the write "register".
func (w *World) Register(_ context.Context, id string, due time.Time, period time.Duration) error {
	return w.do("register", func() { w.Reminders[id], w.Period = due, period })
}

// Unregister is the write "unregister".
func (w *World) Unregister(_ context.Context, id string) error {
	return w.do("unregister", func() { delete(w.Reminders, id) })
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

// Pass lets time go by, and calls remind for each firing of the reminder of id on
// the way. A process that crashes in it does not end the others.
func (w *World) Pass(d time.Duration, id string, remind func() error) (errs []error) {
	end := w.Now.Add(d)
	for {
		due, ok := w.Reminders[id]
		if !ok || due.After(end) {
			break
		}
		if due.After(w.Now) {
			w.Now = due
		}
		w.Reminders[id] = due.Add(w.Period)
		func() {
			defer Survive()
			if err := remind(); err != nil && !errors.Is(err, Err) {
				errs = append(errs, err)
			}
		}()
	}
	w.Now = end
	return errs
}
