package sidecar_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/cosmos"
	"allregions/app/local/stack"
	"allregions/app/sidecar"
)

// requests are what Cosmos DB was asked, by kind.
type requests struct {
	mu    sync.Mutex
	kinds map[string]int
	named []string // a consistency level
}

func (r *requests) see(req *http.Request) {
	kind := "read"
	switch header := req.Header.Get; {
	case header("x-ms-documentdb-query") != "":
		kind = "bulk read"
	case header("x-ms-cosmos-is-batch-request") != "":
		kind = "transaction"
	case cosmos.IsWrite(req) && header("If-Match") != "":
		kind = "write with an etag"
	case cosmos.IsWrite(req):
		kind = "write without an etag"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[kind]++
	if level := req.Header.Values("x-ms-consistency-level"); len(level) > 0 {
		r.named = append(r.named, fmt.Sprintf("%s: %q", kind, level))
	}
}

// wait waits for a request of the kind.
func (r *requests) wait(t *testing.T, kind string) {
	t.Helper()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.kinds[kind]
	}
	for deadline := time.Now().Add(30 * time.Second); count() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("no %s", kind)
			return
		}
	}
}

// No request of Dapr's component names a consistency level: the account's holds.
// The service deletes nothing.
func TestConsistency(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
	regions := []string{"westeurope", "eastus"}
	seen := &requests{kinds: map[string]int{}}
	s, err := stack.Start(t.Context(), stack.Options{Regions: regions, Key: "k", Cosmos: true, Front: func(proxy *cosmos.Proxy) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.see(r)
			proxy.ServeHTTP(w, r)
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill() // what is under way does not matter
	seen.mu.Lock()
	clear(seen.kinds) // those of the start
	seen.mu.Unlock()

	// What the service does.
	registry := acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
	push := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		if code, body, err := registry.Fire(t.Context(), push, region); err != nil || code != http.StatusAccepted {
			t.Fatalf("%s: %d %s, %v", region, code, body, err)
		}
	}
	seen.wait(t, "read")
	seen.wait(t, "write with an etag")

	// What it would do if it took Cosmos DB for SQLite: calls that come at the same
	// time go together. What comes of them does not matter, the emulator does not
	// understand all of it.
	dapr, err := sidecar.Dial(s.Replicas[0].Sidecar.GRPCPort, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dapr.Close()
	records := dapr.Records("images", "")
	records.Together()
	ctx, end := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for n := range 4 {
		key := fmt.Sprint("a", n)
		calls.Go(func() {
			for ctx.Err() == nil {
				records.Load(ctx, key)
			}
		})
		calls.Go(func() {
			for ctx.Err() == nil {
				records.Save(ctx, key, []byte(`{"n":1}`), "")
			}
		})
	}
	seen.wait(t, "bulk read")
	seen.wait(t, "transaction")
	end()
	calls.Wait()

	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.named) > 0 {
		t.Errorf("%d requests name a level, such as a %s", len(seen.named), seen.named[0])
	}
}
