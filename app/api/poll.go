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

// once returns what read reads now.
func (read readFunc) once(ctx context.Context) (notification.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return read(ctx)
}

// polls reads statuses for many who wait at the cost of one: one reading of a thing at
// a time, which all of them share.
type polls struct {
	stopping context.Context // ends every wait

	mu    sync.Mutex
	byKey map[string]*reading // for a moment longer than it takes
}

// reading is one result of a readFunc.
type reading struct {
	timer *time.Timer   // begins it
	again bool          // somebody was woken when it had begun; guarded by polls.mu
	over  bool          // guarded by polls.mu
	done  chan struct{} // closed when the status is read

	status notification.Status
	err    error
}

// wait reads again and again until it reads a status that is enough. Its error means
// that ctx has ended, or is errStopping: a reading that fails does not end the wait.
// Callers with the same key must read the same thing.
func (ps *polls) wait(ctx context.Context, key string, read readFunc, enough func(notification.Status) bool) (notification.Status, error) {
	var r *reading
	for ps.stopping.Err() == nil {
		r = ps.next(ctx, key, read, r)
		select {
		case <-r.done:
			if r.err == nil && enough(r.status) {
				return r.status, nil
			}
		case <-ctx.Done():
			return notification.Status{}, ctx.Err()
		case <-ps.stopping.Done():
		}
	}
	return notification.Status{}, errStopping
}

// next is the reading for the key that is not done. There is an interval between it and
// the last one, unless there was none, or somebody was woken meanwhile.
func (ps *polls) next(ctx context.Context, key string, read readFunc, last *reading) *reading {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if r := ps.byKey[key]; r != nil && !r.over {
		return r
	}
	pause := time.Duration(0)
	if last != nil && !last.again {
		pause = max(pollInterval, time.Duration(len(ps.byKey))*pollSpread)
	}
	r := &reading{done: make(chan struct{})}
	ps.byKey[key] = r
	r.timer = time.AfterFunc(pause, func() {
		r.status, r.err = read.once(context.WithoutCancel(ctx)) // for the others, too
		ps.mu.Lock()
		defer ps.mu.Unlock()
		r.over = true
		close(r.done)
		// Until then a wake is for those who have not asked for the next one yet.
		time.AfterFunc(pollInterval, func() { ps.forget(key, r) })
	})
	return r
}

func (ps *polls) forget(key string, r *reading) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.byKey[key] == r {
		delete(ps.byKey, key)
	}
}

// wake makes those who wait under key read now. It never blocks.
func (ps *polls) wake(key string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if r := ps.byKey[key]; r != nil && !r.over && r.timer.Stop() {
		r.timer.Reset(0)
	} else if r != nil {
		r.again = true
	}
}
