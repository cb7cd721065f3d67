package fake

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

const id = "n1"

var now = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)

func load(t *testing.T, from interface {
	Load(context.Context, string) ([]byte, error)
}, want string) {
	t.Helper()
	if got, err := from.Load(t.Context(), id); err != nil || string(got) != want {
		t.Errorf("loaded %q, %v; want %q", got, err, want)
	}
}

func save(t *testing.T, in interface {
	Save(context.Context, string, []byte) error
}, state string, want error) {
	t.Helper()
	if err := in.Save(t.Context(), id, []byte(state)); !errors.Is(err, want) {
		t.Errorf("save %s: %v, want %v", state, err, want)
	}
}

// A save replaces what its process has loaded, and not what is there.
func TestProcesses(t *testing.T) {
	w := New(now)
	a, b := w.Process(), w.Process()
	save(t, a, "0", ErrConflict) // it has loaded nothing
	load(t, a, "")
	load(t, b, "")
	save(t, a, "1", nil)
	save(t, b, "2", ErrConflict)
	save(t, a, "3", nil) // one turn saves twice
	load(t, b, "3")
	save(t, b, "3", nil) // the same, and a version of its own
	save(t, a, "4", ErrConflict)
	load(t, w, "3")
	if w.Refused != 3 || w.Failed != 0 {
		t.Errorf("%d refused, %d failed", w.Refused, w.Failed)
	}
}

func TestLateSave(t *testing.T) {
	for _, other := range []bool{false, true} {
		w := New(now)
		w.Delay = time.Second
		a, b := w.Process(), w.Process()
		load(t, a, "")
		w.Fail = At(0, Late)
		save(t, a, "late", Err)
		want := "late"
		if other {
			load(t, b, "")
			save(t, b, "other", nil)
			want = "other"
		}
		w.Pass(time.Minute, id, nil)
		load(t, w, want)
	}
}

func TestReadsFail(t *testing.T) {
	w := New(now)
	a, b := w.Process(), w.Process()
	load(t, a, "")
	save(t, a, "1", nil)
	save(t, a, "2", nil)
	w.FailRead = At(1, Stale)
	load(t, b, "1")
	save(t, b, "3", ErrConflict)
	w.FailRead = At(2, Lost)
	if state, err := b.Load(t.Context(), id); state != nil || !errors.Is(err, Err) {
		t.Errorf("%s, %v", state, err)
	}
	save(t, b, "3", ErrConflict)
	w.Now = w.Now.Add(MaxStale + 1)
	w.FailRead = At(3, Stale)
	load(t, b, "2")
	save(t, b, "3", nil)
}

// Between the read and the write of a change of the index another turn may change it.
func TestTurnsBetween(t *testing.T) {
	w := New(now)
	add := func(c byte) {
		if err := w.Update(t.Context(), "k", func(old []byte) ([]byte, bool, error) { return append(slices.Clone(old), c), true, nil }); err != nil {
			t.Error(err)
		}
	}
	w.Before = func(n int, _ string) {
		if n == 1 {
			add('b')
		}
	}
	add('a')
	if got := string(w.Documents["k"]); got != "ba" || len(w.Calls) != 6 {
		t.Errorf("%s after %q", got, w.Calls)
	}
	w.Before = func(n int, _ string) {
		if n == 6 {
			w.Documents["new"] = []byte("b")
		}
	}
	if created, err := w.Create(t.Context(), "new", []byte("a")); created || err != nil || string(w.Documents["new"]) != "b" {
		t.Errorf("%v, %v, %s", created, err, w.Documents["new"])
	}
}
