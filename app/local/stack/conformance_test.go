package stack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"allregions/app/notification"
	"allregions/app/notification/conformance"
	"allregions/app/sidecar"
)

// One of so many cases of the crash matrix runs on a real sidecar: near two hundred. It is
// a prime, so that each kind of failure is among them.
const stride = 97

// The crash matrix on what the real sidecar stores, in both stores. Reminders,
// topic and clock are fakes in it, so that a deadline takes no time.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"SQLite": {}, "Cosmos": {Cosmos: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t, o)
			t.Run("two replicas", func(t *testing.T) { testTwoReplicas(t, s.Dapr()) })
			t.Run("together", func(t *testing.T) { testTogether(t, s) })
			cases := conformance.Run(t, &conformance.Backend{
				Process:   func() notification.Store { return s.Dapr().Actors("Notification", "statestore") },
				Documents: s.Dapr().Documents("images"),
				Conflict:  sidecar.ErrConflict,
				// Dapr gives state only to an actor that is active.
				Activate: func(id string) error {
					request(t, http.MethodGet, s.URL+"/notifications/"+id, s.Key)
					return nil
				},
			}, stride)
			if cases < 50 {
				t.Errorf("only %d cases", cases)
			}
		})
	}
}

// Two replicas that both take an actor for theirs: what one has saved, the other
// cannot undo that has not seen it.
func testTwoReplicas(t *testing.T, dapr *sidecar.Client) {
	a, b := dapr.Actors("Thing", "statestore"), dapr.Actors("Thing", "statestore")
	load := func(x *sidecar.Actors, want string) {
		t.Helper()
		if got, err := x.Load(t.Context(), "shared"); err != nil || string(got) != want {
			t.Fatalf("loaded %s, %v; want %s", got, err, want)
		}
	}
	save := func(x *sidecar.Actors, state string, want error) {
		t.Helper()
		if err := x.Save(t.Context(), "shared", []byte(state)); !errors.Is(err, want) {
			t.Fatalf("save %s: %v, want %v", state, err, want)
		}
	}
	load(a, "")
	load(b, "")
	save(a, `{"n":1}`, nil)
	save(b, `{"n":2}`, sidecar.ErrConflict) // the first of all
	save(a, `{"n":3}`, nil)                 // one turn saves twice
	load(b, `{"n":3}`)
	save(a, `{"n":4}`, nil)
	save(b, `{"n":5}`, sidecar.ErrConflict)
	save(b, `{"n":6}`, sidecar.ErrConflict)
	load(b, `{"n":4}`)
	save(b, `{"n":7}`, nil)
	save(a, `{"n":8}`, sidecar.ErrConflict) // between two saves of one turn
	load(a, `{"n":7}`)

	// Done but reported as lost, and sent again by somebody on the way.
	load(b, `{"n":7}`)
	save(b, `{"n":9}`, nil)
	save(a, `{"n":9}`, nil)
	save(a, `{"n":10}`, nil)

	ctx, end := context.WithCancel(t.Context())
	if _, err := b.Load(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	end()
	eventually(t, soon, "the end of a turn ends what it has loaded", func() bool {
		return b.Save(t.Context(), "other", []byte("1")) != nil
	})
}

// Calls that wait for one another go to SQLite together. In every store each has
// its own answer: a write that may not be done does not take the others with it.
func testTogether(t *testing.T, s *Stack) {
	const n = 60
	states := func() *sidecar.Actors { return s.Dapr().Actors("Thing", "statestore") }
	old := make([]*sidecar.Actors, 3) // have seen that there is nothing
	for i := range old {
		old[i] = states()
		if _, err := old[i].Load(t.Context(), fmt.Sprint("crowd", i)); err != nil {
			t.Fatal(err)
		}
	}
	// One field, because Cosmos DB keeps several in any order.
	written := func(i, round int) string { return fmt.Sprintf(`{"n":"%d of round %d"}`, i, round) }
	before := scrape(t, s)
	var wg sync.WaitGroup
	all := func(do func(i int) error) {
		t.Helper()
		for i := range n {
			wg.Go(func() {
				if err := do(i); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
	}
	for round := range 3 {
		all(func(i int) error {
			id, actors := fmt.Sprint("crowd", i), states()
			want := ""
			if round > 0 {
				want = written(i, round-1)
			}
			if got, err := actors.Load(t.Context(), id); err != nil || string(got) != want {
				return fmt.Errorf("loaded %s, %v; want %s", got, err, want)
			}
			return actors.Save(t.Context(), id, []byte(written(i, round)))
		})
	}
	if calls := scrape(t, s).since(before).states(); !s.options.Cosmos && (calls == 0 || calls > 3*n) {
		t.Errorf("%d calls of the stores for %d reads and writes", calls, 6*n)
	}

	// Three of them overwrite what they have not seen, and fail alone.
	all(func(i int) error {
		id := fmt.Sprint("crowd", i)
		if i < len(old) {
			if err := old[i].Save(t.Context(), id, []byte(`{}`)); !errors.Is(err, sidecar.ErrConflict) {
				return fmt.Errorf("saved over the others: %v", err)
			}
			return nil
		}
		actors := states()
		if _, err := actors.Load(t.Context(), id); err != nil {
			return err
		}
		return actors.Save(t.Context(), id, []byte(`{"last":true}`))
	})
	for i := range n {
		want := `{"last":true}`
		if i < len(old) {
			want = written(i, 2)
		}
		if got, err := states().Load(t.Context(), fmt.Sprint("crowd", i)); err != nil || string(got) != want {
			t.Errorf("%d: %s, %v; want %s", i, got, err, want)
		}
	}

	// One document that some want to change: each change has seen the one before.
	docs := s.Dapr().Documents("images")
	const some = 4 // none loses more often than Update tries
	for range some {
		wg.Go(func() {
			if err := docs.Update(t.Context(), "crowd", func(old []byte) ([]byte, bool, error) { return append([]byte("1"), old...), true, nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if doc, err := docs.Get(t.Context(), "crowd"); err != nil || len(doc) != some {
		t.Errorf("changed %d times: %s, %v", some, doc, err)
	}
}
