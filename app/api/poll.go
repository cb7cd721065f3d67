package api

import (
	"context"
	"sync"
	"time"

	"allregions/app/notification"
)

// How often something is read for those who wait for it. The more different things
// are waited for, the rarer each is read: all together cost at most about 200 reads a
// second. An outcome that this process decides is seen at once (see Handler.Concluded);
// polling finds those that another replica decides.
const (
	pollInterval = time.Second
	pollSpread   = 5 * time.Millisecond // more for each thing that is waited for
)

// readFunc reads where a notification stands.
type readFunc func(context.Context) (notification.Status, error)

// polls reads statuses for many callers at the cost of one: at most one reading of a
// thing at a time, which answers all who asked before it began. No caller gets a
// reading that began before its question.
type polls struct {
	mu    sync.Mutex
	byKey map[string]*poll // present while somebody asks
}

// poll reads one thing for everybody who asks for it.
type poll struct {
	next    *reading      // it has not begun; guarded by polls.mu
	callers int           // guarded by polls.mu
	wake    chan struct{} // has room for one: read now
	stop    context.CancelFunc
}

// reading is one result of a readFunc. Its other fields are set when done is closed.
type reading struct {
	done   chan struct{}
	status notification.Status
	err    error
	next   *reading // the one after it
}

// once returns what read reads now. Callers with the same key must read the same thing.
func (ps *polls) once(ctx context.Context, key string, read readFunc) (notification.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return ps.until(ctx, key, read, true, func(*reading) bool { return true })
}

// wait reads again and again until it reads a status that is enough. Its error means
// that ctx has ended: a reading that fails does not end the wait.
func (ps *polls) wait(ctx context.Context, key string, read readFunc, enough func(notification.Status) bool) (notification.Status, error) {
	return ps.until(ctx, key, read, false, func(r *reading) bool { return r.err == nil && enough(r.status) })
}

// until returns the first reading that is enough, or the cause of the end of ctx. The
// first reading for a key begins at once; a later caller may have to wait for the next
// one, unless it asks for one now.
func (ps *polls) until(ctx context.Context, key string, read readFunc, now bool, enough func(*reading) bool) (notification.Status, error) {
	if ctx.Err() != nil {
		return notification.Status{}, context.Cause(ctx)
	}
	p, r := ps.join(ctx, key, read, now)
	defer ps.leave(key, p)
	for ; ; r = r.next {
		select {
		case <-r.done:
			if enough(r) {
				return r.status, r.err
			}
		case <-ctx.Done():
			return notification.Status{}, context.Cause(ctx)
		}
	}
}

func (ps *polls) join(ctx context.Context, key string, read readFunc, now bool) (*poll, *reading) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byKey[key]
	if p == nil {
		// The poll outlives this caller if there are others.
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		p = &poll{next: newReading(), wake: make(chan struct{}, 1), stop: stop}
		ps.byKey[key] = p
		go ps.run(ctx, p, read)
		now = true
	}
	if now {
		p.readNow()
	}
	p.callers++
	return p, p.next
}

func (ps *polls) leave(key string, p *poll) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.callers--; p.callers == 0 {
		p.stop()
		delete(ps.byKey, key)
	}
}

// wake makes those who wait under key read now. It never blocks.
func (ps *polls) wake(key string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.byKey[key]; p != nil {
		p.readNow()
	}
}

func (p *poll) readNow() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (ps *polls) run(ctx context.Context, p *poll, read readFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-time.After(ps.interval()):
		}
		ps.mu.Lock()
		r := p.next
		r.next = newReading() // for whoever asks from here on
		p.next = r.next
		ps.mu.Unlock()
		readCtx, cancel := context.WithTimeout(ctx, callTimeout)
		r.status, r.err = read(readCtx)
		cancel()
		close(r.done)
	}
}

func (ps *polls) interval() time.Duration {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return max(pollInterval, time.Duration(len(ps.byKey))*pollSpread)
}

func newReading() *reading { return &reading{done: make(chan struct{})} }
