package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Post is one webhook as ACR fires it: once, whatever becomes of it.
type Post struct {
	ID       string
	Region   string
	Replica  int
	Answered time.Time // or given up
	Status   int       // 0 without an answer

	Unanswered string // why there is no answer
}

// Accepted tells whether the service has promised to keep the event. Without the promise
// it must be found in ACR's log.
func (p Post) Accepted() bool { return p.Status >= 200 && p.Status < 300 }

// accepted is when each event was accepted first, by notification and region.
func (r Record) accepted() map[string]map[string]time.Time {
	accepted := map[string]map[string]time.Time{}
	for _, p := range r.Posts {
		if !p.Accepted() {
			continue
		}
		if accepted[p.ID] == nil {
			accepted[p.ID] = map[string]time.Time{}
		}
		if at, ok := accepted[p.ID][p.Region]; !ok || p.Answered.Before(at) {
			accepted[p.ID][p.Region] = p.Answered
		}
	}
	return accepted
}

// Status is what the service answers about a notification.
type Status struct {
	ID          string
	Status      string
	StartedAt   time.Time
	Deadline    time.Time
	ConcludedAt *time.Time
	Regions     []RegionStatus
	Missing     []string
}

// RegionStatus is a region in a Status.
type RegionStatus struct {
	Region     string
	ReceivedAt time.Time
	Via        string
}

// Record is what was seen of a run from outside, once it was quiet.
type Record struct {
	Regions  []string // that every notification waits for
	Posts    []Post
	Events   []string          // on the topic, in the broker's order
	Statuses map[string]Status // of the notifications that there are

	// Unanswered says why there is no telling whether there is a notification.
	Unanswered map[string]string

	// Reminders are the notifications that the scheduler still has one for.
	Reminders []string

	// Received is what came to the target, by the event's id; nil if there was none.
	// Deliveries is what the service says became of each.
	Received   map[string][]string
	Deliveries map[string]string

	// Faults are the times of all faults, with their consequences.
	Faults []Span
}

// Span is a time from its begin to its end.
type Span struct{ Begin, End time.Time }

// Violation is a promise that was not kept.
type Violation struct {
	ID     string // of the notification
	Kind   Kind
	Detail string
}

func (v Violation) String() string { return fmt.Sprintf("%s %s: %s", v.ID, v.Kind, v.Detail) }

// Kind names the promise.
type Kind string

// The promises that can be broken.
const (
	Lost         Kind = "lost"          // an event that had a 2xx is not in its notification
	Unseen       Kind = "unseen"        // an event that had none is not in its notification either
	Invented     Kind = "invented"      // something is there that nobody posted
	Unpublished  Kind = "unpublished"   // no outcome on the topic
	Contradicted Kind = "contradicted"  // outcomes that exclude each other, or in the wrong order
	Changed      Kind = "changed"       // one event id, two contents
	Disagreeing  Kind = "disagreeing"   // the status and the events tell different stories
	Silent       Kind = "silent"        // no answer, although everything is mended
	Open         Kind = "open"          // still collecting
	Reminded     Kind = "reminded"      // a reminder is left of what is finished
	Undelivered  Kind = "undelivered"   // the target does not have it, and nobody tries
	FalseTimeout Kind = "false timeout" // every region was accepted in time, and no fault explains it
)

// outcome is an event as consumers read it.
type outcome struct {
	id, kind string // kind is what follows the slash in the id
	notified string // the notification
	content  string // everything that is ours, in one form
	at       time.Time
	status   Status
}

var eventTypes = map[string]string{
	"replicated": "acr.replication.completed", "timedOut": "acr.replication.timedout", "recovered": "acr.replication.recovered",
}

func parseEvent(event string) (outcome, error) {
	// The attributes that the service sets. Dapr may add others, which differ from one
	// publication to the next.
	var ours struct {
		SpecVersion, ID, Type, Source, Subject, Time, DataContentType string
		Data                                                          any
	}
	decoder := json.NewDecoder(strings.NewReader(event))
	decoder.UseNumber()
	if err := decoder.Decode(&ours); err != nil {
		return outcome{}, err
	}
	content, err := json.Marshal(ours)
	if err != nil {
		return outcome{}, err
	}
	var parsed struct {
		ID, Type string
		Time     time.Time
		Data     Status
	}
	if err := json.Unmarshal(content, &parsed); err != nil {
		return outcome{}, err
	}
	id, kind, _ := strings.Cut(parsed.ID, "/")
	if eventTypes[kind] == "" || parsed.Type != eventTypes[kind] || parsed.Data.ID != id || parsed.Data.Status != kind {
		return outcome{}, fmt.Errorf("id %q, type %q, status %q of %q", parsed.ID, parsed.Type, parsed.Data.Status, parsed.Data.ID)
	}
	return outcome{id: parsed.ID, kind: kind, notified: id, content: string(content), at: parsed.Time, status: parsed.Data}, nil
}

