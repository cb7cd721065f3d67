package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dapr "github.com/dapr/go-sdk/client"
)

// What comes while a call runs goes together after it, in order, and without
// those who no longer wait. Then nothing runs: the bubble would not end.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran []string
		g := newGroup(func(_ context.Context, calls []*call[*int]) {
			var vs []int
			for _, c := range calls {
				vs = append(vs, *c.v)
			}
			time.Sleep(time.Second) // a slow store, in the bubble's time
			ran = append(ran, fmt.Sprint(vs))
			for _, c := range calls {
				var err error
				if *c.v == 3 {
					err = fmt.Errorf("not %d", *c.v)
				}
				*c.v *= 10
				c.done <- err
			}
		})
		do := func(ctx context.Context, v, want int) {
			got := v
			err := g.do(ctx, &got)
			if got != want || (err != nil) != (v == 3 || v == 4) {
				t.Errorf("%d: %d, %v", v, got, err)
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		for i := range 6 {
			go func() {
				if i == 4 {
					do(impatient, 4, 4)
				} else {
					do(t.Context(), i, i*10)
				}
			}()
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		do(t.Context(), 7, 70)
		if want := []string{"[0]", "[1 2 3 5]", "[7]"}; !slices.Equal(ran, want) {
			t.Errorf("ran %q, want %q", ran, want)
		}
	})
}

// No store is asked for more at a time than it was tried with.
func TestGroupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		g := newGroup(func(_ context.Context, calls []*call[int]) {
			sizes = append(sizes, len(calls))
			time.Sleep(time.Second)
			for _, c := range calls {
				c.done <- nil
			}
		})
		var all sync.WaitGroup
		for i := range 2*atMost + 1 {
			all.Go(func() { g.do(t.Context(), i) })
		}
		all.Wait()
		total := 0
		for _, n := range sizes {
			if total += n; n > atMost {
				t.Errorf("%d at a time", n)
			}
		}
		if total != 2*atMost+1 || len(sizes) > 4 {
			t.Errorf("ran %v", sizes)
		}
	})
}

// What is read together answers each call with its own record, also two with one key.
func TestReadAll(t *testing.T) {
	k, r := newKeeper("state.sqlite")
	k.put("a", `{"n":1}`)
	k.put("b", `{"n":2}`)
	var calls []*call[*dapr.StateItem]
	for _, key := range []string{"b", "a", "none", "b"} {
		calls = append(calls, &call[*dapr.StateItem]{&dapr.StateItem{Key: key}, make(chan error, 1)})
	}
	r.store.readAll(t.Context(), calls)
	for i, want := range []string{`{"n":2} e2`, `{"n":1} e1`, " ", `{"n":2} e2`} {
		if err := <-calls[i].done; err != nil || string(calls[i].v.Value)+" "+calls[i].v.Etag != want {
			t.Errorf("%d: got %s %s, %v; want %s", i, calls[i].v.Value, calls[i].v.Etag, err, want)
		}
	}
	k.readErr = errors.New("away")
	r.store.readAll(t.Context(), calls)
	for i, c := range calls {
		if err := <-c.done; !errors.Is(err, k.readErr) {
			t.Errorf("%d: got %v, want %v", i, err, k.readErr)
		}
	}
}
