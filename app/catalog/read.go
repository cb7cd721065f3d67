package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"allregions/app/replication"
)

// Position is a place in the list, which is ordered by it, the newest first.
type Position struct {
	StartedAt    time.Time
	Notification string
}

// compare is negative if p comes before q.
func (p Position) compare(q Position) int {
	return cmp.Or(q.StartedAt.Compare(p.StartedAt), cmp.Compare(q.Notification, p.Notification))
}

// Query is what a page of the list is to have. The zero value of a field asks for all,
// but for Limit.
type Query struct {
	Status                    replication.Status
	Registry, Repository, Tag string
	Missing                   replication.Region // a region that has not reported

	Since time.Time // began then or later
	After Position  // behind that place
	Limit int       // how many, at least 1
}

// Page is a part of the list: JSON statuses without sizes. With Next, more may follow
// there.
type Page struct {
	Notifications []json.RawMessage
	Next          *Position
}

// maxWindows bounds how many windows one page reads: a day.
const maxWindows = 144

// skew is how far ahead another replica's clock may be.
const skew = time.Minute

// Page returns a page of what was listed by now. It takes no turn. A page that has read
// a day's windows ends there, however little it has found.
func (l *List) Page(ctx context.Context, q Query, now time.Time) (Page, error) {
	newest := now.Add(skew)
	if at := q.After.StartedAt; !at.IsZero() && at.Before(newest) {
		newest = at
		if q.After.Notification == "" { // before all of that time
			newest = at.Add(-1)
		}
	}
	p := Page{Notifications: []json.RawMessage{}}
	var last Position
	for w, err := range l.read(ctx, newest, maxWindows) {
		if err != nil {
			return Page{}, err
		}
		for _, s := range w.statuses {
			if !q.matches(s) {
				continue
			}
			if len(p.Notifications) == q.Limit {
				p.Next = &last
				return p, nil
			}
			last = s.position()
			p.Notifications = append(p.Notifications, s.data)
		}
		if !w.start.After(q.Since) {
			return p, nil
		}
		newest = w.start
	}
	p.Next = &Position{StartedAt: newest}
	return p, nil
}

// status is what the list reads of a JSON status, and all of it.
type status struct {
	ID         string             `json:"id"`
	Registry   string             `json:"registry"`
	Repository string             `json:"repository"`
	Tag        string             `json:"tag"`
	Status     replication.Status `json:"status"`
	StartedAt  time.Time          `json:"startedAt"`
	Deadline   time.Time          `json:"deadline"`
	Regions    []struct {
		Region     replication.Region `json:"region"`
		ReceivedAt time.Time          `json:"receivedAt"`
	} `json:"regions"`
	Missing []replication.Region `json:"missing"`

	data json.RawMessage
}

func (s status) position() Position { return Position{s.StartedAt, s.ID} }

func (q Query) matches(s status) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return is(string(q.Status), string(s.Status)) && is(q.Registry, s.Registry) && is(q.Repository, s.Repository) && is(q.Tag, s.Tag) &&
		(q.Missing == "" || slices.Contains(s.Missing, q.Missing)) && !s.StartedAt.Before(q.Since) &&
		(q.After.StartedAt.IsZero() || s.position().compare(q.After) > 0)
}

// read is a window as it was read, its statuses in the order of the list.
type read struct {
	start    time.Time
	statuses []status
	err      error
}

// The most windows that are read at the same time. The first reading is of few: that is
// where most of those who ask find what they want.
const (
	firstTogether = 2
	mostTogether  = 16
)

// read reads n windows, that of newest first. It reads a few ahead of what is asked for.
func (l *List) read(ctx context.Context, newest time.Time, n int) iter.Seq2[read, error] {
	return func(yield func(read, error) bool) {
		start := windowStart(newest)
		for together := firstTogether; n > 0; together = min(2*together, mostTogether) {
			reads := make([]read, min(n, together))
			n -= len(reads)
			var wg sync.WaitGroup
			for i := range reads {
				reads[i].start = start
				start = start.Add(-windowLength)
				wg.Go(func() { reads[i].statuses, reads[i].err = l.readWindow(ctx, windowID(reads[i].start)) })
			}
			wg.Wait()
			for _, r := range reads {
				if !yield(r, r.err) || r.err != nil {
					return
				}
			}
		}
	}
}

func (l *List) readWindow(ctx context.Context, id string) (statuses []status, err error) {
	data, _, err := l.records.Load(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", id, err)
	}
	var w struct {
		Entries []Listed `json:"entries"`
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &w); err != nil {
			return nil, fmt.Errorf("read list %s: %w", id, err)
		}
	}
	for _, e := range w.Entries {
		s := status{data: e.Status}
		if err := json.Unmarshal(e.Status, &s); err != nil {
			return nil, fmt.Errorf("read list %s, %s: %w", id, e.ID, err)
		}
		statuses = append(statuses, s)
	}
	slices.SortFunc(statuses, func(a, b status) int { return a.position().compare(b.position()) })
	return statuses, nil
}
