package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
)

func letter(n int) DeadLetter {
	return DeadLetter{At: t0.Add(time.Duration(n) * time.Second), Event: fmt.Sprintf("n%d/eastus", n), Reason: "givenUp"}
}

func add(t *testing.T, d *DeadLetters, letters ...DeadLetter) DeadSummary {
	t.Helper()
	for _, l := range letters {
		if err := d.Add(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	s, err := d.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDeadLettersAreCounted(t *testing.T) {
	d := &DeadLetters{Records: fake.New(t0)}
	if s := add(t, d); s.Count != 0 || s.Last != nil {
		t.Errorf("at first: %+v", s)
	}
	if s := add(t, d, letter(1), letter(2), letter(1), letter(2)); s.Count != 2 || *s.Last != letter(2) {
		t.Errorf("of two, each twice: %d, %+v", s.Count, s.Last)
	}
	// What is remembered has a bound, and the count has none.
	for n := range 2 * deadKnown {
		add(t, d, letter(n))
	}
	if s := add(t, d); s.Count != 2*deadKnown || *s.Last != letter(2*deadKnown-1) {
		t.Errorf("got %d, %+v", s.Count, s.Last)
	}
	long := letter(0)
	long.Event, long.Reason = strings.Repeat("x", 1<<16), strings.Repeat("y", 1<<16)
	before := add(t, d).Count
	if s := add(t, d, long, long); s.Count != before+1 || len(s.Last.Event) != deadText || len(s.Last.Reason) != deadText {
		t.Errorf("got %d after %d, and %d bytes", s.Count, before, len(s.Last.Event))
	}
	data, _, err := d.Records.Load(t.Context(), deadKey)
	if err != nil || len(data) > 8<<10 {
		t.Errorf("the record has %d bytes, %v", len(data), err)
	}
}

// Of two replicas that count at the same time one has to try again, and a newer
// version's fields stay.
func TestDeadLettersOfTwoReplicas(t *testing.T) {
	w := fake.New(t0)
	d := &DeadLetters{Records: w}
	w.Records[deadKey] = []byte(`{"format":2,"count":7,"last":{"at":"2026-01-01T00:00:00Z","event":"a","reason":"b"},"counted":[],"added":{"later":1}}`)
	others := 0
	w.Before = func(_ int, what string) {
		if strings.HasPrefix(what, "save") && others == 0 {
			others++
			add(t, d, letter(others))
		}
	}
	if err := d.Add(t.Context(), letter(10)); !errors.Is(err, actor.ErrConflict) {
		t.Errorf("got %v, and another replica was faster", err)
	}
	if s := add(t, d, letter(10)); others != 1 || s.Count != 9 || *s.Last != letter(10) {
		t.Errorf("after another one: got %d, %+v, want 9", s.Count, s.Last)
	}
	var kept struct{ Added struct{ Later int } }
	if err := json.Unmarshal(w.Records[deadKey], &kept); err != nil || kept.Added.Later != 1 {
		t.Errorf("a field is lost: %s", w.Records[deadKey])
	}
	w.Records[deadKey] = []byte("[]")
	if _, err := d.Summary(t.Context()); err == nil {
		t.Error("what is no record is none")
	}
}