// Verify returns every promise that the record shows broken, by notification.
// Its empty answer means that each event that was fired is in its notification, whether
// it had a 2xx or ACR's log has it, and that each notification has exactly the outcomes that it must have, on the
// topic as in its status, and nothing left to do.
func Verify(r Record) []Violation {
	v := verifier{Record: r, outcomes: map[string][]outcome{}, posted: map[string][]Post{}}
	for _, p := range r.Posts {
		v.posted[p.ID] = append(v.posted[p.ID], p)
	}
	v.readEvents()
	ids := slices.Concat(slices.Collect(maps.Keys(v.posted)), slices.Collect(maps.Keys(v.outcomes)), slices.Collect(maps.Keys(r.Statuses)))
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		v.notification(id)
	}
	for _, id := range r.Reminders {
		v.broken(id, Reminded, "the scheduler still has a reminder")
	}
	if r.Received != nil {
		v.deliveries()
	}
	_, calm := r.FalseTimeouts()
	for _, id := range calm {
		v.broken(id, FalseTimeout, "every region was accepted before its deadline: %s", describe(r.Statuses[id]))
	}
	slices.SortStableFunc(v.found, func(a, b Violation) int { return strings.Compare(a.ID, b.ID) })
	return v.found
}

type verifier struct {
	Record
	outcomes map[string][]outcome // by notification, the first publication of each
	posted   map[string][]Post
	found    []Violation
}

func (v *verifier) broken(id string, kind Kind, format string, args ...any) {
	v.found = append(v.found, Violation{id, kind, fmt.Sprintf(format, args...)})
}

func (v *verifier) readEvents() {
	first := map[string]outcome{}
	for _, e := range v.Events {
		o, err := parseEvent(e)
		if err != nil {
			v.broken("", Invented, "an event that is none of ours: %v: %s", err, e)
			continue
		}
		if before, ok := first[o.id]; !ok {
			first[o.id] = o
			v.outcomes[o.notified] = append(v.outcomes[o.notified], o)
		} else if before.content != o.content {
			v.broken(o.notified, Changed, "%s was published as\n    %s\n    %s", o.id, before.content, o.content)
		}
	}
}

// deliveries checks what came to the target. An event that is still tried may come
// later.
func (v *verifier) deliveries() {
	published := map[string]bool{} // by the event's id
	for id, outcomes := range v.outcomes {
		for _, o := range outcomes {
			published[o.id] = true
			if state := v.Deliveries[o.id]; len(v.Received[o.id]) == 0 && state != "pending" {
				v.broken(id, Undelivered, "%s has not come to the target, and its delivery is %q", o.id, state)
			}
		}
	}
	for _, event := range slices.Sorted(maps.Keys(v.Received)) {
		bodies := v.Received[event]
		id, _, _ := strings.Cut(event, "/")
		if !published[event] {
			v.broken(id, Invented, "the target got %s, which is not on the topic", event)
		}
		if len(slices.Compact(slices.Sorted(slices.Values(bodies)))) > 1 {
			v.broken(id, Changed, "%s came to the target with different contents", event)
		}
	}
}

// settleBefore is how long before a deadline no fault may last for its timeout to be
// nobody's fault but ours.
const settleBefore = 20 * time.Second

// FalseTimeouts lists the notifications that timed out although each region had its
// 2xx before the deadline, and those of them that no fault can explain.
func (r Record) FalseTimeouts() (all, calm []string) {
	accepted := r.accepted()
	for _, id := range slices.Sorted(maps.Keys(r.Statuses)) {
		st := r.Statuses[id]
		late := slices.ContainsFunc(r.Regions, func(region string) bool {
			at, ok := accepted[id][region]
			return !ok || !at.Before(st.Deadline)
		})
		if late || st.Status != "timedOut" && st.Status != "recovered" {
			continue
		}
		all = append(all, id)
		if !slices.ContainsFunc(r.Faults, func(f Span) bool {
			return f.Begin.Before(st.Deadline) && f.End.After(st.Deadline.Add(-settleBefore))
		}) {
			calm = append(calm, id)
		}
	}
	return all, calm
}

