package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"allregions/app/replication"
)

const (
	overlap    = 5 * time.Minute  // of two readings of a log: ACR may log a firing late
	inFlight   = 10 * time.Second // for so long a firing without an answer may get one
	maxSettled = 30_000           // firings that are remembered; a forgotten one costs a lookup, and 26 bytes of the record less
)

// sweepRecord is what the sweep of ACR's event log needs to know the next time. Its JSON
// form is part of the record.
type sweepRecord struct {
	progress
	Since    time.Time       `json:"since,omitzero"`     // of the first sweep: what was fired before is none of its business
	Logs     map[string]mark `json:"logs,omitempty"`     // by webhook
	Found    int             `json:"found,omitempty"`    // events that no notification had, since the record began
	Disagree *disagreement   `json:"disagree,omitempty"` // nil while ids agree
}

// mark is how far the log of a webhook is read.
type mark struct {
	At      time.Time        `json:"at,omitzero"`       // when a reading began that was a whole one
	Last    *answer          `json:"last,omitempty"`    // to the newest firing
	Settled map[string]int64 `json:"settled,omitempty"` // firings that need no look any more, by key: when they were fired
}

// logReading is what a reading of the log of a webhook found.
type logReading struct {
	webhook string
	firings []firing // in any order
	began   time.Time
	whole   bool // it went back as far as it had to
}

// SweepFunc gives in what ACR's log has and no notification has, and returns what is to
// be remembered; nil for what it was. Its progress is filled in by the caller. An error
// means that not all of it was done.
type SweepFunc func(ctx context.Context, r record, now time.Time) (*sweepRecord, error)

// key is short, for there may be many, whatever an id looks like.
func (f firing) key() string {
	sum := sha256.Sum256([]byte(f.event.ID))
	return hex.EncodeToString(sum[:6])
}

// fate is what becomes of a firing.
type fate string

const (
	lookUp fate = "lookUp" // does its notification have it?
	known  fate = "known"  // that is known already
	tooOld fate = "tooOld" // CATCH_UP, or the first sweep
	tooNew fate = "tooNew" // ACR may still wait for the answer
)

// from is when the firings begin that count.
func (r sweepRecord) from(catchUp time.Duration, now time.Time) time.Time {
	if since := cmp.Or(r.Since, now); since.After(now.Add(-catchUp)) {
		return since
	}
	return now.Add(-catchUp)
}

// fateOf decides about a firing of a webhook.
func (r sweepRecord) fateOf(webhook string, f firing, from, now time.Time) fate {
	_, done := r.Logs[webhook].Settled[f.key()]
	switch {
	case f.event.ReceivedAt.Before(from):
		return tooOld
	case done:
		return known
	case f.status == "" && now.Sub(f.event.ReceivedAt) < inFlight:
		return tooNew
	}
	return lookUp
}

// carry is the record after these readings, before anything is looked up: what is too old
// to be read again is forgotten, and so is a webhook that is gone.
func (r sweepRecord) carry(readings []logReading, from, now time.Time) sweepRecord {
	logs := map[string]mark{}
	for _, l := range readings {
		m := mark{At: r.Logs[l.webhook].At, Last: r.Logs[l.webhook].Last, Settled: map[string]int64{}}
		for _, f := range l.firings {
			m.Last = m.Last.or(f)
		}
		if l.whole {
			m.At = l.began
		}
		to := m.readTo(from).Unix()
		for key, at := range r.Logs[l.webhook].Settled {
			if at >= to {
				m.Settled[key] = at
			}
		}
		logs[l.webhook] = m
	}
	r.Since, r.Logs = cmp.Or(r.Since, now.Truncate(time.Second)), logs // ACR dates what was answered to the second
	return r
}

// readTo is how far back the log is read the next time.
func (m mark) readTo(from time.Time) time.Time { return later(from, m.At.Add(-overlap)) }

// settle notes that a firing needs no look any more.
func (m mark) settle(f firing) { m.Settled[f.key()] = f.event.ReceivedAt.Unix() }

