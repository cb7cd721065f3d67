package catalog

import (
	"encoding/json"
	"maps"
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

// size is how many bytes an entry takes, about.
func (l Listed) size() int { return len(l.Status) + 150 }

// windowLength is the time whose notifications one actor lists.
const windowLength = 10 * time.Minute

// windowStart is when the window of what began at t begins, and windowID its actor, such
// as 2026-11-24T15:10Z.
func windowStart(t time.Time) time.Time { return t.UTC().Truncate(windowLength) }
func windowID(t time.Time) string       { return windowStart(t).Format("2006-01-02T15:04Z") }

const (
	maxListed = 2000    // entries of a window
	maxBytes  = 1 << 20 // of these entries, about
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
	Watched  []string  `json:"watched,omitempty"` // notifications to look at once more, the first of them next
	Entries  []entry   `json:"entries"`           // in the order in which they came

	more actor.Fields
}

// format is the number of the format of windows that this version writes.
const format = 1

// entry is a Listed in its window.
type entry struct {
	Listed
	more actor.Fields
}

func (e *entry) UnmarshalJSON(data []byte) (err error) {
	e.more, err = actor.Decode(data, &e.Listed)
	return err
}

func (e entry) MarshalJSON() ([]byte, error) { return actor.Marshal(e.Listed, e.more) }

func decodeWindow(data []byte) (w window, err error) {
	if len(data) == 0 {
		return w, nil
	}
	w.more, err = actor.Decode(data, &w)
	return w, err
}

func (w window) encode() ([]byte, error) {
	w.Format = format
	return actor.Marshal(w, w.more)
}

// add puts in what is news, and tells whether there was any. What then does not fit is
// left out: the oldest of what is concluded, and if that is not enough, the oldest.
func (w *window) add(entries ...entry) (changed bool, leftOut Dropped) {
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
			more := actor.Fields{}
			maps.Copy(more, w.Entries[i].more)
			maps.Copy(more, e.more)
			w.Entries[i] = entry{e.Listed, more}
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
		size += e.size()
	}
	w.Entries = slices.DeleteFunc(w.Entries, func(e entry) bool {
		if n <= maxListed && size <= maxBytes || e.open() != open {
			return false
		}
		n, size, leftOut = n-1, size-e.size(), leftOut+1
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

// seen takes in what a look at a record has found; again says whether it is to be looked
// at once more, after the others.
func (w *window) seen(id string, found Listed, again bool) {
	w.Watched = slices.DeleteFunc(w.Watched, func(watched string) bool { return watched == id })
	if again {
		w.Watched = append(w.Watched, id)
	}
	if found.ID != "" {
		w.add(entry{Listed: found})
	} else if !again { // no record any more
		w.Entries = slices.DeleteFunc(w.Entries, func(e entry) bool { return e.ID == id })
	}
}
