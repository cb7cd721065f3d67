package chaos

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	began    = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	testAll  = []string{"westeurope", "eastus", "japaneast"}
	deadline = began.Add(8 * time.Second)
)

func second(n float64) time.Time { return began.Add(time.Duration(n * float64(time.Second))) }

// statusAt is the status of a notification that began with the first region and
// got another one each second, as of its outcome, or of now if that is later.
func statusAt(id, status string, concluded time.Time, regions ...string) Status {
	st := Status{ID: id, Status: status, StartedAt: began, Deadline: deadline, Regions: []RegionStatus{}, Missing: []string{}}
	if !concluded.IsZero() {
		st.ConcludedAt = &concluded
	}
	for i, region := range regions {
		at := second(float64(i))
		if status == "recovered" && i == len(testAll)-1 {
			at = concluded
		}
		st.Regions = append(st.Regions, RegionStatus{Region: region, ReceivedAt: at})
	}
	for _, region := range testAll {
		if !slices.Contains(regions, region) {
			st.Missing = append(st.Missing, region)
		}
	}
	return st
}

// publish is the event of an outcome, with what Dapr adds to it.
func publish(st Status, change ...func(map[string]any)) string {
	e := map[string]any{
		"specversion": "1.0", "id": st.ID + "/" + st.Status, "type": eventTypes[st.Status], "source": "https://contoso.azurecr.io",
		"time": st.ConcludedAt, "datacontenttype": "application/json", "data": st,
		"topic": "acr-notifications", "pubsubname": "pubsub", "traceparent": time.Now().String(),
	}
	for _, c := range change {
		c(e)
	}
	data, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func post(id, region string, status int) Post {
	p := Post{ID: id, Region: region, Status: status, Answered: second(2)}
	if status == 0 {
		p.Unanswered = "connection lost"
	}
	return p
}

// kept is a run in which every promise was kept: a push that is replicated, one
// that timed out, one that recovered, and one that was refused, and found in ACR's log.
func kept() Record {
	full, two := testAll, testAll[:2]
	replicated := statusAt("full", "replicated", second(2), full...)
	timedOut := statusAt("short", "timedOut", second(9), two...)
	before, recovered := statusAt("late", "timedOut", second(8), two...), statusAt("late", "recovered", second(12), full...)
	refused := statusAt("refused", "timedOut", second(8.5), two...)
	refused.Regions[1].Via = "event-log"
	r := Record{
		Regions: testAll,
		Posts: []Post{ // the ninth came after the deadline
			post("full", full[0], 202), post("full", full[1], 202), post("full", full[2], 202), post("full", full[0], 200),
			post("short", full[0], 202), post("short", full[1], 202),
			post("late", full[0], 202), post("late", full[1], 202), post("late", full[2], 202),
			post("refused", full[0], 503), post("refused", full[1], 0),
		},
		Events: []string{publish(replicated), publish(before), publish(replicated), publish(refused), publish(timedOut), publish(recovered), publish(before)},
		Statuses: map[string]Status{
			"full": replicated, "short": timedOut, "late": recovered, "refused": refused,
		},
		Received: map[string][]string{
			"full/replicated": {"a", "a"}, "short/timedOut": {"b"}, "late/timedOut": {"c"}, "late/recovered": {"d"}, "refused/timedOut": {"e"},
		},
	}
	r.Posts[8].Answered = second(12)
	return r
}

func without(events []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(events), func(e string) bool {
		var event struct{ ID string }
		return json.Unmarshal([]byte(e), &event) == nil && event.ID == id
	})
}

