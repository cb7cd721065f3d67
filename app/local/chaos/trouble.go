package chaos

import (
	"maps"
	"sync"
)

// counter counts what happens, by name.
type counter struct {
	mu    sync.Mutex
	times map[string]int
}

func (c *counter) count(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = map[string]int{}
	}
	c.times[name]++
}

func (c *counter) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.times)
}

// trouble is what the store or the target does to requests.
type trouble string

// troubled is in one trouble at a time, or in none.
type troubled struct {
	counter // of the requests that were hit, by trouble

	nowMu sync.Mutex
	now   trouble // "" for none
}

// set begins a trouble, or ends it with "".
func (t *troubled) set(now trouble) {
	t.nowMu.Lock()
	defer t.nowMu.Unlock()
	t.now = now
}

// hit returns the trouble of a request, if hits says that it has one.
func (t *troubled) hit(hits func(trouble) bool) trouble {
	t.nowMu.Lock()
	defer t.nowMu.Unlock()
	if t.now == "" || !hits(t.now) {
		return ""
	}
	t.count(string(t.now))
	return t.now
}
