// Package replication decides what a set of regional events amounts to.
//
// ACR fires one webhook per region for one push. The events of one push share an id;
// together they are a notification. The rules that join them are pure functions:
// (state, event, now) → (state, decision). Package notification does the writing.
//
// A notification begins with its first event, which fixes the regions that
// must report and the deadline. From there:
//
//	collecting ──all regions in, in time──▶ replicated
//	     └─────due, a region not in time──▶ timedOut ──all regions in──▶ recovered
//
// In time is what was accepted before the deadline, whenever it reaches the
// notification: it may have had to wait in a queue. So a notification is given
// some grace after its deadline; when that is over it is due.
//
// Optional regions are recorded as they report. Nobody waits for them: they decide no
// outcome, and are never missing.
//
// An outcome, once decided, is never taken back or changed: what is published
// about it is computed from what was known when it was decided, so that
// publishing it twice publishes the same thing.
package replication

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Region is an Azure region in the form in which regions are compared:
// lower case, without spaces and dashes. "West Europe" is "westeurope".
type Region string

// ParseRegion returns the comparable form of a region's name. The empty
// Region means that s names none.
func ParseRegion(s string) Region {
	return Region(strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '\t' {
			return -1
		}
		return r
	}, strings.ToLower(s)))
}

// regionalHost matches a host of one region of a registry, such as
// contoso.westeurope.geo.azurecr.io.
var regionalHost = regexp.MustCompile(`^([a-z0-9-]+)\.[a-z0-9]+\.geo\.(azurecr\.[a-z]+)$`)

// LoginServer returns the host under which a registry is known, in lower case: ACR may
// name a region's instead, of which each push has another.
func LoginServer(host string) string {
	host = strings.ToLower(host)
	if m := regionalHost.FindStringSubmatch(host); m != nil {
		return m[1] + "." + m[2]
	}
	return host
}

// RegistryName returns the name of the registry with that login server, which may have a
// hash behind the name: contoso-a1b2c3.azurecr.io.
func RegistryName(loginServer string) string {
	name, _, _ := strings.Cut(loginServer, ".")
	name, _, _ = strings.Cut(name, "-")
	return name
}

// NamesRegistry tells whether text, a login server or a name alone, names the registry
// with that login server.
func NamesRegistry(text, loginServer string) bool {
	text = LoginServer(text)
	return text == loginServer || text == RegistryName(loginServer)
}

// Names returns regions as text.
func Names(regions []Region) []string {
	names := make([]string, 0, len(regions))
	for _, r := range regions {
		names = append(names, string(r))
	}
	return names
}

// Event is one regional event: what one region's webhook said.
type Event struct {
	ID         string // of the notification; the same in every region
	Action     string // push, delete, chart_push, chart_delete, quarantine, or what ACR invents next
	Registry   string // login server, such as contoso.azurecr.io; "" where ACR does not say
	Repository string
	Tag        string // "" for an untagged push and for a delete
	Digest     string
	MediaType  string
	Size       int64     // bytes
	Original   string    // the webhook's body, as it came; "" if it did not come as a webhook
	Region     Region    // the region that reported
	Time       time.Time // when ACR says that it happened; zero where it does not say

	// ReceivedAt is when the event was accepted, if that was not just now. An event
	// that waited in a queue is judged by when it was accepted.
	ReceivedAt time.Time
	Via        Via // how it came
}

// Via is the way on which an event came.
type Via string

// The ways.
const (
	ViaWebhook  Via = ""          // straight from the webhook
	ViaQueue    Via = "queue"     // from the webhook, by way of a topic
	ViaEventLog Via = "event-log" // from ACR's record of its webhooks: the webhook itself did not come
)

// Awaited is the regions of a registry; no two are the same.
type Awaited struct {
	Expected []Region // those that must report; at least one
	Optional []Region // those that may report
}

// All lists the regions, expected or optional, that may report.
func (a Awaited) All() []Region { return slices.Concat(a.Expected, a.Optional) }

// Await returns what is awaited of all regions of a registry if those are optional.
func Await(all, optional []Region) (a Awaited) {
	for _, r := range all {
		if slices.Contains(optional, r) {
			a.Optional = append(a.Optional, r)
		} else {
			a.Expected = append(a.Expected, r)
		}
	}
	return a
}

// Plan is what a new notification is held to.
type Plan struct {
	Awaited
	Timeout time.Duration // from the first event to the deadline
}

// maxGrace is the longest grace.
const maxGrace = 30 * time.Second

// Grace is how long a notification waits beyond its deadline for events that were
// accepted in time.
func (p Plan) Grace() time.Duration { return min(maxGrace, p.Timeout/4) }

// Status is where a notification stands. Its values are those of the JSON status.
type Status string