func TestVerify(t *testing.T) {
	for name, test := range map[string]struct {
		id     string // of the notification that is broken
		kind   Kind   // "" for none
		damage func(*Record)
	}{
		"kept":      {"", "", func(*Record) {}},
		"nothing":   {"", "", func(r *Record) { *r = Record{} }},
		"no target": {"", "", func(r *Record) { r.Received = nil }},
		"an accepted event is not in it": {"short", Lost, func(r *Record) {
			r.Posts = append(r.Posts, post("short", "japaneast", 202))
		}},
		"an accepted event, and no notification": {"gone", Lost, func(r *Record) {
			r.Posts = append(r.Posts, post("gone", "japaneast", 200))
		}},
		"a refused event is not in it": {"short", Unseen, func(r *Record) {
			r.Posts = append(r.Posts, post("short", "japaneast", 503))
		}},
		"a refused event, and no notification": {"gone", Unseen, func(r *Record) {
			r.Posts = append(r.Posts, post("gone", "japaneast", 0))
		}},
		"a region that was not posted": {"refused", Invented, func(r *Record) {
			r.Posts = slices.DeleteFunc(r.Posts, func(p Post) bool { return p.ID == "refused" && p.Region == "eastus" })
		}},
		"a notification that was not posted": {"ghost", Invented, func(r *Record) {
			r.Statuses["ghost"] = statusAt("ghost", "collecting", time.Time{}, "eastus")
		}},
		"an event of nobody": {"ghost", Invented, func(r *Record) {
			r.Events = append(r.Events, publish(statusAt("ghost", "timedOut", deadline, "eastus")))
		}},
		"an event that is no JSON": {"", Invented, func(r *Record) { r.Events = append(r.Events, "hello") }},
		"an event whose id is not that of its data": {"", Invented, func(r *Record) {
			r.Events = append(r.Events, publish(r.Statuses["full"], func(e map[string]any) { e["id"] = "short/replicated" }))
		}},
		"an event whose type is not that of its id": {"", Invented, func(r *Record) {
			r.Events = append(r.Events, publish(r.Statuses["full"], func(e map[string]any) { e["type"] = "acr.replication.timedout" }))
		}},
		"no outcome": {"full", Unpublished, func(r *Record) { r.Events = without(r.Events, "full/replicated") }},
		"collecting, and no outcome": {"short", Open, func(r *Record) {
			r.Events = without(r.Events, "short/timedOut")
			r.Statuses["short"] = statusAt("short", "collecting", time.Time{}, testAll[:2]...)
		}},
		"collecting after an outcome": {"short", Disagreeing, func(r *Record) {
			r.Statuses["short"] = statusAt("short", "collecting", time.Time{}, testAll[:2]...)
		}},
		"an outcome, and no notification": {"refused", Disagreeing, func(r *Record) { delete(r.Statuses, "refused") }},
		"replicated and timed out": {"full", Contradicted, func(r *Record) {
			r.Events = append(r.Events, publish(statusAt("full", "timedOut", deadline, testAll[:2]...)))
		}},
		"recovered from nothing":        {"late", Contradicted, func(r *Record) { r.Events = without(r.Events, "late/timedOut") }},
		"recovered before it timed out": {"late", Contradicted, func(r *Record) { slices.Reverse(r.Events); r.Events = r.Events[1:] }},
		"recovered is not published":    {"late", Disagreeing, func(r *Record) { r.Events = without(r.Events, "late/recovered") }},
		"another content": {"full", Changed, func(r *Record) {
			st := r.Statuses["full"]
			st.Regions = slices.Clone(st.Regions)
			slices.Reverse(st.Regions)
			r.Events = append(r.Events, publish(st))
		}},
		"another time": {"short", Changed, func(r *Record) {
			r.Events = append(r.Events, publish(r.Statuses["short"], func(e map[string]any) { e["time"] = second(10) }))
		}},
		"another attribute": {"short", Changed, func(r *Record) {
			r.Events = append(r.Events, publish(r.Statuses["short"], func(e map[string]any) { e["subject"] = "shop/cart:v2" }))
		}},
		"the status has other regions": {"full", Disagreeing, func(r *Record) {
			r.Statuses["full"] = statusAt("full", "replicated", second(2), "japaneast", "eastus", "westeurope")
		}},
		"the status has another start": {"full", Disagreeing, func(r *Record) {
			st := r.Statuses["full"]
			st.StartedAt = second(-1)
			r.Statuses["full"] = st
		}},
		"the status has another end": {"full", Disagreeing, func(r *Record) {
			r.Statuses["full"] = statusAt("full", "replicated", second(3), testAll...)
		}},
		"replicated after the deadline": {"full", Disagreeing, func(r *Record) {
			st := statusAt("full", "replicated", second(9), testAll...)
			r.Statuses["full"], r.Events = st, append(without(r.Events, "full/replicated"), publish(st))
		}},
		"timed out before the deadline": {"short", Disagreeing, func(r *Record) {
			st := statusAt("short", "timedOut", second(7), testAll[:2]...)
			r.Statuses["short"], r.Events = st, append(without(r.Events, "short/timedOut"), publish(st))
		}},
		"timed out with all regions in": {"short", Disagreeing, func(r *Record) {
			r.Posts = append(r.Posts, post("short", "japaneast", 202))
			r.Statuses["short"] = statusAt("short", "timedOut", second(9), testAll...)
		}},
		"replicated with a region missing": {"full", Disagreeing, func(r *Record) {
			st := statusAt("full", "replicated", second(2), testAll[:2]...)
			r.Posts = slices.DeleteFunc(r.Posts, func(p Post) bool { return p.ID == "full" && p.Region == "japaneast" })
			r.Statuses["full"], r.Events = st, append(without(r.Events, "full/replicated"), publish(st))
		}},
		"a region neither in nor missing": {"short", Disagreeing, func(r *Record) {
			st := r.Statuses["short"]
			st.Missing = nil
			r.Statuses["short"] = st
		}},
		"no answer": {"full", Silent, func(r *Record) {
			delete(r.Statuses, "full")
			r.Unanswered = map[string]string{"full": "503"}
		}},
		"the target does not have an event": {"late", Undelivered, func(r *Record) { delete(r.Received, "late/timedOut") }},
		"the target did not get an event that failed": {"late", Undelivered, func(r *Record) {
			delete(r.Received, "late/timedOut")
			r.Deliveries = map[string]string{"late/timedOut": "failed"}
		}},
		"the target will get an event": {"", "", func(r *Record) {
			delete(r.Received, "late/timedOut")
			r.Deliveries = map[string]string{"late/timedOut": "pending"}
		}},
		"the target got two contents":             {"full", Changed, func(r *Record) { r.Received["full/replicated"] = []string{"a", "b"} }},
		"the target got what is not on the topic": {"ghost", Invented, func(r *Record) { r.Received["ghost/timedOut"] = []string{"a"} }},
		"a reminder is left":                      {"full", Reminded, func(r *Record) { r.Reminders = []string{"full"} }},
	} {
		t.Run(name, func(t *testing.T) {
			r := kept()
			test.damage(&r)
			found := Verify(r)
			if test.kind == "" {
				if len(found) > 0 {
					t.Errorf("%v", found)
				}
				return
			}
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.ID == test.id && v.Kind == test.kind }) {
				t.Errorf("not found; found %v", found)
			}
			for _, v := range found {
				if v.ID != test.id {
					t.Errorf("found in another one: %v", v)
				}
			}
		})
	}
}

