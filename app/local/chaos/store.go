package chaos

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
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
// DB. It counts among its hits the writes that came late, by their answers.
type store struct {
	troubled
	proxy *cosmos.Proxy
	rng   *rand.Rand // is used while hit decides
}

func newStore(proxy *cosmos.Proxy, rng *rand.Rand) *store { return &store{proxy: proxy, rng: rng} }

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	write := cosmos.IsWrite(r)
	var delay time.Duration
	t := s.hit(func(now trouble) bool {
		delay = between(s.rng, 200*time.Millisecond, 2500*time.Millisecond)
		return (now != lost || write) && s.rng.Float64() <= share
	})
	switch t {
	case throttled:
		w.Header().Set("x-ms-retry-after-ms", "200")
		cosmos.Refuse(w, http.StatusTooManyRequests, "Request rate is large.")
		return
	case unavailable:
		cosmos.Refuse(w, http.StatusServiceUnavailable, "The service is temporarily unavailable.")
		return
	case slow:
		body, err := io.ReadAll(r.Body) // a write that has arrived is done, however late
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		time.Sleep(delay)
	}
	late := write && r.Context().Err() != nil
	answer := httptest.NewRecorder()
	s.proxy.ServeHTTP(answer, r)
	if late {
		s.count(lateWrite(answer.Code, r.Header.Get("If-Match") != ""))
	}
	if t == lost {
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	answer.Body.WriteTo(w)
}

// lateWrite is how a write is counted whose caller had given up before it was begun.
// A guarded one may replace only what its caller has seen.
func lateWrite(status int, guarded bool) string {
	return fmt.Sprintf("late %d%s", status, map[bool]string{true: " with an etag"}[guarded])
}