// The statuses. All but Collecting are outcomes.
const (
	Collecting Status = "collecting"
	Replicated Status = "replicated" // all regions in, in time
	TimedOut   Status = "timedOut"   // the deadline passed with regions missing; decided when it is due
	Recovered  Status = "recovered"  // the missing regions came after all
)

// Arrival is the first event of one region.
type Arrival struct {
	Region     Region
	ReceivedAt time.Time // when it was accepted
	EventTime  time.Time // zero where ACR did not say
	Digest     string    // as this region reported it
	Tag        string    // as this region reported it
	Via        Via
}

// Outcome is one decision about a notification, frozen when it was made.
type Outcome struct {
	Status    Status
	At        time.Time
	Arrivals  int  // how many of State.Arrivals were in by then
	Mismatch  bool // whether regions disagreed by then
	Published bool // whether the topic is known to have it

	// Replicas is, of TimedOut, what Azure said of the replicas in the missing regions, as
	// far as it was known. It is published with the outcome, and so does not change.
	Replicas map[Region]string

	// Trace is where in a trace it was decided, in the caller's form; "" if it was
	// not traced. It is published with the outcome, and so does not change either.
	Trace string
}

// State is everything that is known of one notification. The zero State means
// that nothing is.
type State struct {
	First Event // the first accepted event; how and when it came is in Arrivals[0]
	Awaited
	StartedAt time.Time // when its first event was accepted
	Deadline  time.Time
	Due       time.Time // when it is timedOut, if a region is not in time
	Arrivals  []Arrival // in the order in which they reached the notification
	Mismatch  bool      // a region reported another digest or tag than the first one
	Outcomes  []Outcome // none while collecting; at most timedOut and then recovered
}

// Exists tells whether any event was ever accepted.
func (s State) Exists() bool { return s.First.ID != "" }

// Status is where the notification stands now.
func (s State) Status() Status {
	if n := len(s.Outcomes); n > 0 {
		return s.Outcomes[n-1].Status
	}
	return Collecting
}

// Missing lists the expected regions that have not reported, in the order in
// which they are expected.
func (s State) Missing() []Region { return s.Absent(s.Expected) }

// Absent lists those of regions that have not reported.
func (s State) Absent(regions []Region) []Region {
	return slices.DeleteFunc(slices.Clone(regions), func(r Region) bool { return s.arrival(r) >= 0 })
}

// As returns the state as it was when o was decided: later arrivals, outcomes
// and disagreements are left out, and so is, if o is a timeout, what was not in
// time. It is what makes a second publication of the same outcome equal to the
// first.
func (s State) As(o Outcome) State {
	i := slices.IndexFunc(s.Outcomes, func(x Outcome) bool { return x.Status == o.Status })
	s.Arrivals = s.Arrivals[:o.Arrivals:o.Arrivals]
	if o.Status == TimedOut {
		s.Arrivals = slices.DeleteFunc(slices.Clone(s.Arrivals), s.late)
	}
	s.Outcomes = s.Outcomes[: i+1 : i+1]
	s.Mismatch = o.Mismatch
	return s
}

// Unpublished lists the outcomes that the topic is not known to have.
func (s State) Unpublished() []Outcome {
	return slices.DeleteFunc(slices.Clone(s.Outcomes), func(o Outcome) bool { return o.Published })
}

// late tells whether an arrival was not in time.
func (s State) late(a Arrival) bool { return !a.ReceivedAt.Before(s.Deadline) }

// overdue tells whether an arrival of an expected region was not in time.
func (s State) overdue(a Arrival) bool { return s.late(a) && slices.Contains(s.Expected, a.Region) }

// Published returns the state in which o is known to be on the topic.
func (s State) Published(o Outcome) State {
	s.Outcomes = slices.Clone(s.Outcomes)
	for i := range s.Outcomes {
		if s.Outcomes[i].Status == o.Status {
			s.Outcomes[i].Published = true
		}
	}
	return s
}

// Traced returns the state in which the outcomes that before has not were decided
// at that place in a trace.
func (s State) Traced(before State, trace string) State {
	s.Outcomes = slices.Clone(s.Outcomes)
	for i := len(before.Outcomes); i < len(s.Outcomes); i++ {
		s.Outcomes[i].Trace = trace
	}
	return s
}

// Explained returns the state in which the timeout that before has not was decided while
// the replicas of the missing regions were what states says of them.
func (s State) Explained(before State, states func([]Region) map[Region]string) State {
	for i := len(before.Outcomes); i < len(s.Outcomes); i++ {
		if o := s.Outcomes[i]; o.Status == TimedOut {
			s.Outcomes = slices.Clone(s.Outcomes)
			s.Outcomes[i].Replicas = states(s.As(o).Missing())
		}
	}
	return s
}

