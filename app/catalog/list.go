package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"allregions/app/actor"
)

const (
	sendPause    = time.Second      // before a call to a window: what comes meanwhile goes together
	maxSendPause = 10 * time.Second // the same, if calls take long
	sendShare    = 20               // a pause is at least so many times as long as the call before it
	callLimit    = 15 * time.Second // for a call: a full window is a megabyte, and must get through when everything is slow, too
)

// List is the list of notifications, as one replica writes and reads it. It sends what
// is new to the windows' actors, with at most one call a second to each of them.
type List struct {
	actors   actor.Invoker
	records  actor.Reader
	log      *slog.Logger
	failures actor.Throttle

	ending  context.Context // ends when nothing is to wait any more
	end     context.CancelFunc
	running sync.WaitGroup // what Flush waits for

	mu      sync.Mutex
	pending map[string]*write[batch] // by window, present while it is sent: what goes next, or nil
	sending map[string]*write[batch] // by window: what is on its way
	saved   map[string]int           // by notification: which of its entries this replica has seen saved, by Listed.Saves

	activities activities
}

// batch is what goes to a window together.
type batch struct {
	entries map[string]Listed // by notification
	size    int               // in bytes, about
}

// NewList returns the list whose windows are these actors, with these records.
func NewList(actors actor.Invoker, records actor.Reader, log *slog.Logger) *List {
	l := &List{actors: actors, records: records, log: log, failures: actor.Throttle{Every: retryPause},
		pending: map[string]*write[batch]{}, sending: map[string]*write[batch]{}, saved: map[string]int{}}
	l.ending, l.end = context.WithCancel(context.Background())
	return l
}

// Send has the entry saved soon. It does not wait; settled does: its nil error means
// that the entry, or a newer one, survives a kill -9 of every process, or that its window
// had no room for it. What fails is tried again, even if no caller waits for it. What is
// refused, because too much waits, is not.
func (l *List) Send(e Listed) (settled func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(windowID(e.StartedAt), e).wait
}

// add makes e pending, unless it, or a newer one, is saved or on its way. The caller holds
// mu.
func (l *List) add(id string, e Listed) *write[batch] {
	if l.saved[e.ID] >= e.Saves {
		return over[batch](nil)
	}
	if w := l.sending[id]; w != nil && w.entry.entries[e.ID].Saves >= e.Saves {
		return w
	}
	w, running := l.pending[id]
	if w == nil {
		w = &write[batch]{entry: batch{entries: map[string]Listed{}}, done: make(chan struct{})}
		l.pending[id] = w
	}
	if !running {
		l.running.Go(func() { l.run(id) })
	}
	b := &w.entry
	old, ok := b.entries[e.ID]
	switch {
	case ok && e.Saves <= old.Saves:
	case !ok && (len(b.entries) >= maxListed || b.size >= maxBytes):
		return over[batch](errors.New("list: too many entries wait"))
	default:
		b.entries[e.ID] = e
		b.size += e.size()
	}
	return w
}

// run sends what is pending for a window, until nothing has come in a pause.
func (l *List) run(id string) {
	for pause := sendPause; pause > 0; pause = l.send(id) {
		select {
		case <-time.After(pause):
		case <-l.ending.Done():
		}
	}
}

// send sends what is pending for a window, and returns the pause after it; 0 if nothing
// is. What fails is pending again, unless the process is about to end.
func (l *List) send(id string) (pause time.Duration) {
	l.mu.Lock()
	w := l.pending[id]
	if l.pending[id] = nil; w == nil {
		delete(l.pending, id)
	} else {
		l.sending[id] = w
	}
	l.mu.Unlock()
	if w == nil {
		return 0
	}

	begin := time.Now()
	err := l.call(id, w.entry)

	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(w.done)
	delete(l.sending, id)
	if err == nil {
		l.note(w.entry)
	} else {
		w.err = fmt.Errorf("list %s: %w", id, err)
		if _, ok := l.failures.Allow(time.Now()); ok {
			l.log.LogAttrs(l.ending, slog.LevelWarn, "the list is written later", slog.Any("err", w.err))
		}
		if l.ending.Err() == nil {
			for _, e := range w.entry.entries {
				l.add(id, e)
			}
		}
	}
	return max(sendPause, min(maxSendPause, sendShare*time.Since(begin)))
}

// note notes that a batch is saved. The caller holds mu.
func (l *List) note(b batch) {
	if len(l.saved)+len(b.entries) > maxKnown { // to forget one costs its part of a call, if it comes again
		clear(l.saved)
	}
	for id, e := range b.entries {
		l.saved[id] = e.Saves
	}
}

func (l *List) call(id string, b batch) error {
	body, err := json.Marshal(map[string][]Listed{"entries": slices.SortedFunc(maps.Values(b.entries),
		func(a, b Listed) int { return a.StartedAt.Compare(b.StartedAt) })})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	_, err = l.actors.Invoke(ctx, id, methodAdd, body)
	return err
}

// Flush sends what waits, without a pause, and returns when that is done, or with an
// error when ctx ends. Nothing may be sent any more.
func (l *List) Flush(ctx context.Context) error {
	l.end()
	return ended(ctx, &l.running)
}

// Catalog is all in which notifications are found.
type Catalog struct {
	Index *Index
	List  *List
}

// Send sends to both. The nil error of settled means what it means for each of them.
func (c Catalog) Send(index []Entry, listed Listed) (settled func(context.Context) error) {
	indexed, saved := c.Index.Send(index), c.List.Send(listed)
	return func(ctx context.Context) error {
		if err := indexed(ctx); err != nil {
			return err
		}
		return saved(ctx)
	}
}

// Flush writes what waits. Nothing may be sent any more.
func (c Catalog) Flush(ctx context.Context) error {
	return errors.Join(c.List.Flush(ctx), c.Index.Flush(ctx))
}
