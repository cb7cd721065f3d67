package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// check complains of what is not as it must be in the end.
func (r *run) check() {
	r.world.Fail, r.world.FailRead, r.world.Before = nil, nil, nil
	if len(r.world.Reminders) != 0 {
		r.complain("a reminder is left")
	}
	if r.world.Refused > 0 && !r.interrupted && !r.failures[fake.Stale] && !r.failures[fake.Late] {
		r.complain("a save was refused, and nobody else has saved")
	}
	st, err := r.status()
	if errors.Is(err, notification.ErrNotFound) && !r.accepted(r.awaited().All()...) && len(r.world.Topic) == 0 {
		return // each webhook was refused, and nothing happened
	}
	if err != nil {
		r.complain("status: %v", err)
		return
	}
	for _, region := range regions {
		if slices.Contains(st.Missing, region) && r.accepted(region) {
			r.complain("%s was accepted and is missing", region)
		}
	}
	if r.accepted(optional) && !st.Has(optional) {
		r.complain("%s was accepted, and has %+v", optional, st.Optional)
	}
	r.checkStatus("in the end", st)
	r.checkTopic(st)
	r.checkRecord(st)
	r.checkIndex()
	r.checkList(st)
	r.checkUnreadable()
}

// checkUnreadable checks that what cannot be read is not told to be missing.
func (r *run) checkUnreadable() {
	r.world.FailRead = func(int, string) fake.Failure { return fake.Lost }
	if _, err := r.status(); !errors.Is(err, fake.Err) || errors.Is(err, notification.ErrNotFound) {
		r.complain("status of what cannot be read: %v", err)
	}
}

// checkTopic compares what was published with how it ended.
func (r *run) checkTopic(st notification.Status) {
	var outcomes []replication.Status
	for _, id := range r.world.Topic {
		if _, outcome, _ := strings.Cut(id, "/"); !slices.Contains(outcomes, replication.Status(outcome)) {
			outcomes = append(outcomes, replication.Status(outcome))
		}
	}
	want := []replication.Status{st.Status}
	if st.Status == replication.Recovered {
		want = []replication.Status{replication.TimedOut, replication.Recovered}
	}
	if !st.Concluded() || !slices.Equal(outcomes, want) {
		r.complain("is %s, and the topic has %q", st.Status, r.world.Topic)
	}
	if len(r.world.Topic) > len(outcomes) && r.wrong == "" && r.acr == nil {
		r.complain("nothing failed, and the topic has %q", r.world.Topic)
	}
	for _, outcome := range outcomes {
		r.checkEvent(outcome, st)
	}
}

// types are those of the events.
var types = map[replication.Status]string{
	replication.Replicated: notification.TypeCompleted,
	replication.TimedOut:   notification.TypeTimedOut,
	replication.Recovered:  notification.TypeRecovered,
}

// checkEvent checks the event of an outcome of what ended as st.
func (r *run) checkEvent(outcome replication.Status, st notification.Status) {
	id := notification.EventID(r.id, outcome)
	var e struct {
		ID, Type string
		Time     time.Time
		Data     notification.Status
	}
	if err := json.Unmarshal(r.world.Events[id], &e); err != nil {
		r.complain("%s: %v", id, err)
		return
	}
	was := e.Data
	if e.ID != id || e.Type != types[outcome] || was.Status != outcome || was.ConcludedAt == nil || !e.Time.Equal(*was.ConcludedAt) {
		r.complain("%s is published as %s", id, r.world.Events[id])
		return
	}
	r.checkStatus(id, was)
	r.checkTimes(id, was)
	if outcome == replication.TimedOut {
		r.checkMissing(id, was)
	} else if len(was.Missing) > 0 {
		r.complain("%s lacks %v", id, was.Missing)
	}
	// What was said is not taken back. A timeout leaves out what was not in time.
	if !was.StartedAt.Equal(st.StartedAt) || !was.Deadline.Equal(st.Deadline) || !isPart(was.Regions, st.Regions) || !isPart(was.OptionalIn(), st.OptionalIn()) {
		r.complain("%s says %+v, and in the end it is %+v", id, was, st)
	}
	if outcome == st.Status && !was.ConcludedAt.Equal(*st.ConcludedAt) {
		r.complain("%s is of %v, and in the end it is of %v", id, was.ConcludedAt, st.ConcludedAt)
	}
}

// isPart tells whether some are among all, in the same order.
func isPart(some, all []notification.RegionStatus) bool {
	for _, region := range all {
		if len(some) > 0 && reflect.DeepEqual(some[0], region) {
			some = some[1:]
		}
	}
	return len(some) == 0
}