// A timeout is false if every region had its 2xx before the deadline. A fault in
// the 20 s before may explain it.
func TestFalseTimeouts(t *testing.T) {
	accepted := func(at time.Time) func(*Record) {
		return func(r *Record) {
			p := post("short", testAll[2], 202)
			p.Answered = at
			r.Posts = append(r.Posts, p)
		}
	}
	fault := func(begin, end float64) func(*Record) {
		return func(r *Record) { r.Faults = append(r.Faults, Span{second(begin), second(end)}) }
	}
	for name, test := range map[string]struct {
		damage    []func(*Record)
		all, calm int
	}{
		"one is missing":                     {nil, 0, 0},
		"accepted in time":                   {[]func(*Record){accepted(second(7.9))}, 1, 1},
		"accepted at the deadline":           {[]func(*Record){accepted(second(8))}, 0, 0},
		"a repeat after the deadline":        {[]func(*Record){accepted(second(7)), accepted(second(9))}, 1, 1},
		"a fault":                            {[]func(*Record){accepted(second(7)), fault(1, 2)}, 1, 0},
		"a fault after it":                   {[]func(*Record){accepted(second(7)), fault(8, 9)}, 1, 1},
		"a fault that was over long before":  {[]func(*Record){accepted(second(7)), fault(-30, -12)}, 1, 1},
		"a fault that ended in the 20 s":     {[]func(*Record){accepted(second(7)), fault(-30, -11.9)}, 1, 0},
		"a fault that lasts over all of it":  {[]func(*Record){accepted(second(7)), fault(-30, 30)}, 1, 0},
		"late, and recovered from the queue": {[]func(*Record){func(r *Record) { r.Posts[8].Answered = second(9) }}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := kept()
			for _, d := range test.damage {
				d(&r)
			}
			if all, calm := r.FalseTimeouts(); len(all) != test.all || len(calm) != test.calm {
				t.Errorf("got %v and %v, want %d and %d", all, calm, test.all, test.calm)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	for err, want := range map[string]string{
		"actor a: rpc error: code = DeadlineExceeded desc = context deadline exceeded\nqueue: rpc error: code = Unavailable desc = connection error":                                          "sidecar away",
		"actor a: rpc error: code = Unavailable desc = x\nqueue: rpc error: code = DeadlineExceeded desc = context deadline exceeded":                                                         "broker silent",
		"actor a: rpc error: code = Unavailable desc = x\nqueue: error publishing event: rpc error: code = Internal desc = redis streams: error from publish":                                 "broker away",
		"actor a: rpc error: code = DeadlineExceeded desc = x\nqueue: rpc error: code = Internal desc = redis streams: error from publish: dial tcp 127.0.0.1:1: connect: connection refused": "broker away",
		"no other replica has taken the webhook in 45 tries: answered 503 application/problem+json":                                                                                           "sidecar away, and no other replica",
		"expected regions: nobody knows":                             "regions not known yet",
		"actor a: x\nqueue: of tomorrow " + strings.Repeat("x", 100): "other: of tomorrow " + strings.Repeat("x", 88),
	} {
		if got := refusal(err); got != want {
			t.Errorf("%s: got %q, want %q", err, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	report := newReport(kept())
	if report.Published != 7 || report.Swept != 1 {
		t.Errorf("%d published, %d swept", report.Published, report.Swept)
	}
	if want := map[string]int{"replicated": 1, "timedOut": 2, "recovered": 1}; !maps.Equal(report.Outcomes, want) {
		t.Errorf("%v", report.Outcomes)
	}
	if want := map[string]int{"202": 8, "200": 1, "503": 1, "connection lost": 1}; !maps.Equal(report.Answers, want) || report.Refused != "9.1 %" {
		t.Errorf("%v, refused %s", report.Answers, report.Refused)
	}
}
