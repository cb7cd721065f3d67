package chaos

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"allregions/app/local/cosmos"
)

// trouble is what the store does to requests.
type trouble string

const (
	throttled   trouble = "429"
	unavailable trouble = "503"
	slow        trouble = "slow"        // a write is done even if its caller gives up meanwhile
	lost        trouble = "answer lost" // after the store did the write
)

// share of the requests that are hit while there is trouble. The others show
// what a client does that meets both.
const share = 0.7

// store makes trouble on demand, in front of the proxy of the emulator of Cosmos
// DB.
type store struct {
	proxy *cosmos.Proxy

	mu   sync.Mutex
	now  trouble // "" for none
	rng  *rand.Rand
	hits map[trouble]int

	requests  int // all of them
	conflicts Conflicts
}

// Conflicts are writes that the store did, or refused, behind somebody's back.
type Conflicts struct {
	Refused     int // writes of somebody who had not seen the last one
	LateRefused int // those among them whose callers had given up before
	LateDone    int // writes that were done although their callers had given up before
	LateGuarded int // those among them that could have been refused
}

func newStore(proxy *cosmos.Proxy, rng *rand.Rand) *store {
	return &store{proxy: proxy, rng: rng, hits: map[trouble]int{}}
}

// set begins trouble, or ends it with "".
func (s *store) set(t trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = t
}

// counts says how many requests there were, how writes conflicted with others,
// and how many requests each trouble has hit.
func (s *store) counts() (requests int, conflicts Conflicts, hits map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hits = map[string]int{}
	for t, n := range s.hits {
		hits[string(t)] = n
	}
	return s.requests, s.conflicts, hits
}

// draw says what becomes of a request.
func (s *store) draw(write bool) (t trouble, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.now == "" || (s.now == lost && !write) || s.rng.Float64() > share {
		return "", 0
	}
	s.hits[s.now]++
	return s.now, between(s.rng, 200*time.Millisecond, 2500*time.Millisecond)
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	write := cosmos.IsWrite(r)
	t, delay := s.draw(write)
	switch t {
	case throttled:
		w.Header().Set("x-ms-retry-after-ms", "200")
		cosmos.Refusal(http.StatusTooManyRequests, "Request rate is large.").Write(w)
		return
	case unavailable:
		cosmos.Refusal(http.StatusServiceUnavailable, "The service is temporarily unavailable.").Write(w)
		return
	case slow:
		if !linger(r, write, delay) {
			return
		}
	}
	late := r.Context().Err() != nil
	answer := s.proxy.Answer(r)
	if write {
		s.count(answer.Status, late, r.Header.Get("If-Match") != "")
	}
	if t == lost {
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	answer.Write(w)
}

// linger delays a request. It returns false if there is nothing to do any more: a
// read whose caller gives up. A write has its body by then, and comes late.
func linger(r *http.Request, write bool, delay time.Duration) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	gone := r.Context().Done()
	if write {
		gone = nil
	}
	select {
	case <-time.After(delay):
		return true
	case <-gone:
		return false
	}
}

// count counts a write by its answer. Late is one whose caller had given up before
// it was begun, guarded is one that may replace only what its caller has seen.
func (s *store) count(status int, late, guarded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.conflicts
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusConflict:
		c.Refused++
		if late {
			c.LateRefused++
		}
	case late && status/100 == 2:
		c.LateDone++
		if guarded {
			c.LateGuarded++
		}
	}
}
