package fake

import (
	"errors"
	"testing"
	"time"

	"allregions/app/actor"
)

const id = "n1"

var now = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)

func load(t *testing.T, w *World, want string) (version string) {
	t.Helper()
	got, version, err := w.Load(t.Context(), id)
	if err != nil || string(got) != want {
		t.Errorf("loaded %q, %v; want %q", got, err, want)
	}
	return version
}

func save(t *testing.T, w *World, value, version string, want error) {
	t.Helper()
	if err := w.Save(t.Context(), id, []byte(value), version); !errors.Is(err, want) {
		t.Errorf("save %s: %v, want %v", value, err, want)
	}
}

// A save replaces the version that it names, and not what is there.
func TestVersions(t *testing.T) {
	w := New(now)
	none := load(t, w, "")
	save(t, w, "1", none, nil)
	save(t, w, "2", none, actor.ErrConflict)
	one := load(t, w, "1")
	save(t, w, "1", one, nil) // the same, and a version of its own
	save(t, w, "3", one, actor.ErrConflict)
	load(t, w, "1")
	if w.Refused != 2 || w.Failed != 0 {
		t.Errorf("%d refused, %d failed", w.Refused, w.Failed)
	}
}

// Dapr's scheduler may lose a reminder that is registered from inside its own firing.
func TestARegistrationInItsFiringIsLost(t *testing.T) {
	w := New(now)
	fired := 0
	for _, name := range []string{"same", "other"} {
		w.Register(t.Context(), id, name, now, time.Second)
	}
	w.Pass(time.Minute, id, func(name string) error {
		fired++
		if err := w.Register(t.Context(), id, "same", w.Now.Add(time.Second), time.Hour); err != nil {
			t.Error(err)
		}
		return w.Unregister(t.Context(), id, "other")
	})
	if fired != 2 || len(w.Reminders) != 0 {
		t.Errorf("fired %d times, left %v", fired, w.Reminders)
	}
}

func TestLateSave(t *testing.T) {
	for _, other := range []bool{false, true} {
		w := New(now)
		w.Delay = time.Second
		w.Fail = At(0, Late)
		save(t, w, "late", "", Err)
		want := "late"
		if other {
			save(t, w, "other", "", nil)
			want = "other"
		}
		w.Pass(time.Minute, id, nil)
		load(t, w, want)
	}
}

func TestReadsFail(t *testing.T) {
	w := New(now)
	save(t, w, "1", "", nil)
	save(t, w, "2", "1", nil)
	w.FailRead = At(0, Stale)
	save(t, w, "3", load(t, w, "1"), ErrConflict)
	w.FailRead = At(1, Lost)
	if value, _, err := w.Load(t.Context(), id); value != nil || !errors.Is(err, Err) {
		t.Errorf("%s, %v", value, err)
	}
	w.Now = w.Now.Add(MaxStale + 1)
	w.FailRead = At(2, Stale)
	save(t, w, "3", load(t, w, "2"), nil)
}

// Between two calls another turn may run.
func TestTurnsBetween(t *testing.T) {
	w := New(now)
	version := load(t, w, "")
	w.Before = func(n int, _ string) {
		if n == 1 {
			save(t, w, "other", version, nil)
		}
	}
	save(t, w, "mine", version, ErrConflict)
	if load(t, w, "other"); len(w.Calls) != 4 {
		t.Errorf("%q", w.Calls)
	}
}
