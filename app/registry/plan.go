package registry

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"allregions/app/replication"
)

// work is a kind of work.
type work string

const (
	readReplicas  work = "replicas" // which there are, and which of them count
	checkWebhooks work = "webhooks" // whether they are as they must be
	sweepLog      work = "sweep"    // what ACR's log has that no notification has
)

// How often each work is done, and again after a failure. A work is due a little before
// its time, for the actor is woken once in each Period.
var (
	every = map[work]time.Duration{readReplicas: 10 * time.Minute, checkWebhooks: time.Hour, sweepLog: time.Minute}
	slack = 10 * time.Second
)

const (
	// Period is the time between two firings of the reminder that wakes the actor.
	Period = time.Minute

	recheckInterval = time.Minute      // at least, between two readings that unexpected regions ask for
	forgetAfter     = 24 * time.Hour   // what becomes of a replica that is gone
	stalledAfter    = 3 * Period       // what is due for so long needs a new reminder
	leaseTime       = 30 * time.Second // without a word of its holder
	notFound        = "NotFound"       // a replica's state: ARM says that there is none
	maxError        = 300              // bytes of an error in the record
)

// Duties are the kinds of work that a process can do, beside reading the replicas.
type Duties struct {
	Webhooks bool `json:"webhooks,omitempty"`
	Sweep    bool `json:"sweep,omitempty"`
}

// reason says why work is due.
type reason string

const (
	first    reason = "first"    // it was never done
	asked    reason = "asked"    // an unexpected region has posted
	changed  reason = "changed"  // the regions are others than the last time
	again    reason = "again"    // it failed the last time
	interval reason = "interval" // its time has come
)

// task is work that is due.
type task struct {
	Work work   `json:"work"`
	Why  reason `json:"why"`
}

// String is "replicas: first", for logs.
func (t task) String() string { return string(t.Work) + ": " + string(t.Why) }

// plan says what is due, in the order in which it is to be done: a check of the webhooks
// may take minutes.
func plan(r record, d Duties, now time.Time) (due []task) {
	add := func(w work, p progress, yes bool, why reason) {
		switch {
		case p.Tried.IsZero():
			why = first
		case yes:
		case now.Before(p.Next.Add(-slack)):
			return
		case p.Error != "":
			why = again
		default:
			why = interval
		}
		due = append(due, task{w, why})
	}
	add(readReplicas, r.Replicas.progress, !r.Asked.IsZero(), asked)
	expected := r.Replicas.expected()
	if d.Sweep && len(expected) > 0 {
		add(sweepLog, r.Sweep.progress, false, "")
	}
	if d.Webhooks && len(expected) > 0 {
		add(checkWebhooks, r.Webhooks.progress, !slices.Equal(r.Webhooks.Regions, expected), changed)
	}
	return due
}

// stalled tells whether work is due for so long that the reminder must be lost.
func stalled(r record, d Duties, now time.Time) bool {
	then := now.Add(-stalledAfter)
	return r.Lease.Until.Before(then) && len(plan(r, d, then)) > 0
}

// ask notes that an unexpected region has posted, if that can bring news: the replicas
// were not read just now.
func (r record) ask(now time.Time) record {
	p := r.Replicas.progress
	if r.Asked.IsZero() && now.Sub(p.Tried) >= recheckInterval && (p.Error == "" || !now.Before(p.Next)) {
		r.Asked = now
	}
	return r
}

