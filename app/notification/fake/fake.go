// Package fake is everything outside an actor, in memory: records, reminders, topic
// and index, and a clock. Its reads and writes are counted, and each can fail
// in each of the ways in which a call over a network can. Between any two of them
// another turn may run.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"allregions/app/actor"
	"allregions/app/catalog"
)

// Failure is what becomes of a read or a write.
type Failure int

// The failures. Of a read there are only Lost and Stale, of a write all but Stale.
const (
	None     Failure = iota
	Lost             // it did not happen
	Reported         // it happened, but the caller is told that it did not
	Crashed          // it happened, and the process died before it could go on

	// It happens World.Delay after the caller is told that it did not. A late save
	// is refused if there was another one meanwhile, as stores do that compare.
	// What is not about records or reminders is not late, but reported lost.
	Late

	// It reads what was there before the last save, unless that is older than
	// MaxStale.
	Stale
)

func (f Failure) String() string {
	return [...]string{"fine", "lost", "reported lost", "crashed after", "late", "stale"}[f]
}

// MaxStale is how old a stale read can be. It is longer than any replica of a store
// lags, and shorter than an actor waits before it removes a reminder on which no
// state that it can see relies.
const MaxStale = 30 * time.Second

var (
	// Err is the error of a call that failed.
	Err = errors.New("fake failure")

	// ErrConflict is the error of a save that is refused, because what it would
	// replace is not of the version that it names. It is an Err.
	ErrConflict = fmt.Errorf("%w: %w", Err, actor.ErrConflict)
)

type crash struct{}

// World is everything outside an actor. It is for one goroutine.
type World struct {
	Now         time.Time
	Records     map[string][]byte
	Reminders   map[Reminder]time.Time // next firing
	Period      time.Duration          // of each of them
	Topic       []string               // event ids, as published
	Events      map[string][]byte      // by event id
	PublishedAt map[string]time.Time   // for the first time, by event id
	Index       map[catalog.Image]catalog.Entry
	Listed      map[string]catalog.Listed // by notification

	Calls  []string // all reads and writes, in order
	Reads  []string // what was read, in order
	Writes []string // what was written, in order

	// Fail and FailRead, if set, decide about the nth write and the nth read, from 0.
	Fail, FailRead func(n int, what string) Failure

	// Before, if set, is called before the nth call, from 0. What it calls itself
	// are calls like all others.
	Before func(n int, what string)

	Failed  int           // how many calls failed or were stale
	Refused int           // how many saves were an ErrConflict
	Delay   time.Duration // of what is late
	late    []write       // still to happen
	newest  Reminder
	firing  Reminder // whose turn it is

	versions map[string]version
}

// version is what is known of the record that is stored under a key.
type version struct {
	n      int // how often it was saved
	before []byte
	at     time.Time // of the save
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
	return &World{Now: now, Records: map[string][]byte{}, Reminders: map[Reminder]time.Time{}, Events: map[string][]byte{},
		PublishedAt: map[string]time.Time{}, Index: map[catalog.Image]catalog.Entry{},
		Listed: map[string]catalog.Listed{}, versions: map[string]version{}}
}

// At makes the nth write, or read, fail.
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
	w.call(what)
	how := None
	if w.Fail != nil {
		how = w.Fail(len(w.Writes), what)
	}
	w.Writes = append(w.Writes, what)
	if how != None {
		w.Failed++
	}
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

// Read does a read, unless it is to fail. A stale one returns what was there before.
func (w *World) Read(what string, do func(stale bool) error) error {
	w.call(what)
	how := None
	if w.FailRead != nil {
		how = w.FailRead(len(w.Reads), what)
	}
	w.Reads = append(w.Reads, what)
	if how != None {
		w.Failed++
	}
	if how == Lost {
		return Err
	}
	return do(how == Stale)
}

func (w *World) call(what string) {
	n := len(w.Calls)
	w.Calls = append(w.Calls, what)
	if w.Before != nil {
		w.Before(n, what)
	}
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

// Load is the read "load" of what was saved, and its version. A stale one returns
// what was there before.
func (w *World) Load(_ context.Context, key string) (value []byte, of string, err error) {
	err = w.Read("load", func(stale bool) error {
		v := w.versions[key]
		n := v.n
		value = w.Records[key]
		if stale && v.n > 0 && w.Now.Sub(v.at) <= MaxStale {
			value, n = v.before, v.n-1
		}
		if n > 0 {
			of = strconv.Itoa(n)
		}
		return nil
	})
	return slices.Clone(value), of, err
}

// Save is the write "save". It is refused if what is stored is not of that version.
func (w *World) Save(_ context.Context, key string, value []byte, of string) error {
	return w.write("save", true, func() error {
		v := w.versions[key]
		if have := strconv.Itoa(v.n); of != have && (of != "" || v.n > 0) {
			w.Refused++
			return ErrConflict
		}
		w.versions[key] = version{v.n + 1, w.Records[key], w.Now}
		w.Records[key] = value
		return nil
	})
}

// Register is the write "register". What is registered from inside its own firing is
// lost, as Dapr's scheduler may lose it.
func (w *World) Register(_ context.Context, id, name string, due time.Time, period time.Duration) error {
	return w.doLate("register", func() {
		r := Reminder{id, name}
		if r == w.firing {
			delete(w.Reminders, r)
			return
		}
		w.newest = r
		w.Reminders[r], w.Period = due, period
	})
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
		if _, ok := w.PublishedAt[eventID]; !ok {
			w.PublishedAt[eventID] = w.Now
		}
		if old := w.Events[eventID]; old != nil && !bytes.Equal(old, event) {
			panic(fmt.Sprintf("%s was published with two contents:\n%s\n%s", eventID, old, event))
		}
		w.Events[eventID] = event
	})
}

// Send writes nothing until somebody waits: a process that dies first has not
// written it. Then it is the write "index".
func (w *World) Send(entries []catalog.Entry, listed catalog.Listed) (settled func(context.Context) error) {
	return func(context.Context) error {
		return w.do("index", func() {
			for _, e := range entries {
				image := catalog.Image{Registry: e.Registry, Repository: e.Repository, Digest: e.Digest, Tag: e.Tag}
				if have, ok := w.Index[image]; !ok || e.Newer(have) {
					w.Index[image] = e
				}
			}
			if listed.Saves > w.Listed[listed.ID].Saves {
				w.Listed[listed.ID] = listed
			}
		})
	}
}

// Find is the read "index".
func (w *World) Find(_ context.Context, image catalog.Image) (notification string, err error) {
	if image.Tag != "" {
		image.Digest = ""
	}
	err = w.Read("index", func(bool) error { notification = w.Index[image].Notification; return nil })
	return notification, err
}

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
			defer func() { w.firing = Reminder{} }()
			w.firing = r
			if err := remind(r.Name); err != nil && !errors.Is(err, Err) {
				errs = append(errs, err)
			}
		}()
	}
	w.advance(end)
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

// Newest is the name of the reminder of id that is to fire first, or of the last that
// was registered: a firing may come when its reminder is gone.
func (w *World) Newest(id string) (name string, ok bool) {
	if r, _ := w.next(id); r.ID != "" {
		return r.Name, true
	}
	return w.newest.Name, w.newest.ID == id
}

func (w *World) advance(to time.Time) {
	if to.After(w.Now) {
		w.Now = to
	}
}

// Fire fires a reminder, and returns when everything that follows its turn is done.
func Fire(ctx context.Context, remind actor.Remind, id, name string) error {
	turn, err := remind(ctx, id, name)
	if turn.Settle != nil {
		turn.Settle(ctx)
	}
	return err
}
