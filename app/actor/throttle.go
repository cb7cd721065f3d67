package actor

import (
	"sync"
	"time"
)

// Throttle bounds how often a failure that repeats is logged: once in each Every.
type Throttle struct {
	Every time.Duration

	mu      sync.Mutex
	last    time.Time // when one was logged
	dropped int       // since then
}

// Allow tells whether a failure at now is to be logged, and how many were not, since
// the last one that was.
func (t *Throttle) Allow(now time.Time) (dropped int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && now.Sub(t.last) < t.Every {
		t.dropped++
		return 0, false
	}
	dropped = t.dropped
	t.last, t.dropped = now, 0
	return dropped, true
}