// Replicas is what Azure said, when the notification timed out, of the regions that are
// missing now; nil if there is nothing to say.
func (s State) Replicas() (states map[Region]string) {
	for _, o := range s.Outcomes {
		for _, region := range s.Missing() {
			if state, ok := o.Replicas[region]; ok {
				if states == nil {
					states = map[Region]string{}
				}
				states[region] = state
			}
		}
	}
	return states
}

// Reason names why a decision came out as it did.
type Reason string

// The reasons.
const (
	Started    Reason = "started"    // first event of a notification, others are awaited
	Recorded   Reason = "recorded"   // a further region, others are awaited
	Noted      Reason = "optional"   // a further region, which nobody waits for
	Completed  Reason = "completed"  // the last region, and all of them in time
	Late       Reason = "late"       // a region after the deadline or timedOut, others are still missing
	CameAfter  Reason = "recovered"  // the last missing region, and not all of them in time
	Duplicate  Reason = "duplicate"  // the region had reported the same before
	Differs    Reason = "differs"    // the region had reported something else before; the first stands
	NotAwaited Reason = "notAwaited" // expected today, but not when this notification began
	Refused    Reason = "refused"    // a region that is not expected
	Expired    Reason = "expired"    // due, with regions missing
	Waiting    Reason = "waiting"    // nothing to decide yet
	Settled    Reason = "settled"    // nothing left to decide
	Unknown    Reason = "unknown"    // there is no such notification
)

// Decision is the result of a step. It is logged as it is.
type Decision struct {
	Reason  Reason
	Changed bool      // whether the state must be saved
	New     []Outcome // the outcomes that this step decided, oldest first
	Missing []Region
}

// String is for people and logs: the reason, then what is missing.
func (d Decision) String() string {
	s := string(d.Reason)
	for _, o := range d.New {
		if string(o.Status) != s {
			s += ", " + string(o.Status)
		}
	}
	if len(d.Missing) > 0 {
		s += fmt.Sprintf(", missing %v", d.Missing)
	}
	return s
}

// Add joins e into s at now. The plan counts only if e is the first event.
//
// An event that was not accepted in time is recorded, and decides nothing until the
// set is complete; then timedOut and recovered are decided together. What the time
// alone decides, Tick decides.
func Add(s State, e Event, plan Plan, now time.Time) (State, Decision) {
	if !s.Exists() {
		return begin(e, plan, now)
	}
	d := Decision{Missing: s.Missing()}
	switch {
	case slices.Contains(s.All(), e.Region):
	case slices.Contains(plan.All(), e.Region):
		d.Reason = NotAwaited
		return s, d
	default:
		d.Reason = Refused
		return s, d
	}
	if i := s.arrival(e.Region); i >= 0 {
		d.Reason = Duplicate
		if a := s.Arrivals[i]; a.Digest != e.Digest || a.Tag != e.Tag {
			d.Reason = Differs
			d.Changed = !s.Mismatch
			s.Mismatch = true
		}
		return s, d
	}

	// A clock that was set back, or another machine's, does not date an event before
	// the notification.
	a := arrivalOf(e, later(e.accepted(now), s.StartedAt))
	s.Arrivals = append(slices.Clone(s.Arrivals), a)
	s.Mismatch = s.Mismatch || e.Digest != s.First.Digest || e.Tag != s.First.Tag
	d.Changed = true
	d.Missing = s.Missing()
	switch {
	case slices.Contains(s.Optional, e.Region):
		d.Reason = Noted
		return s, d
	case len(d.Missing) > 0 && (s.Status() != Collecting || s.late(a)):
		d.Reason = Late
		return s, d
	case len(d.Missing) > 0:
		d.Reason = Recorded
		return s, d
	}
	return s.complete(d, now)
}

// complete decides a set that has no region missing.
func (s State) complete(d Decision, now time.Time) (State, Decision) {
	if s.Status() == Collecting && !slices.ContainsFunc(s.Arrivals, s.overdue) {
		d.Reason = Completed
		return s.conclude(d, Replicated, s.lastAccepted(s.Expected))
	}
	d.Reason = CameAfter
	now = s.notBefore(now)
	if s.Status() == Collecting {
		s, d = s.conclude(d, TimedOut, now)
	}
	return s.conclude(d, Recovered, now)
}

// Tick decides what the time alone decides: whether the notification is due with
// regions missing.
func Tick(s State, now time.Time) (State, Decision) {
	if !s.Exists() {
		return s, Decision{Reason: Unknown}
	}
	d := Decision{Reason: Settled, Missing: s.Missing()}
	if s.Status() != Collecting {
		return s, d
	}
	if now.Before(s.Due) {
		d.Reason = Waiting
		return s, d
	}
	d.Reason = Expired
	d.Changed = true
	return s.conclude(d, TimedOut, s.notBefore(now))
}

