package chaos

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"allregions/app/local/cosmos"
)

// The troubles of the store.
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
	troubled
	proxy *cosmos.Proxy

	countMu  sync.Mutex // of what follows
	rng      *rand.Rand
	requests int
	became   map[string]int // how many late and refused writes, by what became of them
}

// What may become of a write that was late, or of somebody who had not seen the last
// one. Late is one whose caller had given up before it was begun, guarded is one that
// may replace only what its caller has seen.
const (
	refused     = "refused"
	lateRefused = "refused late"
	lateDone    = "done late"
	lateGuarded = "done late, with an etag"
)

func newStore(proxy *cosmos.Proxy, rng *rand.Rand) *store {
	return &store{proxy: proxy, rng: rng, became: map[string]int{}}
}

// writes says what became of late and refused writes.
func (s *store) writes() map[string]int {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	return maps.Clone(s.became)
}

// draw says what becomes of a request.
func (s *store) draw(write bool) (t trouble, delay time.Duration) {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	s.requests++
	t = s.hit(func(now trouble) bool { return (now != lost || write) && s.rng.Float64() <= share })
	return t, between(s.rng, 200*time.Millisecond, 2500*time.Millisecond)
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

// count counts a write by its answer.
func (s *store) count(status int, late, guarded bool) {
	done := status/100 == 2
	kind := ""
	switch conflict := status == http.StatusPreconditionFailed || status == http.StatusConflict; {
	case conflict && late:
		kind = lateRefused
	case conflict:
		kind = refused
	case done && late && guarded:
		kind = lateGuarded
	case done && late:
		kind = lateDone
	default:
		return
	}
	s.countMu.Lock()
	defer s.countMu.Unlock()
	s.became[kind]++
}
