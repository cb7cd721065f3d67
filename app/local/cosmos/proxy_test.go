package cosmos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"allregions/app/local/process"
)

const (
	docs = "/dbs/d/colls/c/docs"
	soon = 30 * time.Second
)

// fake is an emulator with Cosmium's faults: it ignores etags, and replaces in
// two steps, whether or not its caller still waits.
type fake struct {
	between func() // the two steps

	mu    sync.Mutex
	etags map[string]string // by id
	made  int
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var doc struct{ ID string }
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &doc)
	id, ok := strings.CutPrefix(r.URL.Path, docs+"/")
	if !ok {
		id = doc.ID
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	etag, found := f.etags[id]
	switch {
	case r.URL.Path == "/":
		fmt.Fprintf(w, `{"databaseAccountEndpoint":"https://%s/"}`, r.Context().Value(http.LocalAddrContextKey))
	case r.Header.Get("x-ms-cosmos-is-batch-request") != "":
	case r.Method != http.MethodPost && !found:
		http.NotFound(w, r)
	case r.Method == http.MethodGet:
		fmt.Fprintf(w, `{"id":%q,"_etag":%q}`, id, etag)
	case r.Method == http.MethodDelete:
		delete(f.etags, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && found && r.Header.Get("x-ms-documentdb-is-upsert") == "":
		w.WriteHeader(http.StatusConflict)
	default:
		delete(f.etags, id)
		f.mu.Unlock()
		f.between()
		f.mu.Lock()
		f.made++
		f.etags[id] = strconv.Quote("e" + strconv.Itoa(f.made))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%q,"_etag":%q}`, id, f.etags[id])
	}
}

// startFake returns the proxy of f.
func startFake(t *testing.T, f *fake) *Proxy {
	t.Helper()
	f.etags = map[string]string{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return NewProxy(Emulator{Port: server.Listener.Addr().(*net.TCPAddr).Port})
}

// startCosmium returns the proxy of a real Cosmium.
func startCosmium(t *testing.T) *Proxy {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles Cosmium")
	}
	program := filepath.Join(t.TempDir(), "cosmium")
	if err := Build(t.Context(), filepath.Join("..", "..", ".."), program); err != nil {
		t.Fatal(err)
	}
	var e Emulator
	if err := process.FreePorts(&e.Port); err != nil {
		t.Fatal(err)
	}
	cmd := e.Command(program)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := process.Until(ctx, "Cosmium is not ready", func() error { return e.Create(Container{"d", "c"}) }); err != nil {
		t.Fatal(err)
	}
	return NewProxy(e)
}

// answer is the proxy's answer to a request.
func answer(p *Proxy, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// write is a write that a client asks for.
func write(ctx context.Context, method, path, match, body string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	r.Header.Set("x-ms-documentdb-partitionkey", `["p"]`)
	if match != "" {
		r.Header.Set("If-Match", match)
	}
	return r
}

func upsert(ctx context.Context, id, match string) *http.Request {
	r := write(ctx, http.MethodPost, docs, match, fmt.Sprintf(`{"id":%q,"partitionKey":"p"}`, id))
	r.Header.Set("x-ms-documentdb-is-upsert", "True")
	return r
}

func read(ctx context.Context, id string) *http.Request {
	return write(ctx, http.MethodGet, docs+"/"+url.PathEscape(id), "", "")
}

// stored is the etag of what is stored under id.
func stored(t *testing.T, p *Proxy, id string) string {
	t.Helper()
	var doc struct {
		ETag string `json:"_etag"`
	}
	if a := answer(p, read(t.Context(), id)); a.Code == http.StatusOK {
		if err := json.NewDecoder(a.Body).Decode(&doc); err != nil || doc.ETag == "" {
			t.Fatalf("%s, %v", a.Body, err)
		}
	}
	return doc.ETag
}

// Behind the proxy an emulator compares etags as Azure does.
func TestProxyCompares(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *Proxy{
		"fake":    func(t *testing.T) *Proxy { return startFake(t, &fake{between: func() {}}) },
		"Cosmium": startCosmium,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			const id, some = "allregions||Notification||a", `"e0"` // Dapr's first write has a random one
			path, body := docs+"/"+url.PathEscape(id), fmt.Sprintf(`{"id":%q,"partitionKey":"p"}`, id)
			var old string
			for i, step := range []struct {
				method  string // upsert is a POST
				match   string // "current" and "old" are the etags of now and of the last but one
				status  int
				changes bool
			}{
				{http.MethodDelete, some, 404, false},
				{http.MethodPut, some, 404, false},
				{"upsert", some, 201, true}, // there is nothing yet
				{"upsert", some, 412, false},
				{http.MethodPost, "", 409, false}, // a create of what there is
				{"upsert", "current", 201, true},
				{"upsert", "old", 412, false},
				{"upsert", "", 201, true},
				{http.MethodPut, "old", 412, false},
				{http.MethodPut, "current", 201, true},
				{http.MethodDelete, "old", 412, false},
				{http.MethodDelete, "current", 204, true},
				{http.MethodPost, "", 201, true},
			} {
				before := stored(t, p, id)
				match := step.match
				switch match {
				case "current":
					match = before
				case "old":
					match = old
				}
				r := write(t.Context(), step.method, path, match, body)
				switch step.method {
				case "upsert":
					r = upsert(t.Context(), id, match)
				case http.MethodPost:
					r = write(t.Context(), step.method, docs, match, body)
				}
				a := answer(p, r)
				after := stored(t, p, id)
				if a.Code != step.status || (after != before) != step.changes {
					t.Fatalf("step %d, %+v: %d %s; etag %s, then %s", i, step, a.Code, a.Body, before, after)
				}
				if after != before {
					old = before
				}
			}
		})
	}
}

// What the proxy cannot compare it refuses. It passes on the rest.
func TestProxyTransactions(t *testing.T) {
	p := startFake(t, &fake{})
	for body, want := range map[string]int{
		`[{"operationType":"Upsert","resourceBody":{"id":"a","ifMatch":"x"}}]`: http.StatusOK,
		`[{"operationType":"Upsert","ifMatch":"x","resourceBody":{"id":"a"}}]`: http.StatusNotImplemented,
	} {
		r := write(t.Context(), http.MethodPost, docs, "", body)
		r.Header.Set("x-ms-cosmos-is-batch-request", "True")
		if a := answer(p, r); a.Code != want {
			t.Errorf("%s: %d %s", body, a.Code, a.Body)
		}
	}
}

// A write goes on when its caller gives up, and nobody sees it half done.
func TestProxyHoldsItsLock(t *testing.T) {
	t.Parallel()
	half, whole := make(chan struct{}, 1), make(chan struct{})
	finish := sync.OnceFunc(func() { close(whole) })
	defer finish()
	f := &fake{between: func() {}}
	p := startFake(t, f)
	if a := answer(p, upsert(t.Context(), "a", "")); a.Code != http.StatusCreated {
		t.Fatal(a)
	}
	f.between = func() {
		half <- struct{}{}
		<-whole
	}
	server := httptest.NewServer(p) // a connection that goes away may end a write, too
	t.Cleanup(server.Close)
	ctx, giveUp := context.WithCancel(t.Context())
	gaveUp, saw := make(chan error, 1), make(chan *httptest.ResponseRecorder, 1)
	r := upsert(ctx, "a", "")
	r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", server.Listener.Addr().String()
	go func() {
		_, err := http.DefaultClient.Do(r)
		gaveUp <- err
	}()
	<-half
	giveUp()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Fatalf("the write: %v", err)
	}
	go func() { saw <- answer(p, read(t.Context(), "a")) }()
	select {
	case a := <-saw:
		t.Fatalf("a read saw a write half done: %d %s", a.Code, a.Body)
	case <-time.After(500 * time.Millisecond): // as long as a wrong one would have
	}
	finish()
	if a := <-saw; !strings.Contains(a.Body.String(), "e2") {
		t.Errorf("saw: %d %s", a.Code, a.Body)
	}
}

// The same with Cosmium, whose two steps are fast: a document that impatient
// writers replace is always there.
func TestProxyHidesTheSteps(t *testing.T) {
	t.Parallel()
	p := startCosmium(t)
	if a := answer(p, upsert(t.Context(), "a", "")); a.Code != http.StatusCreated {
		t.Fatal(a)
	}
	var done atomic.Bool
	var writers, readers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Microsecond)
				if a := answer(p, upsert(ctx, "a", "")); a.Code != http.StatusCreated {
					t.Errorf("a write: %d %s", a.Code, a.Body)
				}
				cancel()
			}
		})
	}
	for range 16 {
		readers.Go(func() {
			for !done.Load() {
				if a := answer(p, read(t.Context(), "a")); a.Code != http.StatusOK {
					t.Errorf("a read: %d %s", a.Code, a.Body)
					return
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
}

// The account that a client reads leads nowhere else.
func TestProxyStaysBetween(t *testing.T) {
	a := answer(startFake(t, &fake{}), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if a.Code != http.StatusOK || strings.Contains(a.Body.String(), "Endpoint") || !json.Valid(a.Body.Bytes()) {
		t.Errorf("got %d %s", a.Code, a.Body)
	}
}
