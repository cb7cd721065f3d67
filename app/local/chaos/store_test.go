package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"allregions/app/local/cosmos"
)

// served counts the requests that a handler has got, and those that it is done with.
type served struct {
	http.Handler
	begun, done atomic.Int64
}

func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.begun.Add(1)
	defer s.done.Add(1)
	s.Handler.ServeHTTP(w, r)
}

// startStore serves a store in front of h, which plays the emulator.
func startStore(t *testing.T, h http.HandlerFunc) (*store, *served, *httptest.Server) {
	t.Helper()
	emulator := httptest.NewServer(h)
	t.Cleanup(emulator.Close)
	at := cosmos.Emulator{Port: emulator.Listener.Addr().(*net.TCPAddr).Port}
	s := newStore(cosmos.NewProxy(at), source(1, storeStream))
	requests := &served{Handler: s}
	server := httptest.NewServer(requests)
	t.Cleanup(server.Close)
	return s, requests, server
}

// What the store does to a request, and whether the emulator has seen it.
func TestStore(t *testing.T) {
	var seen atomic.Int64
	s, requests, proxy := startStore(t, func(http.ResponseWriter, *http.Request) { seen.Add(1) })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing is sent twice

	const tries = 40
	for _, test := range []struct {
		trouble trouble
		method  string
		headers map[string]string
		status  int // of the requests that are hit; 0 for no answer
		passes  bool
	}{
		{"", http.MethodPost, nil, 200, true},
		{throttled, http.MethodGet, nil, 429, false},
		{throttled, http.MethodPost, nil, 429, false},
		{unavailable, http.MethodPost, nil, 503, false},
		{lost, http.MethodPost, nil, 0, true},
		{lost, http.MethodDelete, nil, 0, true},
		{lost, http.MethodGet, nil, 200, true},
		{lost, http.MethodPost, map[string]string{"x-ms-documentdb-query": "True"}, 200, true},
	} {
		t.Run(fmt.Sprintf("%s %s %v", test.trouble, test.method, test.headers), func(t *testing.T) {
			s.set(test.trouble)
			seen.Store(0)
			answers := map[int]int{}
			for range tries {
				req, err := http.NewRequestWithContext(t.Context(), test.method, proxy.URL+"/docs", nil)
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range test.headers {
					req.Header.Set(name, value)
				}
				resp, err := client.Do(req)
				if err != nil {
					answers[0]++
					continue
				}
				resp.Body.Close()
				answers[resp.StatusCode]++
			}
			hit := answers[test.status]
			if hit == 0 || hit+answers[200] < tries || (test.status != 200 && hit == tries) {
				t.Errorf("answers %v", answers)
			}
			want := int64(tries)
			if !test.passes {
				want -= int64(hit)
			}
			if seen.Load() != want {
				t.Errorf("the store saw %d requests, want %d", seen.Load(), want)
			}
		})
	}

	t.Run("slow", func(t *testing.T) {
		s.set(slow)
		begin := time.Now()
		for time.Since(begin) < 200*time.Millisecond {
			resp, err := client.Get(proxy.URL + "/docs")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%v, %v", resp, err)
			}
			resp.Body.Close()
		}
		if s.counts()[string(slow)] == 0 {
			t.Error("nothing was delayed")
		}
	})
	if hits, all := s.counts(), int(requests.begun.Load()); len(hits) != 4 || total(hits) >= all {
		t.Errorf("got %d requests, hits %v", all, hits)
	}
}

// A slow write is done although its caller has given up, unless it may replace
// only what is not there any more.
func TestLateWrites(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	etags, written := map[string]string{}, map[string]int{} // by id
	s, requests, server := startStore(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet {
			etag, ok := etags[strings.TrimPrefix(r.URL.Path, "/docs/")]
			if !ok {
				w.WriteHeader(http.StatusNotFound)
			}
			fmt.Fprintf(w, `{"_etag":%q}`, etag)
			return
		}
		var doc struct{ ID string }
		if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
			t.Error(err)
		}
		written[doc.ID]++
		etags[doc.ID] = strconv.Quote("e" + strconv.Itoa(written[doc.ID]))
	})

	kinds := map[string]struct {
		stored, match string
		done          bool
	}{
		"first":    {"", `"random"`, true},
		"second":   {`"e0"`, `"random"`, false}, // a first one, of what is there already
		"current":  {`"e0"`, `"e0"`, true},
		"outdated": {`"e1"`, `"e0"`, false},
		"any":      {`"e0"`, "", true},
	}
	const tries = 12 // of each kind
	writes := tries * len(kinds)
	var all sync.WaitGroup
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	s.set(slow)
	for name, k := range kinds {
		for i := range tries {
			id := name + strconv.Itoa(i)
			if k.stored != "" {
				mu.Lock()
				etags[id] = k.stored
				mu.Unlock()
			}
			all.Go(func() {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/docs", strings.NewReader(`{"id":"`+id+`"}`))
				if err != nil {
					t.Error(err)
					return
				}
				if k.match != "" {
					req.Header.Set("If-Match", k.match)
				}
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
	}
	eventually(t, "every write has arrived", func() bool { return int(requests.begun.Load()) == writes })
	giveUp()
	all.Wait()
	eventually(t, "every write is done or refused", func() bool { return int(requests.done.Load()) == writes })
	for name, k := range kinds {
		for i := range tries {
			if n := written[name+strconv.Itoa(i)]; (n == 1) != k.done || n > 1 {
				t.Errorf("%s: written %d times", name, n)
			}
		}
	}
	hits := s.counts()
	refused, done, guarded := hits[lateWrite(412, true)], hits[lateWrite(200, false)], hits[lateWrite(200, true)]
	if refused <= tries || done == 0 || guarded <= tries || len(hits) != 4 {
		t.Errorf("late writes are not of every kind: %v", hits)
	}
}
