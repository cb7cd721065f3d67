package chaos

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What the proxy does to a request, and whether the store has seen it.
func TestStore(t *testing.T) {
	var seen atomic.Int64
	emulator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/docs/old":
			fmt.Fprint(w, `{"_etag":"\"e1\""}`)
			return
		case "/docs/new":
			http.NotFound(w, r)
			return
		}
		seen.Add(1)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "endpoint https://%s/ %s", r.Context().Value(http.LocalAddrContextKey), body)
	}))
	defer emulator.Close()
	s := newStore(strings.TrimPrefix(emulator.URL, "http://"), "self:1", source(1, storeStream))
	proxy := httptest.NewServer(s)
	defer proxy.Close()
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
		if _, _, hits := s.counts(); hits[string(slow)] == 0 {
			t.Error("nothing was delayed")
		}
	})
	t.Run("compares", func(t *testing.T) {
		s.set("")
		for _, test := range []struct {
			id, match string
			status    int
		}{{"old", `"e1"`, 200}, {"old", `"e0"`, 412}, {"old", "", 200}, {"new", `"e0"`, 200}} {
			seen.Store(0)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, proxy.URL+"/docs", strings.NewReader(`{"id":"`+test.id+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			if test.match != "" {
				req.Header.Set("If-Match", test.match)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != test.status || (test.status == 200 && !strings.Contains(string(body), test.id)) || (seen.Load() == 1) != (test.status == 200) {
				t.Errorf("%+v: %s, %s; the store saw %d writes", test, resp.Status, body, seen.Load())
			}
		}
	})
	t.Run("the account names the proxy", func(t *testing.T) {
		s.set("")
		resp, err := client.Get(proxy.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "endpoint https://self:1/ " {
			t.Errorf("%s, %v", body, err)
		}
	})
	if requests, conflicts, hits := s.counts(); requests == 0 || conflicts != 1 || total(hits) >= requests {
		t.Errorf("%d requests, %d conflicts, hits %v", requests, conflicts, hits)
	}
}
