package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// trouble is what the store's proxy does to requests.
type trouble string

const (
	throttled   trouble = "429"
	unavailable trouble = "503"
	slow        trouble = "slow"
	lost        trouble = "answer lost" // after the store did the write
)

// share of the requests that are hit while there is trouble. The others show
// what a client does that meets both.
const share = 0.7

// store is a reverse proxy in front of the emulator of Cosmos DB that makes
// trouble on demand.
type store struct {
	proxy *httputil.ReverseProxy

	mu   sync.Mutex
	now  trouble // "" for none
	rng  *rand.Rand
	hits map[trouble]int

	requests int // all of them
}

// newStore returns the proxy. Emulator and self are addresses, host:port.
func newStore(emulator, self string, rng *rand.Rand) *store {
	target := &url.URL{Scheme: "http", Host: emulator}
	s := &store{rng: rng, hits: map[trouble]int{}}
	s.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.Context().Value(loseKey{}) != nil {
				return errLost
			}
			return account(resp, emulator, self)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, errLost) {
				panic(http.ErrAbortHandler) // closes the connection without an answer
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	return s
}

type loseKey struct{}

var errLost = errors.New("the answer is lost")

// account keeps clients here: the answer about the account names the endpoint
// that they turn to from then on.
func account(resp *http.Response, emulator, self string) error {
	if resp.Request.URL.Path != "/" {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the account: %w", err)
	}
	resp.Body.Close()
	body = bytes.ReplaceAll(body, []byte(emulator), []byte(self))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// set begins trouble, or ends it with "".
func (s *store) set(t trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = t
}

// counts says how many requests there were, and how many each trouble has hit.
func (s *store) counts() (requests int, hits map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hits = map[string]int{}
	for t, n := range s.hits {
		hits[string(t)] = n
	}
	return s.requests, hits
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
	t, delay := s.draw(isWrite(r))
	switch t {
	case throttled:
		w.Header().Set("x-ms-retry-after-ms", "200")
		refuse(w, http.StatusTooManyRequests, "Request rate is large.")
		return
	case unavailable:
		refuse(w, http.StatusServiceUnavailable, "The service is temporarily unavailable.")
		return
	case slow:
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	case lost:
		r = r.WithContext(context.WithValue(r.Context(), loseKey{}, true))
	}
	s.proxy.ServeHTTP(w, r)
}

// isWrite tells whether the request changes something: a query is a POST, too.
func isWrite(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("x-ms-documentdb-isquery") == "" && r.Header.Get("x-ms-documentdb-query") == ""
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":"%d","message":%q}`, status, message)
}