// forget keeps the newest of what is settled: each webhook may have the same part of
// maxSettled.
func (r sweepRecord) forget() {
	for _, m := range r.Logs {
		if surplus := len(m.Settled) - maxSettled/len(r.Logs); surplus > 0 {
			oldest := slices.SortedFunc(maps.Keys(m.Settled), func(a, b string) int { return cmp.Compare(m.Settled[a], m.Settled[b]) })
			for _, key := range oldest[:surplus] {
				delete(m.Settled, key)
			}
		}
	}
}

// sweep decides about all firings. What is to be looked up comes by image, and there by
// notification, the newest first: then the index knows of a newer push of a tag before
// an older one has its outcome. In a notification the oldest is first, which starts it.
func sweep(r sweepRecord, readings []logReading, from, now time.Time) (todo [][][]firing, counts map[fate]int) {
	byID := map[string][]firing{}
	counts = map[fate]int{}
	for _, l := range readings {
		for _, f := range l.firings {
			what := r.fateOf(l.webhook, f, from, now)
			counts[what]++
			if what == lookUp {
				byID[f.event.ID] = append(byID[f.event.ID], f)
			}
		}
	}
	byImage := map[string][][]firing{}
	for _, firings := range byID {
		slices.SortStableFunc(firings, func(a, b firing) int { return a.event.ReceivedAt.Compare(b.event.ReceivedAt) })
		e := firings[0].event
		image := e.Repository + ":" + cmp.Or(e.Tag, e.Digest)
		byImage[image] = append(byImage[image], firings)
	}
	for _, notifications := range byImage {
		slices.SortFunc(notifications, func(a, b []firing) int { return b[0].event.ReceivedAt.Compare(a[0].event.ReceivedAt) })
		todo = append(todo, notifications)
	}
	return todo, counts
}

// disagreement is two events of what must be one push, with two ids.
type disagreement struct {
	At     time.Time      `json:"at"` // when the later one was fired
	Events [2]disagreeing `json:"events"`
}

type disagreeing struct {
	ID     string             `json:"id"`
	Region replication.Region `json:"region"`
	Time   time.Time          `json:"time"` // when it was fired
}

// compare looks for two regions that have fired for the same action, repository, tag and
// digest within the timeout, and share no id. It returns the newest such pair, and whether
// any regions share one. What is newer than until does not make a pair: other regions may
// fire yet.
func compare(readings []logReading, timeout time.Duration, from, until time.Time) (pair *disagreement, agree bool) {
	type image struct{ action, repository, tag, digest string }
	byImage := map[image][]replication.Event{}
	for _, l := range readings {
		for _, f := range l.firings {
			if e := f.event; e.Digest != "" && !e.ReceivedAt.Before(from) {
				i := image{e.Action, e.Repository, e.Tag, e.Digest}
				byImage[i] = append(byImage[i], e)
			}
		}
	}
	for _, events := range byImage {
		type regions struct{ a, b replication.Region }
		share := map[regions]bool{}
		for _, a := range events {
			for _, b := range events {
				if a.ID == b.ID && a.Region != b.Region {
					share[regions{a.Region, b.Region}], agree = true, true
				}
			}
		}
		slices.SortFunc(events, func(a, b replication.Event) int { return a.ReceivedAt.Compare(b.ReceivedAt) })
		for i, b := range events {
			for _, a := range events[:i] {
				if a.Region != b.Region && !share[regions{a.Region, b.Region}] && b.ReceivedAt.Sub(a.ReceivedAt) <= timeout &&
					!b.ReceivedAt.After(until) && (pair == nil || !b.ReceivedAt.Before(pair.At)) {
					pair = &disagreement{At: b.ReceivedAt, Events: [2]disagreeing{{a.ID, a.Region, a.ReceivedAt}, {b.ID, b.Region, b.ReceivedAt}}}
				}
			}
		}
	}
	return pair, agree
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
