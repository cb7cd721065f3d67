package replication

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	t0   = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)
	plan = Plan{Expected: []Region{"westeurope", "eastus", "japaneast"}, Timeout: 2 * time.Minute}
)

func event(r Region) Event {
	return Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1", Digest: "sha256:aa", Region: r, Time: t0.Add(-time.Second)}
}

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

func TestParseRegion(t *testing.T) {
	for in, want := range map[string]Region{
		"westeurope": "westeurope", "West Europe": "westeurope", "WEST-EUROPE": "westeurope",
		" east us 2 ": "eastus2", "": "", " - ": "",
	} {
		if got := ParseRegion(in); got != want {
			t.Errorf("ParseRegion(%q) = %q, want %q", in, got, want)
		}
	}
}

// step is one line of a history: an event, or (with an empty region) the reminder.
type step struct {
	at     int // seconds after the first event
	region Region
	digest string // "" for the usual one

	reason  Reason
	changed bool
	status  Status
	decided []Status
	missing []Region
}

func TestHistories(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"all in, in time", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{5, "japaneast", "", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{9, "westeurope", "", Completed, true, Replicated, []Status{Replicated}, nil},
			{120, "", "", Settled, false, Replicated, nil, nil},
		}},
		{"exact duplicates", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{1, "eastus", "", Duplicate, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{5, "japaneast", "", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{9, "westeurope", "", Completed, true, Replicated, []Status{Replicated}, nil},
			{10, "eastus", "", Duplicate, false, Replicated, nil, nil},
		}},
		{"timed out, then recovered", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{119, "", "", Waiting, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{120, "", "", Expired, true, TimedOut, []Status{TimedOut}, []Region{"westeurope", "japaneast"}},
			{150, "", "", Settled, false, TimedOut, nil, []Region{"westeurope", "japaneast"}},
			{200, "japaneast", "", Late, true, TimedOut, nil, []Region{"westeurope"}},
			{210, "japaneast", "", Duplicate, false, TimedOut, nil, []Region{"westeurope"}},
			{300, "westeurope", "", CameAfter, true, Recovered, []Status{Recovered}, nil},
			{301, "westeurope", "", Duplicate, false, Recovered, nil, nil},
			{302, "", "", Settled, false, Recovered, nil, nil},
		}},
		{"the reminder never fired: the late event decides both", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{1, "japaneast", "", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{500, "westeurope", "", CameAfter, true, Recovered, []Status{TimedOut, Recovered}, nil},
		}},
		{"the reminder never fired: a duplicate decides", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{120, "eastus", "", Duplicate, true, TimedOut, []Status{TimedOut}, []Region{"westeurope", "japaneast"}},
		}},
		{"another digest in one region", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{1, "japaneast", "sha256:bb", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{2, "japaneast", "sha256:bb", Duplicate, false, Collecting, nil, []Region{"westeurope"}},
			{3, "westeurope", "", Completed, true, Replicated, []Status{Replicated}, nil},
		}},
		{"the same region twice, with different content", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{1, "eastus", "sha256:bb", Differs, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{2, "eastus", "sha256:bb", Differs, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
		}},
		{"a region nobody expects", []step{
			{0, "mars", "", Refused, false, Collecting, nil, nil},
			{1, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{2, "mars", "", Refused, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
		}},
		{"the clock is set back", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{-100, "japaneast", "", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{-50, "westeurope", "", Completed, true, Replicated, []Status{Replicated}, nil},
		}},
		{"the reminder of nothing", []step{
			{0, "", "", Unknown, false, Collecting, nil, nil},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			for i, st := range tt.steps {
				before := fmt.Sprintf("%+v", s)
				old := s
				var d Decision
				if st.region == "" {
					s, d = Tick(s, at(st.at))
				} else {
					e := event(st.region)
					if st.digest != "" {
						e.Digest = st.digest
					}
					s, d = Add(s, e, plan, at(st.at))
				}
				if after := fmt.Sprintf("%+v", old); after != before {
					t.Fatalf("step %d changed the state it was given:\n%s\n%s", i, before, after)
				}
				if got := fmt.Sprintf("%+v", s); (got != before) != d.Changed {
					t.Errorf("step %d says changed=%v, but\n%s\n%s", i, d.Changed, before, got)
				}
				var decided []Status
				for _, o := range d.New {
					decided = append(decided, o.Status)
				}
				if d.Reason != st.reason || d.Changed != st.changed || s.Status() != st.status ||
					!slices.Equal(decided, st.decided) || !slices.Equal(d.Missing, st.missing) {
					t.Errorf("step %d: %v changed=%v status=%s decided=%v, want %+v", i, d, d.Changed, s.Status(), decided, st)
				}
				if s.Exists() {
					if err := s.Check(); err != nil {
						t.Errorf("step %d: %v", i, err)
					}
				}
			}
		})
	}
}

// An event that had to wait is judged by when it came.
func TestEventsThatHadToWait(t *testing.T) {
	received := func(r Region, seconds int) Event {
		e := event(r)
		e.ReceivedAt, e.Via = at(seconds), ViaQueue
		return e
	}
	// All three came in time, and reach the actor only after the deadline.
	var s State
	var d Decision
	for i, e := range []Event{received("eastus", 0), received("westeurope", 9), received("japaneast", 5)} {
		s, d = Add(s, e, plan, at(500+i))
	}
	if s.Status() != Replicated || d.Reason != Completed || s.StartedAt != at(0) || s.Deadline != at(120) || s.Outcomes[0].At != at(9) {
		t.Errorf("%s, %v: %+v", s.Status(), d, s)
	}
	if a := s.Arrivals[1]; a.Via != ViaQueue || a.ReceivedAt != at(9) || s.First.Via != ViaWebhook || !s.First.ReceivedAt.IsZero() {
		t.Errorf("%+v", s)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}

	// What is decided stays decided.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, _ = Add(s, event("westeurope"), plan, at(1))
	s, _ = Tick(s, at(121))
	s, d = Add(s, received("japaneast", 100), plan, at(130))
	if s.Status() != Recovered || d.Reason != CameAfter || s.Arrivals[2].ReceivedAt != at(121) {
		t.Errorf("%s, %v: %+v", s.Status(), d, s)
	}

	// One that came too late is late, and one from the future came now.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, d = Add(s, received("westeurope", 125), plan, at(130))
	if s.Status() != TimedOut || d.Reason != Late {
		t.Errorf("%s, %v", s.Status(), d)
	}
	s, _ = Add(State{}, received("eastus", 900), plan, at(3))
	if s.StartedAt != at(3) {
		t.Errorf("started at %v", s.StartedAt)
	}
}

func TestMismatchIsKept(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	other := event("japaneast")
	other.Tag = "v2"
	s, _ = Add(s, other, plan, at(1))
	if !s.Mismatch || s.First.Tag != "v1" || s.Arrivals[1].Tag != "v2" {
		t.Errorf("a region with another tag: %+v", s)
	}
}

func TestOneRegionIsReplicatedAtOnce(t *testing.T) {
	s, d := Add(State{}, event("eastus"), Plan{Expected: []Region{"eastus"}, Timeout: time.Minute}, at(0))
	if d.Reason != Completed || s.Status() != Replicated || !s.NeedsReminder() {
		t.Errorf("%v, %+v", d, s)
	}
}

func TestOpenNotificationsKeepTheirPlan(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	today := Plan{Expected: []Region{"eastus", "northeurope"}, Timeout: time.Second}
	s, d := Add(s, event("northeurope"), today, at(1))
	if d.Reason != NotAwaited || d.Changed {
		t.Errorf("a region added since: %v", d)
	}
	s, d = Add(s, event("japaneast"), today, at(10))
	if d.Reason != Recorded || !s.Deadline.Equal(at(120)) {
		t.Errorf("a region removed since: %v, deadline %v", d, s.Deadline)
	}
}

// What is published about an outcome must not depend on when it is published.
func TestAsIsFrozen(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	s, d := Tick(s, at(120))
	timedOut := d.New[0]
	want := s.As(timedOut)
	s, _ = Add(s, event("japaneast"), plan, at(130))
	late := event("westeurope")
	late.Digest = "sha256:bb"
	s, d = Add(s, late, plan, at(140))
	got := s.As(timedOut)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("timedOut, published late:\n got %+v\nwant %+v", got, want)
	}
	if rec := s.As(d.New[0]); rec.Status() != Recovered || !rec.Mismatch || len(rec.Arrivals) != 3 {
		t.Errorf("recovered: %+v", rec)
	}
}