// lastOf is when the newest of the regions was accepted.
func lastOf(regions []notification.RegionStatus) (last time.Time) {
	for _, region := range regions {
		if region.ReceivedAt.After(last) {
			last = region.ReceivedAt
		}
	}
	return last
}

// checkTimes checks when an outcome was decided, and when it was published.
func (r *run) checkTimes(id string, was notification.Status) {
	at, published := *was.ConcludedAt, r.world.PublishedAt[id]
	if last := lastOf(was.Regions); at.Before(last) || published.Before(at) {
		r.complain("%s is of %v, of the last region %v, published %v", id, at, last, published)
	}
	if want := was.DurationMS; want == nil || *want != at.Sub(was.StartedAt).Milliseconds() {
		r.complain("%s takes %v from %v to %v", id, want, was.StartedAt, at)
	}
	switch was.Status {
	case replication.TimedOut:
		if at.Before(was.Deadline) {
			r.complain("%s is of %v, %v before the deadline", id, at, was.Deadline.Sub(at))
		}
	case replication.Replicated:
		for _, region := range was.Regions {
			if !region.ReceivedAt.Before(was.Deadline) {
				r.complain("%s with %s of %v, after the deadline", id, region.Region, region.ReceivedAt)
			}
		}
	}
	if latest := r.latest(was); published.After(latest) {
		r.complain("%s is of %v, and is published %v after that, later than %v", id, at, published.Sub(at), latest.Sub(at))
	}
}

// due is when a notification with that status is timedOut: beyond the deadline by the
// grace, or beyond the coming of its first event.
func (r *run) due(was notification.Status, first time.Time) time.Time {
	due := was.Deadline
	if first.After(due) {
		due = first
	}
	return due.Add(replication.Plan{Timeout: r.timeout}.Grace())
}

// firstReached is when the first event was in the notification.
func (r *run) firstReached() (first time.Time) {
	for _, posts := range r.posts {
		for _, p := range posts {
			if !p.reached.IsZero() && (first.IsZero() || p.reached.Before(first)) {
				first = p.reached
			}
		}
	}
	return first
}

// lastReached is when the last event was in the notification.
func (r *run) lastReached() (last time.Time) {
	for _, posts := range r.posts {
		for _, p := range posts {
			if p.reached.After(last) {
				last = p.reached
			}
		}
	}
	return last
}

// latest is when an outcome must be published.
func (r *run) latest(was notification.Status) time.Time {
	at := *was.ConcludedAt
	if reached := r.lastReached(); was.Status != replication.TimedOut && reached.After(at) {
		at = reached
	}
	if r.world.Failed+r.world.Refused == 0 && r.acr == nil && was.Status == replication.Replicated {
		return at.Add(time.Second)
	}
	// The reminder repeats what was left, when it is due. One that is far ahead does not
	// wait for that.
	if due := r.due(was, r.lastReached()); at.Before(due) && due.Sub(at) <= 3*time.Minute+time.Second {
		at = due
	} else {
		at = at.Add(notification.Soon)
	}
	return at.Add(time.Duration(1+r.world.Failed+r.world.Refused)*notification.Period + r.delay)
}

// checkMissing checks that what is missing is what was not accepted in time.
func (r *run) checkMissing(id string, was notification.Status) {
	for _, region := range regions {
		certain, possible := r.inTime(region, was)
		switch missing := slices.Contains(was.Missing, region); {
		case missing && certain:
			r.complain("%s lacks %s, which was accepted before the deadline, %v", id, region, was.Deadline)
		case !missing && !possible:
			r.complain("%s does not lack %s, which was not accepted before the deadline, %v", id, region, was.Deadline)
		}
	}
}

// inTime tells whether an event of a region was accepted before the deadline, and
// reached its notification before that was due. It is possible, and not certain, if
// its sender was told that it was not, or if it came too late, or if a copy came first
// that was not in time.
func (r *run) inTime(region replication.Region, was notification.Status) (certain, possible bool) {
	late := false
	for _, p := range r.posts[region] {
		possible = possible || p.from.Before(was.Deadline)
		late = late || !p.from.Before(was.Deadline)
		certain = certain || p.accepted && p.to.Before(was.Deadline) && !p.reached.IsZero() && p.reached.Before(r.due(was, r.firstReached()))
	}
	if at, ok := r.fired[region]; ok && r.acr != nil && at.Before(was.Deadline) {
		possible = true
		certain = certain || !r.acr.withheld[region]
	}
	return certain && !late, possible
}

