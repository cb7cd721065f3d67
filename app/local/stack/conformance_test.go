package stack

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"allregions/app/actor"
	"allregions/app/notification/conformance"
	"allregions/app/sidecar"
)

// One of so many cases of the crash matrix runs on a real sidecar: a few hundred. It is
// a prime, so that each kind of failure is among them.
const stride = 97

// The crash matrix on what the real sidecar stores, in both stores. Reminders,
// topic and clock are fakes in it, so that a deadline takes no time.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"SQLite": {}, "Cosmos": {Cosmos: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t, o)
			t.Run("two replicas", func(t *testing.T) { testTwoReplicas(t, s.dapr) })
			t.Run("together", func(t *testing.T) { testTogether(t, s) })
			cases := conformance.Run(t, &conformance.Backend{Records: s.dapr.Records("images", "")}, stride)
			if cases < 50 {
				t.Errorf("only %d cases", cases)
			}
		})
	}
}

// What one replica has saved, another one cannot undo that has not seen it: a save
// replaces the version that it names, in both components.
func testTwoReplicas(t *testing.T, dapr *sidecar.Client) {
	for _, r := range []*sidecar.Records{dapr.Records("images", ""), dapr.Records("statestore", "Thing-")} {
		load := func(want string) (version string) {
			t.Helper()
			got, version, err := r.Load(t.Context(), "shared")
			if err != nil || string(got) != want || (version == "") != (want == "") {
				t.Fatalf("loaded %s of version %q, %v; want %s", got, version, err, want)
			}
			return version
		}
		save := func(value, version string, want error) {
			t.Helper()
			if err := r.Save(t.Context(), "shared", []byte(value), version); !errors.Is(err, want) {
				t.Fatalf("save %s over %q: %v, want %v", value, version, err, want)
			}
		}
		none := load("")
		save(`{"n":1}`, none, nil)
		save(`{"n":2}`, none, actor.ErrConflict)
		one := load(`{"n":1}`)
		save(`{"n":3}`, one, nil)
		three := load(`{"n":3}`)
		// Neither what was there before, nor that there was nothing, is there any more,
		// whatever was loaded since.
		save(`{"n":4}`, one, actor.ErrConflict)
		save(`{"n":4}`, none, actor.ErrConflict)
		load(`{"n":3}`)
		save(`{"n":4}`, three, nil)
		save(`{"n":5}`, three, actor.ErrConflict)
		load(`{"n":4}`)

		// The same value again is another version.
		four := load(`{"n":4}`)
		save(`{"n":4}`, four, nil)
		if again := load(`{"n":4}`); again == four {
			t.Errorf("two saves have the version %q", again)
		}

		// Done but reported as lost, and sent again by somebody on the way.
		save(`{"n":4}`, four, nil)
		save(`{"n":6}`, load(`{"n":4}`), nil)
		save(`{"n":4}`, four, actor.ErrConflict)
		load(`{"n":6}`)
	}
}

// Calls that wait for one another go to SQLite together. In every store each has
// its own answer: a write that may not be done does not take the others with it.
func testTogether(t *testing.T, s *Stack) {
	const n = 60
	records := s.dapr.Records("statestore", "crowd-")
	// One field, because Cosmos DB keeps several in any order.
	written := func(i, round int) string { return fmt.Sprintf(`{"n":"%d of round %d"}`, i, round) }
	key := func(i int) string { return fmt.Sprint("k", i) }
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
	before := scrape(t, s)
	versions := make([]string, n)
	for round := range 3 {
		all(func(i int) error {
			want := ""
			if round > 0 {
				want = written(i, round-1)
			}
			got, version, err := records.Load(t.Context(), key(i))
			if err != nil || string(got) != want || round > 0 && version == versions[i] {
				return fmt.Errorf("loaded %s of version %q, %v; want %s", got, version, err, want)
			}
			versions[i] = version
			return records.Save(t.Context(), key(i), []byte(written(i, round)), version)
		})
	}
	if calls := scrape(t, s).since(before).states(); !s.options.Cosmos && (calls == 0 || calls > 3*n) {
		t.Errorf("%d calls of the stores for %d reads and writes", calls, 6*n)
	}

	// Some of them would replace what is not there any more, and fail alone.
	const outdated = 3
	all(func(i int) error {
		if i < outdated {
			if err := records.Save(t.Context(), key(i), []byte(`{}`), versions[i]); !errors.Is(err, actor.ErrConflict) {
				return fmt.Errorf("saved over the others: %v", err)
			}
			return nil
		}
		_, version, err := records.Load(t.Context(), key(i))
		if err != nil {
			return err
		}
		return records.Save(t.Context(), key(i), []byte(`{"last":true}`), version)
	})
	for i := range n {
		want := `{"last":true}`
		if i < outdated {
			want = written(i, 2)
		}
		if got, _, err := records.Load(t.Context(), key(i)); err != nil || string(got) != want {
			t.Errorf("%d: %s, %v; want %s", i, got, err, want)
		}
	}

	testOneKey(t, records)
}

// testOneKey has many replace one record, each with a value of its own: none of them
// replaces what it has not seen.
func testOneKey(t *testing.T, records *sidecar.Records) {
	const writers = 8
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for {
				old, version, err := records.Load(t.Context(), "one")
				if err == nil {
					err = records.Save(t.Context(), "one", fmt.Appendf(nil, "%q", strings.Trim(string(old), `"`)+strconv.Itoa(i)), version)
				}
				if err == nil {
					return
				}
				if !errors.Is(err, actor.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	value, _, err := records.Load(t.Context(), "one")
	for i := range writers {
		if err != nil || len(value) != writers+2 || strings.Count(string(value), strconv.Itoa(i)) != 1 {
			t.Fatalf("replaced by %d: %s, %v", writers, value, err)
		}
	}
}
