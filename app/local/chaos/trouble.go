package chaos

import (
	"maps"
	"sync"
)

// trouble is what the store or the target does to requests.
type trouble string

// troubled is in one trouble at a time, or in none.
type troubled struct {
	mu   sync.Mutex
	now  trouble        // "" for none
	hits map[string]int // requests that were hit, by trouble
}

// set begins a trouble, or ends it with "".
func (t *troubled) set(now trouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = now
}

// hit returns the trouble of a request, if hits says that it has one.
func (t *troubled) hit(hits func(trouble) bool) trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == "" || !hits(t.now) {
		return ""
	}
	t.add(string(t.now))
	return t.now
}

// count counts something that came of a trouble.
func (t *troubled) count(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(name)
}

func (t *troubled) add(name string) {
	if t.hits == nil {
		t.hits = map[string]int{}
	}
	t.hits[name]++
}

// counts says how many requests each trouble has hit.
func (t *troubled) counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.hits)
}
