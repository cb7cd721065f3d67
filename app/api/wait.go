package api

import (
	"context"
	"sync"
	"time"

	"allregions/app/notification"
)

// How often something that somebody waits for is looked at. It is looked at
// once, however many wait for it; and the more different things are waited for,
// the rarer each, so that all together never cost more than about 200 reads a
// second. An outcome that this process decides is seen at once (see
// Waiters.Wake); polling is for those that another replica decides.
const (
	pollInterval = time.Second
	pollSpread   = 5 * time.Millisecond // more for each thing that is waited for
)

// Look reads something that somebody waits for. It returns false if it is not
// yet what they wait for, or cannot be read now.
type Look func(context.Context) (notification.Status, bool)

// Waiters lets callers wait for what a Look sees.
type Waiters struct {
	closed chan struct{}

	mu    sync.Mutex
	polls map[string]*poll // by key; present while somebody waits
}

// NewWaiters returns waiters of whom nobody waits.
func NewWaiters() *Waiters {
	return &Waiters{closed: make(chan struct{}), polls: map[string]*poll{}}
}

// Close ends every wait, now and from now on. Call it once.
func (ws *Waiters) Close() { close(ws.closed) }

// Closed tells whether Close was called.
func (ws *Waiters) Closed() bool {
	select {
	case <-ws.closed:
		return true
	default:
		return false
	}
}

// poll looks at one thing for everybody who waits for it.
type poll struct {
	waiters int           // guarded by Waiters.mu
	wake    chan struct{} // has room for one: look again now
	stop    context.CancelFunc
	done    chan struct{} // closed when status is there, or nobody waits any more
	status  notification.Status
}

// Wait blocks until look returns true, and returns what it has seen, or until
// ctx ends or the waiters are closed; then ok is false. Callers with the same key must have a look at the
// same thing: one of them looks for all.
func (ws *Waiters) Wait(ctx context.Context, key string, look Look) (st notification.Status, ok bool) {
	p := ws.join(key, look)
	defer ws.leave(key, p)
	select {
	case <-p.done:
		return p.status, true
	case <-ctx.Done():
	case <-ws.closed:
	}
	return notification.Status{}, false
}

// Wake makes those who wait under key look now. It never blocks.
func (ws *Waiters) Wake(key string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if p := ws.polls[key]; p != nil {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

func (ws *Waiters) join(key string, look Look) *poll {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	p := ws.polls[key]
	if p == nil {
		ctx, stop := context.WithCancel(context.Background())
		// Awake from the start: it may be there already.
		p = &poll{wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
		p.wake <- struct{}{}
		ws.polls[key] = p
		go ws.run(ctx, key, p, look)
	}
	p.waiters++
	return p
}

func (ws *Waiters) leave(key string, p *poll) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if p.waiters--; p.waiters == 0 {
		p.stop()
		ws.forget(key, p)
	}
}

// forget makes the next who waits under key begin anew. The caller holds mu.
func (ws *Waiters) forget(key string, p *poll) {
	if ws.polls[key] == p {
		delete(ws.polls, key)
	}
}

func (ws *Waiters) interval() time.Duration {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return max(pollInterval, time.Duration(len(ws.polls))*pollSpread)
}

func (ws *Waiters) run(ctx context.Context, key string, p *poll, look Look) {
	defer close(p.done)
	for {
		again := time.NewTimer(ws.interval())
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-p.wake:
		}
		again.Stop()
		if ctx.Err() != nil {
			return
		}
		lookCtx, cancel := context.WithTimeout(ctx, invokeTimeout)
		st, ok := look(lookCtx)
		cancel()
		if ok {
			p.status = st
			ws.mu.Lock()
			ws.forget(key, p)
			ws.mu.Unlock()
			return
		}
	}
}
