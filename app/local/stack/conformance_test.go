package stack

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"allregions/app/notification/conformance"
	"allregions/app/sidecar"
)

// One of so many cases of the crash matrix runs on a real sidecar: near a hundred. It is
// a prime, so that each kind of failure is among them.
const stride = 97

// The crash matrix on what the real sidecar stores, in both stores. Reminders,
// topic and clock are fakes in it, so that a deadline takes no time.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"SQLite": {}, "Cosmos": {Cosmos: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t, o)
			if !o.Cosmos { // its emulator does not compare etags; that of package chaos does
				t.Run("two replicas", func(t *testing.T) { testTwoReplicas(t, s.Dapr()) })
			}
			cases := conformance.Run(t, &conformance.Backend{
				Store:     s.Dapr().Actors("Notification", "statestore"),
				Documents: s.Dapr().Documents("images"),
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
