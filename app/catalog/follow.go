package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"allregions/app/replication"
)

const (
	// followed is how many unsettled windows a Poll reads, beside the two newest. If there
	// are more, they take turns.
	followed = 8

	// listedLate is how many windows count as unsettled whatever is in them: an event that
	// waited in a queue, or was found in ACR's log, begins its notification in the past.
	listedLate = 6
)

// Follower finds what changes in the list. The first Poll reads the windows of a day, and
// each later one only those in which changes are likely: the two newest, and the others
// with a notification that is open or may still recover. One goroutine may use it.
type Follower struct {
	list    *List
	windows map[time.Time]*sight // by start: the unsettled ones
	turn    int                  // of those that take turns
}

// sight is what a Follower has seen of a window.
type sight struct {
	version string
	saves   map[string]int             // by notification
	open    map[string]json.RawMessage // the statuses of those that are collecting
	waiting bool                       // for a region of a notification that is open, or has timed out
}

// Follow returns a Follower that has seen nothing.
func (l *List) Follow() *Follower { return &Follower{list: l} }

// Poll returns the statuses that have changed since the last Poll; the first one returns
// none. After an error, the next one returns what this one would have.
func (f *Follower) Poll(ctx context.Context, now time.Time) (changed []json.RawMessage, err error) {
	first := f.windows == nil
	starts := f.due(now)
	seen := make([]*sight, len(starts))
	changes := make([][]json.RawMessage, len(starts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i, start := range starts {
		before := cmp.Or(f.windows[start], &sight{})
		group.Go(func() (err error) {
			seen[i], changes[i], err = f.list.look(ctx, start, before)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if first {
		f.windows = map[time.Time]*sight{}
	}
	for i, start := range starts {
		f.windows[start] = seen[i]
		changed = append(changed, changes[i]...)
	}
	late := windowStart(now).Add(-listedLate * windowLength)
	maps.DeleteFunc(f.windows, func(start time.Time, s *sight) bool {
		return start.Before(late) && !s.waiting || start.Before(now.Add(-maxWindows*windowLength))
	})
	if first {
		changed = nil
	}
	return changed, nil
}

// due are the windows that the next Poll reads.
func (f *Follower) due(now time.Time) (starts []time.Time) {
	newest := windowStart(now.Add(skew))
	if f.windows == nil {
		for i := range maxWindows {
			starts = append(starts, newest.Add(-time.Duration(i)*windowLength))
		}
		return starts
	}
	starts = []time.Time{newest, newest.Add(-windowLength)}
	others := slices.SortedFunc(maps.Keys(f.windows), time.Time.Compare)
	others = slices.DeleteFunc(others, func(t time.Time) bool { return slices.ContainsFunc(starts, t.Equal) })
	for range min(followed, len(others)) {
		f.turn++
		starts = append(starts, others[f.turn%len(others)])
	}
	return starts
}

// Open are the statuses of the notifications that were collecting at the last Poll, the
// newest first.
func (f *Follower) Open() []json.RawMessage {
	open := []json.RawMessage{}
	for _, start := range slices.SortedFunc(maps.Keys(f.windows), func(a, b time.Time) int { return b.Compare(a) }) {
		open = slices.AppendSeq(open, maps.Values(f.windows[start].open))
	}
	return open
}

// look reads a window, and returns it with the statuses that are news to before.
func (l *List) look(ctx context.Context, start time.Time, before *sight) (*sight, []json.RawMessage, error) {
	entries, version, err := l.entries(ctx, start, before.version)
	if err != nil {
		return nil, nil, fmt.Errorf("read list %s: %w", windowID(start), err)
	}
	if version == "" || version == before.version {
		return before, nil, nil
	}
	var news []json.RawMessage
	now := &sight{version: version, saves: map[string]int{}, open: map[string]json.RawMessage{}}
	for _, e := range entries {
		var s struct {
			Status replication.Status `json:"status"`
		}
		if err := json.Unmarshal(e.Status, &s); err != nil {
			return nil, nil, fmt.Errorf("read list %s: %w", windowID(start), err)
		}
		now.saves[e.ID] = e.Saves
		now.waiting = now.waiting || s.Status == replication.Collecting || s.Status == replication.TimedOut
		if s.Status == replication.Collecting {
			now.open[e.ID] = e.Status
		}
		if e.Saves > before.saves[e.ID] {
			news = append(news, e.Status)
		}
	}
	return now, news, nil
}
