package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	Search                    string             // a part of repository:tag@digest, in lower case

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
	p, start := Page{Notifications: []json.RawMessage{}}, windowStart(newest)
	var last Position
	for range maxWindows {
		statuses, err := l.read(ctx, start)
		if err != nil {
			return Page{}, err
		}
		for _, s := range statuses {
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
		if !start.After(q.Since) {
			return p, nil
		}
		last = Position{StartedAt: start}
		start = start.Add(-windowLength)
	}
	p.Next = &last
	return p, nil
}

// status is what the list reads of a JSON status, and all of it.
type status struct {
	ID         string               `json:"id"`
	Registry   string               `json:"registry"`
	Repository string               `json:"repository"`
	Tag        string               `json:"tag"`
	Digest     string               `json:"digest"`
	Status     replication.Status   `json:"status"`
	StartedAt  time.Time            `json:"startedAt"`
	Deadline   time.Time            `json:"deadline"`
	Regions    []region             `json:"regions"`
	Optional   []region             `json:"optional"` // also those that have not reported
	Missing    []replication.Region `json:"missing"`

	data json.RawMessage
}

// region is one of a status; without a time it has not reported.
type region struct {
	Region     replication.Region `json:"region"`
	ReceivedAt time.Time          `json:"receivedAt"`
}

func (s status) position() Position { return Position{s.StartedAt, s.ID} }

// name is what a search looks into.
func (s status) name() string { return strings.ToLower(s.Repository + ":" + s.Tag + "@" + s.Digest) }

func (q Query) matches(s status) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return is(string(q.Status), string(s.Status)) && (q.Registry == "" || replication.NamesRegistry(q.Registry, s.Registry)) && is(q.Repository, s.Repository) && is(q.Tag, s.Tag) &&
		(q.Missing == "" || slices.Contains(s.Missing, q.Missing)) && (q.Search == "" || strings.Contains(s.name(), q.Search)) && !s.StartedAt.Before(q.Since) &&
		(q.After.StartedAt.IsZero() || s.position().compare(q.After) > 0)
}

// entries reads a window, unless it still is what had that version. There is no version
// where there is no window.
func (l *List) entries(ctx context.Context, start time.Time, known string) (entries []Listed, version string, err error) {
	data, version, err := l.records.Load(ctx, windowID(start))
	if err != nil || len(data) == 0 || known != "" && version == known {
		return nil, version, err
	}
	var w struct {
		Entries []Listed `json:"entries"`
	}
	err = json.Unmarshal(data, &w)
	return w.Entries, version, err
}

// read returns what began in the ten minutes from start, in the order of the list.
func (l *List) read(ctx context.Context, start time.Time) (statuses []status, err error) {
	entries, _, err := l.entries(ctx, start, "")
	for _, e := range entries {
		s := status{data: e.Status}
		err = errors.Join(err, json.Unmarshal(e.Status, &s))
		statuses = append(statuses, s)
	}
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", windowID(start), err)
	}
	slices.SortFunc(statuses, func(a, b status) int { return a.position().compare(b.position()) })
	return statuses, nil
}