func TestNeedsReminder(t *testing.T) {
	if (State{}).NeedsReminder() {
		t.Error("nothing needs a reminder")
	}
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	s.Indexed = true
	if s = s.DocumentStored(); !s.NeedsReminder() {
		t.Error("collecting needs one")
	}
	s, d := Tick(s, at(120))
	s = s.DocumentStored()
	if !s.NeedsReminder() {
		t.Error("unpublished needs one")
	}
	if p := s.Published(d.New[0]); p.NeedsReminder() || len(s.Unpublished()) != 1 {
		t.Error("all done needs none, and Published must not change its receiver")
	}
	if s = s.Published(d.New[0]); s.NeedsReminder() {
		t.Error("all done needs none")
	}
	s.Indexed = false
	if !s.NeedsReminder() {
		t.Error("not indexed needs one")
	}
	s.Indexed = true
	s.Documented--
	if !s.NeedsReminder() {
		t.Error("undocumented needs one")
	}
}

func TestReminder(t *testing.T) {
	for timeout, first := range map[time.Duration]time.Duration{
		time.Second:             time.Second,
		1500 * time.Millisecond: 1500 * time.Millisecond,
		10 * time.Second:        10 * time.Second,
		30 * time.Second:        30 * time.Second,
		31 * time.Second:        time.Second,
		2 * time.Minute:         30 * time.Second,
		100 * time.Second:       10 * time.Second,
	} {
		s, _ := Add(State{}, event("eastus"), Plan{Expected: plan.Expected, Timeout: timeout}, at(0))
		if due := s.Reminder(at(0)); due.Sub(at(0)) != first {
			t.Errorf("%v: first after %v, want %v", timeout, due.Sub(at(0)), first)
		}
	}
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	s, _ = Tick(s, at(120))
	if wait := s.Reminder(at(121)).Sub(at(121)); wait <= 0 || wait > Period {
		t.Errorf("after the deadline: due in %v", wait)
	}
}