func (v *verifier) notification(id string) {
	posts, outcomes := v.posted[id], v.outcomes[id]
	st, exists := v.Statuses[id]
	if len(posts) == 0 {
		v.broken(id, Invented, "nobody posted it")
		return
	}
	if err, ok := v.Unanswered[id]; ok {
		v.broken(id, Silent, "%s", err)
		return
	}
	for _, p := range posts {
		if !slices.ContainsFunc(st.Regions, func(r RegionStatus) bool { return r.Region == p.Region }) {
			kind := map[bool]Kind{true: Lost, false: Unseen}[p.Accepted()]
			v.broken(id, kind, "%s had a %d at %s from replica %d, and is not in it: %s", p.Region, p.Status, p.Answered, p.Replica+1, describe(st))
		}
	}
	for _, r := range st.Regions {
		if !slices.ContainsFunc(posts, func(p Post) bool { return p.Region == r.Region }) {
			v.broken(id, Invented, "%s is in it, and was never posted", r.Region)
		}
	}

	var path []string
	for _, o := range outcomes {
		path = append(path, o.kind)
	}
	switch strings.Join(path, " ") {
	case "":
		if exists {
			v.broken(id, Unpublished, "nothing is on the topic: %s", describe(st))
		}
		if st.Status == "collecting" {
			v.broken(id, Open, "it still collects: %s", describe(st))
		}
		return
	case "replicated", "timedOut", "timedOut recovered":
	default:
		v.broken(id, Contradicted, "the topic has %s", strings.Join(path, ", "))
		return
	}
	if !exists {
		v.broken(id, Disagreeing, "the topic has %s, and the service knows no such notification", strings.Join(path, ", "))
		return
	}
	for _, o := range outcomes {
		if why := v.disagrees(st, o); why != "" {
			v.broken(id, Disagreeing, "%s in %s: status %s, event %s", why, o.id, describe(st), describe(o.status))
		}
	}
	last := outcomes[len(outcomes)-1]
	if st.Status != last.kind {
		v.broken(id, Disagreeing, "the last event is %s: %s", last.kind, describe(st))
	} else if st.ConcludedAt == nil || !st.ConcludedAt.Equal(last.at) {
		v.broken(id, Disagreeing, "%s was at %s: %s", last.kind, last.at, describe(st))
	}
}

// disagrees says where an event does not fit the status, or itself.
func (v *verifier) disagrees(st Status, o outcome) string {
	e := o.status
	switch {
	case !e.StartedAt.Equal(st.StartedAt) || !e.Deadline.Equal(st.Deadline):
		return "another start or deadline"
	case e.ConcludedAt == nil || !e.ConcludedAt.Equal(o.at):
		return "another time"
	case !isPart(e.Regions, st.Regions):
		return "other regions"
	case len(e.Regions)+len(e.Missing) != len(v.Regions) || len(st.Regions)+len(st.Missing) != len(v.Regions):
		return "regions that are neither in nor missing"
	case (o.kind == "timedOut") == (len(e.Missing) == 0):
		return "the wrong outcome for what is missing"
	case (st.Status == "timedOut") == (len(st.Missing) == 0):
		return "the wrong status for what is missing"
	case o.kind == "replicated" && !o.at.Before(e.Deadline), o.kind != "replicated" && o.at.Before(e.Deadline):
		return "the wrong outcome for its time"
	}
	return ""
}

// isPart tells whether some are among all, in the same order: a timeout leaves out what
// was not in time.
func isPart(some, all []RegionStatus) bool {
	for _, region := range all {
		if len(some) > 0 && some[0].Region == region.Region && some[0].ReceivedAt.Equal(region.ReceivedAt) {
			some = some[1:]
		}
	}
	return len(some) == 0
}

func describe(st Status) string {
	if st.ID == "" {
		return "there is no such notification"
	}
	data, _ := json.Marshal(st) // strings and times
	return string(data)
}
