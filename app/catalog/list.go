package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"allregions/app/actor"
)

const (
	sendPause    = time.Second     // before a call to a window: what comes meanwhile goes together
	maxSendPause = 4 * time.Second // the same, if calls take long
	sendShare    = 40              // a pause is at least so many times as long as the call before it
	sendLimit    = 5 * time.Second // for one call
)

// List is the list of notifications, as one replica writes and reads it. It sends what
// is new to the windows' actors, behind the webhooks' answers, with at most one call a
// second to each of them.
type List struct {
	actors   actor.Invoker
	records  actor.Reader
	log      *slog.Logger
	failures actor.Throttle

	mu      sync.Mutex
	windows map[string]map[string]*sending // by window and notification; a window that is here has a sender
	waiting int                            // in all of them
	senders sync.WaitGroup
	flush   chan struct{} // closed when nothing is to wait any more

	activities activities
}

// sending is an entry on its way. Those who wait for it share it.
type sending struct {
	entry Listed
	done  chan struct{} // closed when it, or a newer one, is saved, or has failed
	err   error
}

func (s *sending) wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("list: %w", context.Cause(ctx))
	}
}

// NewList returns the list whose windows are these actors, with these records.
func NewList(actors actor.Invoker, records actor.Reader, log *slog.Logger) *List {
	return &List{actors: actors, records: records, log: log, failures: actor.Throttle{Every: retryPause},
		windows: map[string]map[string]*sending{}, flush: make(chan struct{})}
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

// add makes e wait. The caller holds mu.
func (l *List) add(id string, e Listed) *sending {
	s := l.windows[id][e.ID]
	switch {
	case s != nil && e.Saves > s.entry.Saves:
		s.entry = e
	case s == nil && l.waiting >= maxPending:
		s = &sending{done: make(chan struct{}), err: errors.New("list: too many entries wait")}
		close(s.done)
	case s == nil:
		if l.windows[id] == nil {
			l.windows[id] = map[string]*sending{}
			l.senders.Go(func() { l.send(id) })
		}
		s = &sending{entry: e, done: make(chan struct{})}
		l.windows[id][e.ID] = s
		l.waiting++
	}
	return s
}

// send sends what comes for a window, until nothing has come in a pause.
func (l *List) send(id string) {
	for pause := sendPause; ; {
		select {
		case <-time.After(pause):
		case <-l.flush:
		}
		batch := l.take(id)
		if len(batch) == 0 {
			return
		}
		begin := time.Now()
		err := l.call(id, batch)
		pause = max(sendPause, min(maxSendPause, sendShare*time.Since(begin)))
		l.end(id, batch, err)
	}
}

// take takes what waits for a window, as much as it has room for. If that is nothing, the
// sender is to end.
func (l *List) take(id string) (batch []*sending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for notification, s := range l.windows[id] {
		if size += len(s.entry.Status); len(batch) > 0 && (size > maxBytes || len(batch) == maxListed) {
			break
		}
		batch = append(batch, s)
		delete(l.windows[id], notification)
	}
	l.waiting -= len(batch)
	if len(batch) == 0 {
		delete(l.windows, id)
	}
	return batch
}

func (l *List) call(id string, batch []*sending) error {
	var m struct {
		Entries []Listed `json:"entries"`
	}
	for _, s := range batch {
		m.Entries = append(m.Entries, s.entry)
	}
	slices.SortFunc(m.Entries, func(a, b Listed) int { return a.StartedAt.Compare(b.StartedAt) })
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendLimit)
	defer cancel()
	_, err = l.actors.Invoke(ctx, id, methodAdd, body)
	return err
}

// end tells those who wait for a batch what became of it. What has failed waits again,
// unless the process is about to end.
func (l *List) end(id string, batch []*sending, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("list %s: %w", id, err)
		if _, ok := l.failures.Allow(time.Now()); ok {
			l.log.LogAttrs(context.Background(), slog.LevelWarn, "the list is written later", slog.Any("err", err))
		}
	}
	for _, s := range batch {
		s.err = err
		close(s.done)
		if err != nil && !l.flushed() {
			l.add(id, s.entry)
		}
	}
}

func (l *List) flushed() bool {
	select {
	case <-l.flush:
		return true
	default:
		return false
	}
}

// Flush sends what waits, without a pause, and returns when that is done, or with an
// error when ctx ends. Nothing may be sent any more.
func (l *List) Flush(ctx context.Context) error {
	close(l.flush)
	done := make(chan struct{})
	go func() { l.senders.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("list: %w", context.Cause(ctx))
	}
}
