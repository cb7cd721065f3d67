package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"allregions/app/actor"
)

// Listed is a notification in the list. Its JSON form is stored, and sent to Recent.
type Listed struct {
	ID     string          `json:"id"`
	Saves  int             `json:"saves"`        // of its record, so far: of two entries the one with more counts
	Due    time.Time       `json:"due,omitzero"` // when it is decided at the latest; zero once it is
	Status json.RawMessage `json:"status"`       // its JSON status, without the size

	StartedAt time.Time `json:"-"` // says in which window it is
}

// open tells whether the notification waits for its regions.
func (l Listed) open() bool { return !l.Due.IsZero() }

// windowLength is the time whose notifications one actor lists.
const windowLength = 10 * time.Minute

// windowID is the actor that lists what began at t, such as 2026-11-24T15:10Z.
func windowID(t time.Time) string { return windowStart(t).Format("2006-01-02T15:04Z") }

func windowStart(t time.Time) time.Time { return t.UTC().Truncate(windowLength) }

const (
	maxListed = 2000    // entries of a window
	maxBytes  = 1 << 20 // of these entries, as JSON
	maxLooked = 100     // records that a firing looks at

	// Period is the time between two firings of a window's reminder. Those of
	// notifications have the same.
	Period = 30 * time.Second

	// patience is how long a notification may be due before its reminder counts as lost.
	patience = 2 * Period
)

// window is what a Recent keeps.
type window struct {
	Format   int       `json:"format"`
	Reminder string    `json:"reminder"`          // the name of the last one
	Fires    time.Time `json:"fires,omitzero"`    // when it fires for the first time; zero if there is none
	Watched  []string  `json:"watched,omitempty"` // notifications whose reminder was registered again; the first is looked at next
	Entries  []entry   `json:"entries"`           // in the order in which they came

	more actor.Fields // of a newer version
}

// format is the number of the format of windows that this version writes.
const format = 1

// entry is a Listed, and all that is stored of it.
type entry struct {
	Listed
	data []byte
}

func newEntry(l Listed) (e entry, err error) {
	e.Listed = l
	e.data, err = json.Marshal(l)
	return e, err
}

func (e *entry) UnmarshalJSON(data []byte) error {
	e.data = slices.Clone(data)
	return json.Unmarshal(data, &e.Listed)
}

func (e entry) MarshalJSON() ([]byte, error) { return e.data, nil }

// over is e in place of an older entry, with what a newer version has added to that. A
// field of a status that is there once stays.
func (e entry) over(old entry) entry {
	have, err1 := actor.ParseFields(e.data)
	was, err2 := actor.ParseFields(old.data)
	status, err3 := actor.ParseFields(have["status"])
	statusWas, err4 := actor.ParseFields(was["status"])
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || status == nil {
		return e
	}
	have.Inherit(actor.Unknown[Listed](was))
	status.Inherit(statusWas)
	if data, err := json.Marshal(status); err == nil {
		e.Status, have["status"] = data, data
	}
	if data, err := json.Marshal(have); err == nil {
		e.data = data
	}
	return e
}

func decodeWindow(data []byte) (w window, err error) {
	fields, err := actor.ParseFields(data)
	if err != nil || fields == nil {
		return window{}, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return window{}, fmt.Errorf("decode window: %w", err)
	}
	w.more = actor.Unknown[window](fields)
	return w, nil
}

func (w window) encode() ([]byte, error) {
	w.Format = format
	data, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode window: %w", err)
	}
	return w.more.AddTo(data)
}

// add puts in what is news, and tells whether there was any. What then does not fit is
// left out: the oldest of what is concluded, and if that is not enough, the oldest.
func (w *window) add(entries []entry) (changed bool, leftOut Dropped) {
	at := make(map[string]int, len(w.Entries))
	for i, e := range w.Entries {
		at[e.ID] = i
	}
	for _, e := range entries {
		i, ok := at[e.ID]
		if ok && e.Saves <= w.Entries[i].Saves {
			continue
		}
		if changed = true; ok {
			w.Entries[i] = e.over(w.Entries[i])
		} else {
			at[e.ID] = len(w.Entries)
			w.Entries = append(w.Entries, e)
		}
	}
	return changed, Dropped{Concluded: w.shrink(false), Open: w.shrink(true)}
}

// shrink leaves out entries that are open or not, until the window has its size.
func (w *window) shrink(open bool) (leftOut int) {
	n, size := len(w.Entries), 0
	for _, e := range w.Entries {
		size += len(e.data)
	}
	w.Entries = slices.DeleteFunc(w.Entries, func(e entry) bool {
		if n <= maxListed && size <= maxBytes || e.open() != open {
			return false
		}
		n, size, leftOut = n-1, size-len(e.data), leftOut+1
		return true
	})
	return leftOut
}

// overdue is when the first entry counts as overdue; zero if none ever will.
func (w *window) overdue() (first time.Time) {
	for _, e := range w.Entries {
		if at := e.Due.Add(patience); e.open() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// toLook are the notifications whose reminder may be lost, at most as many as a firing
// looks at.
func (w *window) toLook(now time.Time) (ids []string) {
	for _, e := range w.Entries {
		if e.open() && !now.Before(e.Due.Add(patience)) && !slices.Contains(w.Watched, e.ID) {
			ids = append(ids, e.ID)
		}
	}
	ids = append(ids, w.Watched...)
	return ids[:min(len(ids), maxLooked)]
}

// look is what a look at a record has found; see Notifications.
type look struct {
	id   string
	now  Listed
	left bool
	err  error
}

// seen takes in what looks have found. What is not finished is looked at again, after
// the others.
func (w *window) seen(looks []look) {
	for _, l := range looks {
		w.Watched = slices.DeleteFunc(w.Watched, func(id string) bool { return id == l.id })
		if l.left || l.err != nil {
			w.Watched = append(w.Watched, l.id)
		}
		if l.err != nil {
			continue
		}
		if l.now.ID == "" { // no record any more
			w.Entries = slices.DeleteFunc(w.Entries, func(e entry) bool { return e.ID == l.id })
			continue
		}
		if e, err := newEntry(l.now); err == nil {
			w.add([]entry{e})
		}
	}
}

// quiet tells whether there is nothing that could become overdue.
func (w *window) quiet() bool { return len(w.Watched) == 0 && w.overdue().IsZero() }