// For any timeout the first firing comes within a period, and one falls on the
// deadline.
func TestReminderHitsTheDeadline(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		timeout := time.Second + time.Duration(rng.Int64N(int64(30*24*time.Hour)))
		s, _ := Add(State{}, event("eastus"), Plan{Expected: plan.Expected, Timeout: timeout}, at(0))
		due := s.Reminder(at(0))
		if wait := due.Sub(at(0)); wait <= 0 || wait > Period {
			t.Fatalf("%v: first firing after %v", timeout, wait)
		}
		if s.Deadline.Sub(due)%Period != 0 {
			t.Fatalf("%v: first %v: no firing on the deadline", timeout, due)
		}
	}
}

// A reminder rests only if no crash can have left anything undone, and what it
// would repeat in time is known to have been repeated.
func TestRest(t *testing.T) {
	long := Plan{Expected: plan.Expected, Timeout: time.Hour}
	s, _ := Add(State{}, event("eastus"), long, at(0))
	done := s.DocumentStored()
	done.Indexed = true
	unindexed := done
	unindexed.Indexed = false
	decided, _ := Tick(done, at(3600))
	for _, tt := range []struct {
		name    string
		state   State
		now     int
		rest    bool
		resting bool
	}{
		{"before the first firing", done, 20, true, false},
		{"at the first firing, on a slow clock", done, 26, true, true},
		{"after it", done, 600, true, true},
		{"without a document", s, 600, false, true},
		{"without an index", unindexed, 600, false, true},
		{"close to the deadline", done, 3570, false, false},
		{"decided", decided, 3601, false, false},
	} {
		until, rest := tt.state.Rest(at(tt.now))
		if rest != tt.rest || !until.Equal(tt.state.Deadline) {
			t.Errorf("%s: rest until %v: %v", tt.name, until, rest)
		}
		if got := tt.state.Resting(at(tt.now)); got != tt.resting {
			t.Errorf("%s: resting: %v", tt.name, got)
		}
	}
}

