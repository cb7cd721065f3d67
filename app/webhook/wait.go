package webhook

import (
	"context"
	"sync"
	"time"

	"allregions/app/notification"
)

// pollInterval is how often the status of a notification that somebody waits
// for is read. It is read once, however many wait for it. An outcome that this
// process decides is seen at once (see Waiters.Wake); polling is for those that
// another replica decides.
const pollInterval = time.Second

// Waiters lets callers wait for the outcome of a notification.
type Waiters struct {
	statuses Statuses

	mu    sync.Mutex
	polls map[string]*poll // by notification id; present while somebody waits
}

// NewWaiters returns waiters that read from statuses.
func NewWaiters(statuses Statuses) *Waiters {
	return &Waiters{statuses: statuses, polls: map[string]*poll{}}
}

// poll reads one notification for everybody who waits for it.
type poll struct {
	waiters int           // guarded by Waiters.mu
	wake    chan struct{} // has room for one: read again now
	stop    context.CancelFunc
	done    chan struct{} // closed when status is an outcome, or nobody waits any more
	status  notification.Status
}

// Wait blocks until the notification has an outcome, and returns it, or until
// ctx ends; then ok is false. A read that fails is repeated until then.
func (ws *Waiters) Wait(ctx context.Context, id string) (st notification.Status, ok bool) {
	p := ws.join(id)
	defer ws.leave(id, p)
	select {
	case <-p.done:
		return p.status, true
	case <-ctx.Done():
		return notification.Status{}, false
	}
}

// Wake makes those who wait for id look now. It never blocks.
func (ws *Waiters) Wake(id string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if p := ws.polls[id]; p != nil {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

func (ws *Waiters) join(id string) *poll {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	p := ws.polls[id]
	if p == nil {
		ctx, stop := context.WithCancel(context.Background())
		// Awake from the start: the outcome may be there already.
		p = &poll{wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
		p.wake <- struct{}{}
		ws.polls[id] = p
		go ws.run(ctx, id, p)
	}
	p.waiters++
	return p
}

func (ws *Waiters) leave(id string, p *poll) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if p.waiters--; p.waiters == 0 {
		p.stop()
		if ws.polls[id] == p {
			delete(ws.polls, id)
		}
	}
}

func (ws *Waiters) run(ctx context.Context, id string, p *poll) {
	defer close(p.done)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.wake:
		}
		rctx, cancel := context.WithTimeout(ctx, invokeTimeout)
		st, err := ws.statuses.Status(rctx, id)
		cancel()
		if err == nil && st.Concluded() {
			p.status = st
			// Whoever joins from now on needs a poll of their own: this one
			// has ended.
			ws.mu.Lock()
			if ws.polls[id] == p {
				delete(ws.polls, id)
			}
			ws.mu.Unlock()
			return
		}
	}
}