// accepted tells whether an event of any of these regions was.
func (r *run) accepted(of ...replication.Region) bool {
	return slices.ContainsFunc(of, func(region replication.Region) bool {
		return slices.ContainsFunc(r.posts[region], func(p post) bool { return p.accepted })
	})
}

// checkStatus checks what holds for a status at any time.
func (r *run) checkStatus(where string, st notification.Status) {
	want := r.event("")
	got := replication.Event{ID: st.ID, Action: st.Action, Registry: st.Registry, Repository: st.Repository, Tag: st.Tag, Digest: st.Digest, Size: st.Size, Time: begin}
	if got != want || st.Mismatch {
		r.complain("%s: %+v, mismatch %v", where, got, st.Mismatch)
	}
	begins := func(regions []notification.RegionStatus) bool { // the first of them came first
		return len(regions) > 0 && regions[0].ReceivedAt.Equal(st.StartedAt)
	}
	if len(st.Reported()) > 0 && !begins(st.Regions) && !begins(st.OptionalIn()) {
		r.complain("%s: has %+v, and began at %v", where, st.Reported(), st.StartedAt)
	}
	for _, region := range st.Reported() {
		if region.ReceivedAt.Before(st.StartedAt) {
			r.complain("%s: %s is of %v, and it began at %v", where, region.Region, region.ReceivedAt, st.StartedAt)
		}
		if err := r.checkRegion(region, st); err != nil {
			r.complain("%s: %v", where, err)
		}
	}
	if got, want := st.Awaited(), r.awaited(); !sameRegions(got.Expected, want.Expected) || !sameRegions(got.Optional, want.Optional) {
		r.complain("%s: has %+v, lacks %v, optional %+v", where, st.Regions, st.Missing, st.Optional)
	}
	if !st.Deadline.Equal(st.StartedAt.Add(r.timeout)) {
		r.complain("%s: began at %v, deadline %v", where, st.StartedAt, st.Deadline)
	}
}

func sameRegions(a, b []replication.Region) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// checkRegion compares what is said of a region with what it sent.
func (r *run) checkRegion(said notification.RegionStatus, st notification.Status) error {
	if said.EventTime == nil || !said.EventTime.Equal(begin) {
		return fmt.Errorf("the event of %s is of %v", said.Region, said.EventTime)
	}
	fired, ok := r.fired[said.Region]
	if said.Via == replication.ViaEventLog {
		// After the deadline a turn may ask that has begun before the firing.
		if !ok || r.acr == nil || said.ReceivedAt.Before(fired) && said.ReceivedAt.Before(st.Deadline) {
			return fmt.Errorf("%s is of %v, fired at %v", said.Region, said.ReceivedAt, fired)
		}
		return nil
	}
	for _, p := range r.posts[said.Region] {
		if !said.ReceivedAt.Before(p.from) && !said.ReceivedAt.After(p.to) {
			return nil
		}
		// What was accepted before the first event that reached its notification is of
		// that one's time.
		if said.Via == replication.ViaQueue && p.from.Before(st.StartedAt) && said.ReceivedAt.Equal(st.StartedAt) {
			return nil
		}
	}
	return fmt.Errorf("%s is of %v, and came at %v", said.Region, said.ReceivedAt, r.posts[said.Region])
}

// checkRecord checks what a person reads.
func (r *run) checkRecord(st notification.Status) {
	data, _, err := r.records.Load(r.ctx, r.id)
	var record struct {
		ID, LoginServer, Image string
		Status                 replication.Status
		Missing                []replication.Region
	}
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil || record.ID != r.id || record.LoginServer != st.Registry || record.Image != st.Repository || record.Status != st.Status || !slices.Equal(record.Missing, st.Missing) {
		r.complain("is %+v, and the record says %+v, %v", st, record, err)
	}
}

// checkList compares what the list has with how it ended.
func (r *run) checkList(st notification.Status) {
	listed := r.world.Listed[r.id]
	var got notification.Status
	err := json.Unmarshal(listed.Status, &got)
	got.Size = st.Size // the list has none
	if err != nil || !reflect.DeepEqual(got, st) || !listed.StartedAt.Equal(st.StartedAt) || listed.Due.IsZero() != st.Concluded() {
		r.complain("is %+v, and listed as %+v, %+v, %v", st, listed, got, err)
	}
}

func (r *run) checkIndex() {
	for _, image := range []catalog.Image{{Digest: "sha256:aa"}, {Tag: "v1"}} {
		image.Registry, image.Repository = "contoso.azurecr.io", "shop/"+r.id
		if found, err := r.world.Find(r.ctx, image); err != nil || found != r.id {
			r.complain("%+v leads to %q, %v", image, found, err)
		}
	}
}
