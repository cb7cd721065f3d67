package api

import (
	"context"
	"sync"

	"allregions/app/notification"
)

// looks reads as rarely as it can what many ask for at the same time: one reading
// at a time for each key, and one more for all who ask meanwhile. A notification
// has one turn at a time, and its webhooks must not wait behind those who watch
// it. Nobody is answered by a reading that began before the question.
type looks struct {
	mu   sync.Mutex
	next map[string]*reading // by key; nil while one runs that nobody waits behind
}

type reading struct {
	ctx    context.Context
	read   func(context.Context) (notification.Status, error)
	done   chan struct{} // closed when the rest is there
	status notification.Status
	err    error
}

// look returns what read reads, whoever's read it is: those with the same key must
// read the same thing.
func (l *looks) look(ctx context.Context, key string, read func(context.Context) (notification.Status, error)) (notification.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, invokeTimeout)
	defer cancel()
	if ctx.Err() != nil { // nobody asks
		return notification.Status{}, context.Cause(ctx)
	}
	r := l.join(ctx, key, read)
	select {
	case <-r.done:
		return r.status, r.err
	case <-ctx.Done():
		return notification.Status{}, context.Cause(ctx)
	}
}

func (l *looks) join(ctx context.Context, key string, read func(context.Context) (notification.Status, error)) *reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, running := l.next[key]
	if r == nil {
		// Others may need it when the first who asked has gone.
		r = &reading{ctx: context.WithoutCancel(ctx), read: read, done: make(chan struct{})}
		l.next[key] = r
	}
	if !running {
		go l.work(key)
	}
	return r
}

func (l *looks) work(key string) {
	for r := l.begin(key); r != nil; r = l.begin(key) {
		ctx, cancel := context.WithTimeout(r.ctx, invokeTimeout)
		r.status, r.err = r.read(ctx)
		cancel()
		close(r.done)
	}
}

// begin returns what to read now; nil ends the work.
func (l *looks) begin(key string) *reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.next[key]
	if r == nil {
		delete(l.next, key)
	} else {
		l.next[key] = nil
	}
	return r
}
