package replication

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	t0   = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)
	plan = Plan{Awaited: Awaited{Expected: []Region{"westeurope", "eastus", "japaneast"}}, Timeout: 2 * time.Minute}
)

func event(r Region) Event {
	return Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1", Digest: "sha256:aa", Region: r, Time: t0.Add(-time.Second)}
}

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

func TestLoginServer(t *testing.T) {
	for host, want := range map[string]string{
		"":                                              "",
		"contoso.azurecr.io":                            "contoso.azurecr.io",
		"Contoso.AzureCR.io":                            "contoso.azurecr.io",
		"contoso.westeurope.geo.azurecr.io":             "contoso.azurecr.io",
		"Contoso.WestEurope.GEO.azurecr.io":             "contoso.azurecr.io",
		"contoso-a1b2c3.eastus.geo.azurecr.io":          "contoso-a1b2c3.azurecr.io",
		"contoso.usgovvirginia.geo.azurecr.us":          "contoso.azurecr.us",
		"contoso.chinaeast2.geo.azurecr.cn":             "contoso.azurecr.cn",
		"contoso.westeurope.data.azurecr.io":            "contoso.westeurope.data.azurecr.io",
		"contoso.geo.azurecr.io":                        "contoso.geo.azurecr.io",
		"a.b.westeurope.geo.azurecr.io":                 "a.b.westeurope.geo.azurecr.io",
		"contoso.westeurope.geo.example.com":            "contoso.westeurope.geo.example.com",
		"contoso.westeurope.geo.azurecr.io.example.com": "contoso.westeurope.geo.azurecr.io.example.com",
		"registry.example.com:5000":                     "registry.example.com:5000",
	} {
		t.Run(host, func(t *testing.T) {
			if got := LoginServer(host); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

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
			{149, "", "", Waiting, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{150, "", "", Expired, true, TimedOut, []Status{TimedOut}, []Region{"westeurope", "japaneast"}},
			{180, "", "", Settled, false, TimedOut, nil, []Region{"westeurope", "japaneast"}},
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
		{"late events decide nothing until it is due", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{120, "japaneast", "", Late, true, Collecting, nil, []Region{"westeurope"}},
			{121, "eastus", "", Duplicate, false, Collecting, nil, []Region{"westeurope"}},
			{149, "", "", Waiting, false, Collecting, nil, []Region{"westeurope"}},
			{150, "", "", Expired, true, TimedOut, []Status{TimedOut}, []Region{"westeurope"}},
			{160, "westeurope", "", CameAfter, true, Recovered, []Status{Recovered}, nil},
		}},
		{"a late event completes the set before it is due", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{1, "japaneast", "", Recorded, true, Collecting, nil, []Region{"westeurope"}},
			{121, "westeurope", "", CameAfter, true, Recovered, []Status{TimedOut, Recovered}, nil},
			{150, "", "", Settled, false, Recovered, nil, nil},
		}},
		{"after the deadline a duplicate changes nothing", []step{
			{0, "eastus", "", Started, true, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{500, "eastus", "", Duplicate, false, Collecting, nil, []Region{"westeurope", "japaneast"}},
			{501, "", "", Expired, true, TimedOut, []Status{TimedOut}, []Region{"westeurope", "japaneast"}},
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

// An event that had to wait is judged by when it was accepted.
func TestEventsThatHadToWait(t *testing.T) {
	received := func(r Region, seconds int) Event {
		e := event(r)
		e.ReceivedAt, e.Via = at(seconds), ViaQueue
		return e
	}
	// All three were accepted in time, and reach the actor only after the deadline.
	var s State
	var d Decision
	for i, e := range []Event{received("eastus", 0), received("westeurope", 9), received("japaneast", 5)} {
		s, d = Add(s, e, plan, at(500+i))
	}
	if s.Status() != Replicated || d.Reason != Completed || s.StartedAt != at(0) || s.Deadline != at(120) || s.Due != at(530) || s.Outcomes[0].At != at(9) {
		t.Errorf("%s, %v: %+v", s.Status(), d, s)
	}
	if a := s.Arrivals[1]; a.Via != ViaQueue || a.ReceivedAt != at(9) || s.First.Via != ViaWebhook || !s.First.ReceivedAt.IsZero() {
		t.Errorf("%+v", s)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}

	// An event that was accepted in time completes the set when it is overdue, as
	// long as nothing is decided, also behind a late one of the same region's peers.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, _ = Add(s, event("westeurope"), plan, at(1))
	s, d = Add(s, received("japaneast", 119), plan, at(900))
	if s.Status() != Replicated || d.Reason != Completed || s.Outcomes[0].At != at(119) {
		t.Errorf("%s, %v: %+v", s.Status(), d, s)
	}

	// What was not in time is missing in the timeout, whatever came before it was
	// decided, and in whatever order.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, _ = Add(s, event("westeurope"), plan, at(125))
	s, d = Add(s, received("japaneast", 100), plan, at(130))
	if s.Status() != Recovered || d.Reason != CameAfter || len(d.New) != 2 {
		t.Fatalf("%s, %v: %+v", s.Status(), d, s)
	}
	if timedOut := s.As(d.New[0]); !slices.Equal(timedOut.Missing(), []Region{"westeurope"}) || timedOut.Arrivals[1].Region != "japaneast" {
		t.Errorf("timed out: %+v", timedOut)
	}
	if recovered := s.As(d.New[1]); len(recovered.Missing()) != 0 || recovered.Arrivals[2].ReceivedAt != at(100) {
		t.Errorf("recovered: %+v", recovered)
	}

	// What is decided stays decided.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, _ = Add(s, event("westeurope"), plan, at(1))
	s, _ = Tick(s, at(151))
	s, d = Add(s, received("japaneast", 100), plan, at(160))
	if s.Status() != Recovered || d.Reason != CameAfter || s.Arrivals[2].ReceivedAt != at(100) || s.Outcomes[1].At != at(160) {
		t.Errorf("%s, %v: %+v", s.Status(), d, s)
	}

	// One that came too late is late, and one from the future came now.
	s, _ = Add(State{}, event("eastus"), plan, at(0))
	s, d = Add(s, received("westeurope", 125), plan, at(130))
	if s.Status() != Collecting || d.Reason != Late {
		t.Errorf("%s, %v", s.Status(), d)
	}
	s, _ = Add(State{}, received("eastus", 900), plan, at(3))
	if s.StartedAt != at(3) {
		t.Errorf("started at %v", s.StartedAt)
	}

	// The first that reaches the actor need not be the first that was accepted.
	s, _ = Add(State{}, event("eastus"), plan, at(10))
	s, _ = Add(s, received("westeurope", 3), plan, at(11))
	if s.StartedAt != at(10) || s.Arrivals[1].ReceivedAt != at(10) {
		t.Errorf("%+v", s)
	}
}

// Due is beyond the deadline by the grace, or beyond the first event's coming, if
// that had to wait for longer.
func TestDue(t *testing.T) {
	for _, tt := range []struct {
		timeout time.Duration
		waited  time.Duration
		due     time.Duration // after the first event was accepted
	}{
		{time.Second, 0, 1250 * time.Millisecond},
		{8 * time.Second, 0, 10 * time.Second},
		{2 * time.Minute, 0, 150 * time.Second},
		{30 * 24 * time.Hour, 0, 30*24*time.Hour + 30*time.Second},
		{8 * time.Second, 7 * time.Second, 10 * time.Second},
		{8 * time.Second, time.Minute, 62 * time.Second},
	} {
		t.Run(fmt.Sprintf("%v, waited %v", tt.timeout, tt.waited), func(t *testing.T) {
			e := event("eastus")
			e.ReceivedAt = at(0)
			s, _ := Add(State{}, e, Plan{Awaited: plan.Awaited, Timeout: tt.timeout}, at(0).Add(tt.waited))
			if got := s.Due.Sub(at(0)); got != tt.due {
				t.Errorf("got %v, want %v", got, tt.due)
			}
		})
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
	s, d := Add(State{}, event("eastus"), Plan{Awaited: Awaited{Expected: []Region{"eastus"}}, Timeout: time.Minute}, at(0))
	if d.Reason != Completed || s.Status() != Replicated || len(s.Unpublished()) != 1 {
		t.Errorf("%v, %+v", d, s)
	}
}

func TestOpenNotificationsKeepTheirPlan(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	today := Plan{Awaited: Awaited{Expected: []Region{"eastus", "northeurope"}}, Timeout: time.Second}
	s, d := Add(s, event("northeurope"), today, at(1))
	if d.Reason != NotAwaited || d.Changed {
		t.Errorf("a region added since: %v", d)
	}
	s, d = Add(s, event("japaneast"), today, at(10))
	if d.Reason != Recorded || !s.Deadline.Equal(at(120)) {
		t.Errorf("a region removed since: %v, deadline %v", d, s.Deadline)
	}
}

// Nobody waits for an optional region, whenever it comes.
func TestOptionalRegions(t *testing.T) {
	plan := plan
	plan.Optional = []Region{"uksouth", "eastus2"}
	type step struct {
		at      int
		region  Region // "" for the reminder
		digest  string
		want    string // the decision
		changed bool
	}
	for _, tt := range []struct {
		name  string
		steps []step
		in    map[Status]string // what each outcome says of the optional regions, and of mismatch
	}{
		{"first", []step{
			{0, "uksouth", "", "started, missing [westeurope eastus japaneast]", true},
			{1, "westeurope", "", "recorded, missing [eastus japaneast]", true},
			{2, "eastus", "", "recorded, missing [japaneast]", true},
			{3, "japaneast", "", "completed, replicated", true},
		}, map[Status]string{Replicated: "[uksouth] false"}},
		{"the only one", []step{
			{0, "uksouth", "", "started, missing [westeurope eastus japaneast]", true},
			{1, "uksouth", "", "duplicate, missing [westeurope eastus japaneast]", false},
			{149, "", "", "waiting, missing [westeurope eastus japaneast]", false},
			{150, "", "", "expired, timedOut, missing [westeurope eastus japaneast]", true},
		}, map[Status]string{TimedOut: "[uksouth] false"}},
		{"after the end", []step{
			{0, "westeurope", "", "started, missing [eastus japaneast]", true},
			{1, "eastus", "", "recorded, missing [japaneast]", true},
			{2, "japaneast", "", "completed, replicated", true},
			{3, "uksouth", "sha256:bb", "optional", true},
			{4, "uksouth", "sha256:bb", "duplicate", false},
			{500, "eastus2", "", "optional", true},
			{501, "", "", "settled", false},
		}, map[Status]string{Replicated: "[] false"}},
		{"another digest", []step{
			{0, "westeurope", "", "started, missing [eastus japaneast]", true},
			{1, "uksouth", "sha256:bb", "optional, missing [eastus japaneast]", true},
			{2, "eastus", "", "recorded, missing [japaneast]", true},
			{3, "japaneast", "", "completed, replicated", true},
		}, map[Status]string{Replicated: "[uksouth] true"}},
		{"late, and all others in time", []step{
			{0, "westeurope", "", "started, missing [eastus japaneast]", true},
			{1, "eastus", "", "recorded, missing [japaneast]", true},
			{121, "uksouth", "", "optional, missing [japaneast]", true},
			{-122, "japaneast", "", "completed, replicated", true}, // waited since 119
		}, map[Status]string{Replicated: "[uksouth] false"}},
		{"between the outcomes", []step{
			{0, "westeurope", "", "started, missing [eastus japaneast]", true},
			{1, "eastus", "", "recorded, missing [japaneast]", true},
			{2, "eastus2", "", "optional, missing [japaneast]", true},
			{150, "", "", "expired, timedOut, missing [japaneast]", true},
			{160, "uksouth", "", "optional, missing [japaneast]", true},
			{170, "japaneast", "", "recovered", true},
		}, map[Status]string{TimedOut: "[eastus2] false", Recovered: "[eastus2 uksouth] false"}},
		{"late, before a timeout that is decided late", []step{
			{0, "westeurope", "", "started, missing [eastus japaneast]", true},
			{1, "eastus", "", "recorded, missing [japaneast]", true},
			{121, "uksouth", "", "optional, missing [japaneast]", true},
			{122, "japaneast", "", "recovered, timedOut, recovered", true},
			{123, "eastus2", "", "optional", true},
		}, map[Status]string{TimedOut: "[] false", Recovered: "[uksouth] false"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			decided := map[Status]State{}
			for _, step := range tt.steps {
				var d Decision
				now, e := at(step.at), event(step.region)
				if step.at < 0 {
					now, e.ReceivedAt = at(-step.at), at(119)
				}
				if e.Digest = cmp.Or(step.digest, e.Digest); step.region == "" {
					s, d = Tick(s, now)
				} else {
					s, d = Add(s, e, plan, now)
				}
				if d.String() != step.want || d.Changed != step.changed {
					t.Errorf("at %d: got %q, changed %v, want %q, %v", step.at, d, d.Changed, step.want, step.changed)
				}
				if err := s.Check(); err != nil {
					t.Error(err)
				}
				for _, o := range d.New {
					decided[o.Status] = s.As(o)
				}
			}
			got := map[Status]string{}
			for _, o := range s.Outcomes {
				if o.Status == Replicated && o.At != s.lastAccepted(plan.Expected) {
					t.Errorf("replicated at %v: %+v", o.At, s.Arrivals)
				}
				as := s.As(o)
				var in []Region
				for _, a := range as.Arrivals {
					if slices.Contains(plan.Optional, a.Region) {
						in = append(in, a.Region)
					}
				}
				if got[o.Status] = fmt.Sprintf("%v %v", in, as.Mismatch); !reflect.DeepEqual(as, decided[o.Status]) {
					t.Errorf("%s, when it was decided\n%+v\nand now\n%+v", o.Status, decided[o.Status], as)
				}
			}
			if !reflect.DeepEqual(got, tt.in) {
				t.Errorf("got %v, want %v", got, tt.in)
			}
		})
	}
	if _, d := Add(State{}, event("uksouth"), Plan{Awaited: Awaited{Optional: plan.Optional}, Timeout: time.Minute}, t0); d.Reason != Refused {
		t.Errorf("nobody to wait for: %v", d)
	}
}

func TestAwait(t *testing.T) {
	got := Await([]Region{"a", "b", "c"}, []Region{"c", "d"})
	if want := (Awaited{Expected: []Region{"a", "b"}, Optional: []Region{"c"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// What is published about an outcome must not depend on when it is published.
func TestAsIsFrozen(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	s, d := Tick(s, at(150))
	timedOut := d.New[0]
	want := s.As(timedOut)
	s, _ = Add(s, event("japaneast"), plan, at(160))
	late := event("westeurope")
	late.Digest = "sha256:bb"
	s, d = Add(s, late, plan, at(170))
	got := s.As(timedOut)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("timedOut, published late:\n got %+v\nwant %+v", got, want)
	}
	if rec := s.As(d.New[0]); rec.Status() != Recovered || !rec.Mismatch || len(rec.Arrivals) != 3 {
		t.Errorf("recovered: %+v", rec)
	}
}

func TestPublished(t *testing.T) {
	s, _ := Add(State{}, event("eastus"), plan, at(0))
	s, d := Tick(s, at(150))
	if p := s.Published(d.New[0]); len(p.Unpublished()) != 0 || len(s.Unpublished()) != 1 {
		t.Error("Published must not change its receiver")
	}
}

func TestCheckFindsWhatCannotBe(t *testing.T) {
	good, _ := Add(State{}, event("eastus"), plan, at(0))
	good, _ = Tick(good, at(150))
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*State){
		"nothing":               func(s *State) { *s = State{} },
		"no regions":            func(s *State) { s.Expected = nil },
		"deadline before start": func(s *State) { s.Deadline = s.StartedAt },
		"due before deadline":   func(s *State) { s.Due = s.Deadline.Add(-1) },
		"no arrivals":           func(s *State) { s.Arrivals, s.Outcomes = nil, nil },
		"arrived twice":         func(s *State) { s.Arrivals = append(s.Arrivals, s.Arrivals[0]) },
		"unexpected":            func(s *State) { s.Arrivals = append(s.Arrivals, Arrival{Region: "mars"}) },
		"replicated too early":  func(s *State) { s.Outcomes[0].Status = Replicated },
		"two outcomes":          func(s *State) { s.Outcomes = append(s.Outcomes, s.Outcomes[0]) },
		"impossible count":      func(s *State) { s.Outcomes[0].Arrivals = 7 },
		"replicated with a late one": func(s *State) {
			s.Outcomes[0] = Outcome{Status: Replicated, Arrivals: 3}
			s.Arrivals = append(s.Arrivals, Arrival{Region: "westeurope"}, Arrival{Region: "japaneast", ReceivedAt: s.Deadline})
		},
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
	plan := plan
	plan.Optional = []Region{"uksouth", "eastus2"}
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
				e := event(plan.All()[rng.IntN(5)])
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
// comes twice, and nothing is dated before what it follows.
func TestJumpingClocks(t *testing.T) {
	const year = 365 * 24 * 60 * 60
	plan := plan
	plan.Optional = []Region{"uksouth", "eastus2"}
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s State
		for range 12 {
			now := at(rng.IntN(2*year) - year)
			before := s
			if rng.IntN(3) == 0 {
				s, _ = Tick(s, now)
			} else {
				e := event(plan.All()[rng.IntN(5)])
				if rng.IntN(3) == 0 {
					e.ReceivedAt = at(rng.IntN(2*year) - year)
				}
				s, _ = Add(s, e, plan, now)
			}
			if len(s.Outcomes) < len(before.Outcomes) || !slices.EqualFunc(s.Outcomes[:len(before.Outcomes)], before.Outcomes, sameOutcome) {
				t.Fatalf("seed %d: %+v became %+v", seed, before.Outcomes, s.Outcomes)
			}
			if !s.Exists() {
				continue
			}
			if err := s.Check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for _, a := range s.Arrivals {
				if a.ReceivedAt.Before(s.StartedAt) {
					t.Fatalf("seed %d: %+v", seed, s.Arrivals)
				}
			}
			for i, o := range s.Outcomes {
				if o.At.Before(s.As(o).lastAccepted(s.Expected)) || i > 0 && o.At.Before(s.Outcomes[i-1].At) {
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

func sameOutcome(a, b Outcome) bool { return reflect.DeepEqual(a, b) }

// What Azure said of the missing regions when they were missed stays with the timeout, and
// is shown of those that are still missing.
func TestReplicasOfATimeout(t *testing.T) {
	said := map[Region]string{"b": "Updating", "c": "Creating"}
	states := func(regions []Region) map[Region]string {
		got := map[Region]string{}
		for _, r := range regions {
			if said[r] != "" {
				got[r] = said[r]
			}
		}
		return got
	}
	plan := Plan{Awaited: Awaited{Expected: []Region{"a", "b", "c"}}, Timeout: time.Minute}
	add := func(s State, r Region, now time.Time) State {
		e := event(r)
		before := s
		s, _ = Add(s, e, plan, now)
		return s.Explained(before, states)
	}
	s := add(State{}, "a", at(0))
	before := s
	s, _ = Tick(s, s.Due)
	if s = s.Explained(before, states); !reflect.DeepEqual(s.Replicas(), said) {
		t.Errorf("timed out: %v", s.Replicas())
	}
	if len(before.Outcomes) != 0 || before.Replicas() != nil {
		t.Errorf("collecting: %v", before.Replicas())
	}
	clear(said) // what Azure says later changes nothing
	timeout := s.Outcomes[0]
	s = add(s, "c", at(300))
	if want := map[Region]string{"b": "Updating"}; !reflect.DeepEqual(s.Replicas(), want) {
		t.Errorf("c came: %v, want %v", s.Replicas(), want)
	}
	s = add(s, "b", at(301))
	if s.Replicas() != nil || len(s.Outcomes) != 2 || s.Outcomes[1].Replicas != nil {
		t.Errorf("recovered: %v, %+v", s.Replicas(), s.Outcomes)
	}
	if got := s.As(timeout).Replicas(); len(got) != 2 {
		t.Errorf("the timeout, published again: %v", got)
	}
}
