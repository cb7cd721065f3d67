package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/catalog"
	"allregions/app/page"
	"allregions/app/replication"
)

// records are windows of the list in memory.
type records struct {
	mu      sync.Mutex
	entries map[string]catalog.Listed
	saves   int
	loads   int // of the newest window
	err     error
}

func (r *records) put(id string, status replication.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saves++
	data, _ := json.Marshal(map[string]any{"id": id, "repository": "shop/cart", "tag": id, "status": status, "startedAt": time.Now(), "regions": []string{}, "missing": []string{}})
	r.entries[id] = catalog.Listed{ID: id, Saves: r.saves, Status: data}
}

func (r *records) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// read is how often the newest window was read since it was asked last.
func (r *records) read() (loads int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	loads, r.loads = r.loads, 0
	return loads
}

func (r *records) Load(_ context.Context, key string) ([]byte, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, "", r.err
	}
	if key != time.Now().UTC().Truncate(10*time.Minute).Format("2006-01-02T15:04Z") {
		return nil, "", nil
	}
	r.loads++
	var entries []catalog.Listed
	for _, e := range r.entries {
		entries = append(entries, e)
	}
	data, err := json.Marshal(map[string]any{"entries": entries})
	return data, string(rune('a' + r.saves)), err
}

func (r *records) Invoke(context.Context, string, string, []byte) ([]byte, error) {
	return nil, errors.New("nobody sends")
}

func streaming() (*Handler, *records) {
	r := &records{entries: map[string]catalog.Listed{}}
	log := slog.New(slog.DiscardHandler)
	return New(Config{List: catalog.NewList(r, r, log), Keys: NewKeys([]string{key1}), Page: page.New(), Log: log}), r
}

// reader reads a stream line by line.
type reader struct {
	lines  *bufio.Scanner
	cancel context.CancelFunc
	pipe   *io.PipeReader
}

// pipeWriter is a ResponseWriter whose body is a pipe.
type pipeWriter struct {
	*httptest.ResponseRecorder
	w *io.PipeWriter
}

func (p pipeWriter) Write(b []byte) (int, error)      { return p.w.Write(b) }
func (p pipeWriter) Flush()                           {}
func (p pipeWriter) SetWriteDeadline(time.Time) error { return nil }

func openStream(t *testing.T, h *Handler, query string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/stream"+query, nil)
	req.Header.Set("Authorization", "Bearer "+key1)
	out, in := io.Pipe()
	go func() {
		h.ServeHTTP(pipeWriter{httptest.NewRecorder(), in}, req)
		in.Close()
	}()
	return &reader{bufio.NewScanner(out), cancel, out}
}

func (r *reader) close() {
	r.cancel()
	r.pipe.Close()
}

// next is the next line: its name, and the notifications in it. At the end it is "".
func (r *reader) next(t *testing.T) (name string, ids []string) {
	t.Helper()
	if !r.lines.Scan() {
		return "", nil
	}
	var line map[string]json.RawMessage
	if err := json.Unmarshal(r.lines.Bytes(), &line); err != nil {
		t.Fatalf("%s: %v", r.lines.Bytes(), err)
	}
	type short struct{ ID, Status string }
	name = "alive"
	var list []short
	for key, value := range line {
		name = key
		var p struct{ Notifications []short }
		if json.Unmarshal(value, &list) != nil && json.Unmarshal(value, &p) == nil {
			list = p.Notifications
		}
	}
	for _, s := range list {
		ids = append(ids, s.ID+" "+s.Status)
	}
	slices.Sort(ids)
	return name, ids
}

func (r *reader) expect(t *testing.T, name string, ids ...string) {
	t.Helper()
	if gotName, got := r.next(t); gotName != name || !slices.Equal(got, ids) {
		t.Fatalf("got %q %q, want %q %q", gotName, got, name, ids)
	}
}

// streamTest is a test with its own time, at whose end nobody follows.
func streamTest(t *testing.T, test func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		test(t)
		time.Sleep(2 * followInterval)
	})
}

func TestStream(t *testing.T) {
	streamTest(t, func(t *testing.T) {
		h, list := streaming()
		list.put("n1", replication.Collecting)
		list.put("n2", replication.Replicated)
		s := openStream(t, h, "?status=replicated")
		defer s.close()
		s.expect(t, "page", "n2 replicated")
		s.expect(t, "open", "n1 collecting")
		begin := time.Now()
		list.put("n1", replication.Replicated)
		list.put("n3", replication.Collecting)
		s.expect(t, "changed", "n1 replicated", "n3 collecting")
		if took := time.Since(begin); took > followInterval {
			t.Errorf("a change took %v", took)
		}
		other := openStream(t, h, "")
		defer other.close()
		other.expect(t, "page", "n1 replicated", "n2 replicated", "n3 collecting")
		other.expect(t, "open", "n3 collecting")

		s.expect(t, "alive") // nothing happens
		list.fail(errors.New("no store"))
		s.expect(t, "error")
		list.fail(nil)
		begin = time.Now()
		for name := "error"; name == "error"; name, _ = s.next(t) {
		}
		if took := time.Since(begin); took > 2*followInterval {
			t.Errorf("that the list can be read again was said after %v", took)
		}
	})
}