func TestCheckFindsWhatCannotBe(t *testing.T) {
	good, _ := Add(State{}, event("eastus"), plan, at(0))
	good, _ = Tick(good, at(120))
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*State){
		"nothing":               func(s *State) { *s = State{} },
		"no regions":            func(s *State) { s.Expected = nil },
		"deadline before start": func(s *State) { s.Deadline = s.StartedAt },
		"no arrivals":           func(s *State) { s.Arrivals, s.Outcomes = nil, nil },
		"arrived twice":         func(s *State) { s.Arrivals = append(s.Arrivals, s.Arrivals[0]) },
		"unexpected":            func(s *State) { s.Arrivals = append(s.Arrivals, Arrival{Region: "mars"}) },
		"replicated too early":  func(s *State) { s.Outcomes[0].Status = Replicated },
		"two outcomes":          func(s *State) { s.Outcomes = append(s.Outcomes, s.Outcomes[0]) },
		"impossible count":      func(s *State) { s.Outcomes[0].Arrivals = 7 },
		"documents":             func(s *State) { s.Documented = 9 },
		"all in, no recovery": func(s *State) {
			s.Arrivals = append(s.Arrivals, Arrival{Region: "westeurope"}, Arrival{Region: "japaneast"})
		},
	} {
		s := good
		s.Arrivals, s.Outcomes, s.Expected = slices.Clone(s.Arrivals), slices.Clone(s.Outcomes), slices.Clone(s.Expected)
		spoil(&s)
		if s.Check() == nil {
			t.Errorf("%s: Check finds nothing wrong with %+v", name, s)
		}
	}
}

// Any order of any events and firings keeps the rules of Check, decides each
// outcome once, and never goes back.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var s State
		var decided []Status
		now := 0
		for range 12 {
			now += rng.IntN(60)
			var d Decision
			if rng.IntN(3) == 0 {
				s, d = Tick(s, at(now))
			} else {
				e := event(plan.Expected[rng.IntN(3)])
				if rng.IntN(2) == 0 {
					e.ReceivedAt = at(now - rng.IntN(100))
				}
				s, d = Add(s, e, plan, at(now))
			}
			for _, o := range d.New {
				decided = append(decided, o.Status)
			}
			if s.Exists() {
				if err := s.Check(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		switch fmt.Sprint(decided) {
		case "[]", "[replicated]", "[timedOut]", "[timedOut recovered]":
		default:
			t.Fatalf("seed %d decided %v", seed, decided)
		}
	}
}

// Clocks jump, by a year in either direction. No outcome is taken back, none
// comes twice, and the times of a notification stay in order.
func TestJumpingClocks(t *testing.T) {
	const year = 365 * 24 * 60 * 60
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s State
		for range 12 {
			now := at(rng.IntN(2*year) - year)
			before := s
			if rng.IntN(3) == 0 {
				s, _ = Tick(s, now)
			} else {
				e := event(plan.Expected[rng.IntN(3)])
				if rng.IntN(3) == 0 {
					e.ReceivedAt = at(rng.IntN(2*year) - year)
				}
				s, _ = Add(s, e, plan, now)
			}
			if len(s.Outcomes) < len(before.Outcomes) || !slices.Equal(s.Outcomes[:len(before.Outcomes)], before.Outcomes) {
				t.Fatalf("seed %d: %+v became %+v", seed, before.Outcomes, s.Outcomes)
			}
			if !s.Exists() {
				continue
			}
			if err := s.Check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			last := s.StartedAt
			for _, a := range s.Arrivals {
				if a.ReceivedAt.Before(last) {
					t.Fatalf("seed %d: %+v", seed, s.Arrivals)
				}
				last = a.ReceivedAt
			}
			for i, o := range s.Outcomes {
				if o.At.Before(s.Arrivals[o.Arrivals-1].ReceivedAt) || i > 0 && o.At.Before(s.Outcomes[i-1].At) {
					t.Fatalf("seed %d: %+v", seed, s)
				}
			}
		}
	}
}

// A push of three regions, from the first event to the outcome.
func BenchmarkAdd(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var s State
		for i, r := range plan.Expected {
			s, _ = Add(s, event(r), plan, at(i))
		}
		if s.Status() != Replicated {
			b.Fatal(s.Status())
		}
	}
}