// lease is the right to do what is due.
type lease struct {
	Holder string    `json:"holder,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// decision is what became of a call of the actor.
type decision string

const (
	taken     decision = "taken"     // nobody had the lease
	takenOver decision = "takenOver" // its holder has let it run out
	kept      decision = "kept"      // the caller has it already
	held      decision = "held"      // refused: another one has it
	idle      decision = "idle"      // refused: nothing is due
	lost      decision = "lost"      // refused: the caller does not have it any more
	done      decision = "done"      // the result is saved, and nothing else is due
)

// granted tells whether the caller now has the lease.
func (d decision) granted() bool { return d == taken || d == takenOver || d == kept }

// take decides who has the lease, if there is something to do.
func (l lease) take(holder string, due bool, now time.Time) (lease, decision) {
	expired := !now.Before(l.Until)
	mine := lease{holder, now.Add(leaseTime)}
	switch {
	case l.Holder != holder && l.Holder != "" && !expired:
		return l, held
	case !due:
		return lease{}, idle
	case l.Holder == holder:
		return mine, kept
	case l.Holder != "":
		return mine, takenOver
	}
	return mine, taken
}

// after is the progress when the work was done at now, with that error, or "". What the
// result says about ARM's wish to be left alone counts.
func (p progress) after(w work, now time.Time, failure string, retryAfter time.Duration) progress {
	p.Tried, p.Error = now, failure
	if failure == "" {
		p.At, p.Failures, p.Next = now, 0, now.Add(every[w])
		return p
	}
	wait := Period
	if w == checkWebhooks { // that is many calls
		wait = min(every[w], Period<<min(p.Failures, 10))
	}
	p.Failures++
	p.Next = now.Add(max(wait, retryAfter+slack))
	return p
}

// result is what the holder of the lease has done.
type result struct {
	Work       work          `json:"work"`
	Error      string        `json:"error,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"` // ARM's wish, with an error
	Asked      time.Time     `json:"asked,omitzero"`       // the record's, when the work began

	// What the work came to, if it came to anything; perhaps not all of it, with an error.
	Observed *observed                   `json:"observed,omitempty"`
	Webhooks map[replication.Region]hook `json:"webhooks,omitempty"`
	Sweep    *sweepRecord                `json:"sweep,omitempty"`
}

// apply returns the record with a result. Changes are for the log.
func (r record) apply(m result, now time.Time) (_ record, changes []string) {
	switch m.Work {
	case readReplicas:
		if m.Observed != nil {
			r.LoginServer = cmp.Or(m.Observed.LoginServer, r.LoginServer)
			r.Replicas.List, changes = learn(r.Replicas.List, *m.Observed, now)
		}
		if r.Asked.Equal(m.Asked) {
			r.Asked = time.Time{}
		}
		r.Replicas.progress = r.Replicas.after(m.Work, now, m.Error, m.RetryAfter)
	case checkWebhooks:
		if m.Webhooks != nil {
			r.Webhooks.By = m.Webhooks
		}
		r.Webhooks.Regions = r.Replicas.expected()
		r.Webhooks.progress = r.Webhooks.after(m.Work, now, m.Error, m.RetryAfter)
	case sweepLog:
		p := r.Sweep.progress
		if m.Sweep != nil {
			r.Sweep = *m.Sweep
		}
		r.Sweep.progress = p.after(m.Work, now, m.Error, m.RetryAfter)
	}
	return r, changes
}

// observed is what ARM says of a registry.
type observed struct {
	LoginServer string             `json:"loginServer"`
	Home        replication.Region `json:"home"`
	Replicas    []word             `json:"replicas"`
}

// word is what ARM says of one replica, asked for itself.
type word struct {
	Name   string             `json:"name"`
	Region replication.Region `json:"region"`
	State  string             `json:"state,omitempty"`
	Error  string             `json:"error,omitempty"` // why that is not known
}

// counts tells whether a replica takes part in replication: one that is being created does
// not yet, and one that failed never will. A state that says neither changes nothing.
func counts(state string, before bool) bool {
	switch state {
	case "Succeeded", "Updating":
		return true
	case "Creating", "Deleting", "Failed", notFound:
		return false
	}
	return before
}

// failed says which replicas have not answered; "" if all have.
func (o observed) failed() string {
	var failed []string
	for _, w := range o.Replicas {
		if w.Error != "" {
			failed = append(failed, string(w.Region)+": "+w.Error)
		}
	}
	return strings.Join(failed, "; ")
}

// learn returns the replicas after a reading. Each replica's own word counts; one without
// a word stays what it was. While nothing is known, half a reading is none: with it,
// notifications would complete too early. Changes are for the log.
func learn(have []replica, o observed, now time.Time) (list []replica, changes []string) {
	if len(have) == 0 && o.failed() != "" {
		return nil, nil
	}
	known := map[replication.Region]replica{}
	for _, r := range have {
		known[r.Region] = r
	}
	for _, w := range o.Replicas {
		if w.Error != "" {
			continue
		}
		r := known[w.Region]
		if r.Region, r.Name = w.Region, w.Name; r.State != w.State {
			changes = append(changes, fmt.Sprintf("%s: %s, was %s", w.Region, w.State, cmp.Or(r.State, "unknown")))
			r.State, r.Since = w.State, now
		}
		r.Counts = counts(r.State, r.Counts) || w.Region == o.Home // which cannot be deleted
		known[w.Region] = r
	}
	for _, r := range known {
		if r.State != notFound || now.Sub(r.Since) < forgetAfter {
			list = append(list, r)
		}
	}
	place := func(r replica) replication.Region {
		if r.Region == o.Home {
			return "" // first
		}
		return r.Region
	}
	slices.SortFunc(list, func(a, b replica) int { return cmp.Compare(place(a), place(b)) })
	return list, changes
}