func begin(e Event, plan Plan, now time.Time) (State, Decision) {
	if len(plan.Expected) == 0 || !slices.Contains(plan.All(), e.Region) {
		return State{}, Decision{Reason: Refused}
	}
	accepted := e.accepted(now).UTC()
	deadline := accepted.Add(plan.Timeout)
	s := State{
		First:     e,
		Awaited:   Awaited{slices.Clone(plan.Expected), slices.Clone(plan.Optional)},
		StartedAt: accepted,
		Deadline:  deadline,
		Due:       later(deadline, now.UTC()).Add(plan.Grace()), // it may have waited for longer than that
		Arrivals:  []Arrival{arrivalOf(e, accepted)},
	}
	s.First.ReceivedAt, s.First.Via = time.Time{}, ViaWebhook
	d := Decision{Reason: Started, Changed: true, Missing: s.Missing()}
	if len(d.Missing) == 0 {
		return s.complete(d, now)
	}
	return s, d
}

// accepted is when e was accepted, as far as the clock here can tell.
func (e Event) accepted(now time.Time) time.Time {
	if !e.ReceivedAt.IsZero() && e.ReceivedAt.Before(now) {
		return e.ReceivedAt
	}
	return now
}

func (s State) conclude(d Decision, status Status, now time.Time) (State, Decision) {
	o := Outcome{Status: status, At: now, Arrivals: len(s.Arrivals), Mismatch: s.Mismatch}
	s.Outcomes = append(slices.Clone(s.Outcomes), o)
	d.New = append(slices.Clone(d.New), o)
	return s, d
}

func arrivalOf(e Event, accepted time.Time) Arrival {
	return Arrival{Region: e.Region, ReceivedAt: accepted.UTC(), EventTime: e.Time, Digest: e.Digest, Tag: e.Tag, Via: e.Via}
}

// arrival is the index of the arrival of r, -1 if it is missing.
func (s State) arrival(r Region) int {
	return slices.IndexFunc(s.Arrivals, func(a Arrival) bool { return a.Region == r })
}

// lastAccepted is when the newest arrival of these regions was accepted.
func (s State) lastAccepted(regions []Region) (at time.Time) {
	for _, a := range s.Arrivals {
		if slices.Contains(regions, a.Region) {
			at = later(at, a.ReceivedAt)
		}
	}
	return at
}

// notBefore keeps the times of one notification in order even if the clock was
// set back, or the actor moved to a machine whose clock is behind: an outcome is
// not decided before what it is decided about.
func (s State) notBefore(now time.Time) time.Time {
	now = later(now.UTC(), s.lastAccepted(s.All()))
	for _, o := range s.Outcomes {
		now = later(now, o.At)
	}
	return now
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Check reports what is wrong with a state that claims to come from this
// package.
func (s State) Check() error {
	if !s.Exists() {
		return errors.New("replication: no notification")
	}
	var path []Status
	for _, o := range s.Outcomes {
		path = append(path, o.Status)
	}
	paths := []string{"[]", "[replicated]", "[timedOut]", "[timedOut recovered]"}
	wrong := ""
	switch {
	case len(s.Expected) == 0:
		wrong = "expects no region"
	case !s.StartedAt.Before(s.Deadline) || s.Due.Before(s.Deadline):
		wrong = fmt.Sprintf("start %v, deadline %v and due %v are not in order", s.StartedAt, s.Deadline, s.Due)
	case len(s.Arrivals) == 0:
		wrong = "began without an event"
	case len(s.Arrivals)+len(s.Absent(s.All())) != len(s.All()):
		wrong = fmt.Sprintf("a region is twice, or not among %v: %+v", s.All(), s.Arrivals)
	case !slices.Contains(paths, fmt.Sprint(path)), slices.ContainsFunc(s.Outcomes, s.impossible):
		wrong = fmt.Sprintf("has the outcomes %+v with %d of %d regions in", s.Outcomes, len(s.Arrivals), len(s.All()))
	case (s.Status() == Collecting || s.Status() == TimedOut) && len(s.Missing()) == 0:
		wrong = fmt.Sprintf("is %s with all regions in", s.Status())
	default:
		return nil
	}
	return fmt.Errorf("replication: notification %s: %s", s.First.ID, wrong)
}

// impossible tells whether o cannot have been decided about its arrivals.
func (s State) impossible(o Outcome) bool {
	if o.Arrivals < 1 || o.Arrivals > len(s.Arrivals) {
		return true
	}
	then := s.As(o)
	complete := len(then.Missing()) == 0
	return complete == (o.Status == TimedOut) || o.Status == Replicated && slices.ContainsFunc(then.Arrivals, s.overdue)
}
