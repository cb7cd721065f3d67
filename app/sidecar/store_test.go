package sidecar

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What comes while a call runs goes together after it, in order, and without
// those who no longer wait.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran []string
		var g group[int]
		g.run = func(calls []*call[int]) {
			var vs []int
			for _, c := range calls {
				vs = append(vs, c.v)
				if c.v == 3 {
					c.err = fmt.Errorf("not %d", c.v)
				}
				c.v *= 10
			}
			time.Sleep(time.Second) // a slow store, in the bubble's time
			ran = append(ran, fmt.Sprint(vs))
		}
		do := func(ctx context.Context, v, want int) {
			got, err := g.do(ctx, v)
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
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.running || len(g.waiting) != 0 {
			t.Error("it does not rest")
		}
	})
}

// No store is asked for more at a time than it was tried with.
func TestGroupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		var g group[int]
		g.run = func(calls []*call[int]) {
			sizes = append(sizes, len(calls))
			time.Sleep(time.Second)
		}
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