// However many streams there are, the list is read once a second for all of them, and
// once for those that begin together; without a stream it is not read.
func TestManyStreamsReadOnce(t *testing.T) {
	streamTest(t, func(t *testing.T) {
		h, list := streaming()
		list.put("n1", replication.Collecting)
		var all []*reader
		for range 200 {
			s := openStream(t, h, "")
			all = append(all, s)
			go func() {
				for s.lines.Scan() {
				}
			}()
		}
		synctest.Wait()
		if n := list.read(); n > 2 {
			t.Errorf("%d readings for 200 streams that begin together", n)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if n := list.read(); n < 9 || n > 11 {
			t.Errorf("%d readings in ten seconds", n)
		}
		for _, s := range all {
			s.close()
		}
		time.Sleep(2 * followInterval)
		list.read()
		time.Sleep(time.Minute)
		h.feed.mu.Lock()
		defer h.feed.mu.Unlock()
		if n := list.read(); n != 0 || h.feed.following || len(h.feed.pages) > 0 {
			t.Errorf("without a stream: %d readings, following %t, %d pages", n, h.feed.following, len(h.feed.pages))
		}
	})
}

// A stream ends by itself before the ingress ends it, and when the replica stops.
func TestStreamEnds(t *testing.T) {
	streamTest(t, func(t *testing.T) {
		h, _ := streaming()
		begin := time.Now()
		s := openStream(t, h, "")
		defer s.close()
		for name := "page"; name != ""; name, _ = s.next(t) {
		}
		if got := time.Since(begin); got < streamLife || got > streamLife+streamSpread || streamLife+streamSpread > 230*time.Second {
			t.Errorf("it ended after %v", got)
		}
		s = openStream(t, h, "")
		defer s.close()
		s.expect(t, "page")
		begin = time.Now()
		h.Stop()
		for name := "page"; name != ""; name, _ = s.next(t) {
		}
		if got := time.Since(begin); got > followInterval {
			t.Errorf("it ended %v after the replica was told to stop", got)
		}
	})
}

// One that does not read is ended, and holds up no other.
func TestSlowStream(t *testing.T) {
	streamTest(t, func(t *testing.T) {
		h, list := streaming()
		slow, quick := openStream(t, h, ""), openStream(t, h, "")
		defer slow.close()
		defer quick.close()
		slow.expect(t, "page")
		quick.expect(t, "page")
		quick.expect(t, "open")
		for i := range maxBacklog + 5 {
			list.put("n", []replication.Status{replication.Collecting, replication.TimedOut}[i%2])
			for name := ""; name != "changed"; name, _ = quick.next(t) {
			}
		}
		n := 0
		for name := "open"; name != ""; name, _ = slow.next(t) {
			n++
		}
		if n > maxBacklog+3 {
			t.Errorf("the slow one had %d lines", n)
		}
	})
}

func TestStreamRefuses(t *testing.T) {
	h, list := streaming()
	if w := httptest.NewRecorder(); true {
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stream", nil))
		if w.Code != http.StatusUnauthorized || list.read() > 0 {
			t.Errorf("without a key: %d %s", w.Code, w.Body)
		}
	}
	if w := call(h, http.MethodGet, "/stream?stauts=x", ""); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "stauts") {
		t.Errorf("a wrong query: %d %s", w.Code, w.Body)
	}
	list.fail(errors.New("no store"))
	if w := call(h, http.MethodGet, "/stream", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("without a store: %d %s", w.Code, w.Body)
	}
	h.feed.mu.Lock()
	for range maxStreams {
		h.feed.streams[make(chan []byte, maxBacklog)] = struct{}{}
	}
	h.feed.mu.Unlock()
	if w := call(h, http.MethodGet, "/stream", ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "too many") {
		t.Errorf("too many: %d %s", w.Code, w.Body)
	}
	h.feed.mu.Lock()
	clear(h.feed.streams)
	h.feed.mu.Unlock()
}

// A browser that a person uses gets the page, which has no data, at the address of a
// notification; everybody else gets the JSON.
func TestPageOrJSON(t *testing.T) {
	h, _ := streaming()
	h.config.Statuses = &backend{}
	for _, tt := range []struct {
		path, accept string
		key          bool
		want         int
		kind         string
	}{
		{"/", "text/html,*/*;q=0.8", false, 200, "text/html; charset=utf-8"},
		{"/", "", false, 200, "text/html; charset=utf-8"},
		{"/page/page.js", "*/*", false, 200, "text/javascript; charset=utf-8"},
		{"/page/page.go", "*/*", false, 404, "text/plain; charset=utf-8"},
		{"/notifications/n1", "text/html,*/*;q=0.8", false, 200, "text/html; charset=utf-8"},
		{"/notifications/n1", "*/*", false, 401, "application/problem+json"},
		{"/notifications/n1", "*/*", true, 404, "application/problem+json"},
		{"/notifications", "text/html", false, 401, "application/problem+json"},
	} {
		t.Run(tt.path+" "+tt.accept, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, tt.path, nil)
			r.Header.Set("Accept", tt.accept)
			if tt.key {
				r.Header.Set("Authorization", "Bearer "+key1)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if kind := w.Header().Get("Content-Type"); w.Code != tt.want || kind != tt.kind {
				t.Errorf("got %d %s, want %d %s", w.Code, kind, tt.want, tt.kind)
			}
		})
	}
	h = New(Config{Keys: NewKeys([]string{key1}), Statuses: &backend{}, Log: slog.New(slog.DiscardHandler)})
	for _, path := range []string{"/", "/page/page.js", "/notifications/n1"} {
		if w := call(h, http.MethodGet, path, "", "Accept", "text/html"); w.Code != http.StatusNotFound {
			t.Errorf("%s without the page: %d", path, w.Code)
		}
	}
}
