package chaos

import (
	"bytes"
	"context"
	"encoding/json"
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
// trouble on demand, and closes gaps of the emulator's.
type store struct {
	proxy  *httputil.ReverseProxy
	target *url.URL

	// The emulator replaces a document in two steps. Nobody may see what is
	// between them, or between a comparison and its write.
	steps sync.RWMutex

	mu   sync.Mutex
	now  trouble // "" for none
	rng  *rand.Rand
	hits map[trouble]int

	requests  int // all of them
	conflicts int // those whose etag was that of the past
}

// newStore returns the proxy. Emulator and self are addresses, host:port.
func newStore(emulator, self string, rng *rand.Rand) *store {
	target := &url.URL{Scheme: "http", Host: emulator}
	s := &store{target: target, rng: rng, hits: map[trouble]int{}}
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

// counts says how many requests there were, how many of them conflicted with
// another one, and how many each trouble has hit.
func (s *store) counts() (requests, conflicts int, hits map[string]int) {
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
	t, delay := s.draw(isWrite(r))
	switch t {
	case throttled:
		w.Header().Set("x-ms-retry-after-ms", "200")
		refuse(w, http.StatusTooManyRequests, "Request rate is large.")
		return
	case unavailable:
		refuse(w, http.StatusServiceUnavailable, "The service is temporarily unavailable.")
		return
	case slow: // a write is done even if its caller gives up meanwhile
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	case lost:
		r = r.WithContext(context.WithValue(r.Context(), loseKey{}, true))
	}
	if !isWrite(r) {
		s.steps.RLock()
		defer s.steps.RUnlock()
		s.proxy.ServeHTTP(w, r)
		return
	}
	s.steps.Lock()
	defer s.steps.Unlock()
	if match := r.Header.Get("If-Match"); match != "" {
		switch etag, err := s.etag(r); {
		case err != nil:
			w.WriteHeader(http.StatusBadGateway)
			return
		case etag != "" && etag != match:
			s.mu.Lock()
			s.conflicts++
			s.mu.Unlock()
			refuse(w, http.StatusPreconditionFailed, "One of the specified pre-conditions is not met.")
			return
		}
	}
	s.proxy.ServeHTTP(w, r)
}

// etag is that of what is stored where r is about to write; "" if nothing is.
// Cosmos DB compares it with that of the request, which the emulator does not.
func (s *store) etag(r *http.Request) (string, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", fmt.Errorf("read the document: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var doc struct{ ID string }
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("decode the document: %w", err)
	}
	read, err := http.NewRequestWithContext(r.Context(), http.MethodGet, s.target.JoinPath(r.URL.Path, url.PathEscape(doc.ID)).String(), nil)
	if err != nil {
		return "", err
	}
	read.Header.Set("x-ms-documentdb-partitionkey", r.Header.Get("x-ms-documentdb-partitionkey"))
	resp, err := http.DefaultClient.Do(read)
	if err != nil {
		return "", fmt.Errorf("read what is stored: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound:
		return "", nil
	case http.StatusOK:
	default:
		return "", fmt.Errorf("read what is stored: %s", resp.Status)
	}
	var stored struct {
		ETag string `json:"_etag"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&stored); err != nil {
		return "", fmt.Errorf("decode what is stored: %w", err)
	}
	return stored.ETag, nil
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
