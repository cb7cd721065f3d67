package catalog

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"allregions/app/replication"
)

// Place is a region of a registry, or, without a Registry, the region in all of them.
type Place struct {
	Registry string // login server
	Region   replication.Region
}

// Activity is what a region did in a day, by the notifications that the list has.
type Activity struct {
	LastEvent   time.Time     // when its newest event was accepted; zero without one
	Count       int           // of its events
	Median, P95 time.Duration // from a notification's first event until the region's, which is 0 for the first
	Missed      int           // notifications that timed out without it

	latencies []time.Duration
}

// activityAge is how old an answer may be.
const activityAge = time.Minute

// activities are what was read last.
type activities struct {
	mu      sync.Mutex
	at      time.Time
	byPlace map[Place]Activity
}

// Activity returns what each region did in the day before now. This replica reads the
// windows for it at most once a minute.
func (l *List) Activity(ctx context.Context, now time.Time) (map[Place]Activity, error) {
	l.activities.mu.Lock()
	defer l.activities.mu.Unlock()
	if l.activities.byPlace != nil && now.Sub(l.activities.at) < activityAge {
		return maps.Clone(l.activities.byPlace), nil
	}
	byPlace := map[Place]Activity{}
	since := now.Add(-maxWindows * windowLength)
	for start := windowStart(now); !start.Before(windowStart(since)); start = start.Add(-windowLength) {
		statuses, err := l.read(ctx, start)
		if err != nil {
			return nil, err
		}
		for _, s := range statuses {
			if !s.StartedAt.Before(since) {
				s.addTo(byPlace, "")
				if s.Registry != "" {
					s.addTo(byPlace, s.Registry)
				}
			}
		}
	}
	for place, a := range byPlace {
		if a.Count = len(a.latencies); a.Count > 0 {
			slices.Sort(a.latencies)
			a.Median, a.P95 = a.nearest(50), a.nearest(95)
		}
		a.latencies = nil
		byPlace[place] = a
	}
	l.activities.at, l.activities.byPlace = now, byPlace
	return maps.Clone(byPlace), nil
}

// nearest is a percentile of the latencies, by the nearest rank.
func (a Activity) nearest(percent int) time.Duration {
	return a.latencies[(len(a.latencies)*percent+99)/100-1]
}

func (s status) addTo(byPlace map[Place]Activity, registry string) {
	missed := slices.Clone(s.Missing)
	for _, r := range slices.Concat(s.Regions, s.Optional) {
		if r.ReceivedAt.IsZero() {
			continue
		}
		place := Place{registry, r.Region}
		a := byPlace[place]
		if r.ReceivedAt.After(a.LastEvent) {
			a.LastEvent = r.ReceivedAt
		}
		a.latencies = append(a.latencies, r.ReceivedAt.Sub(s.StartedAt))
		byPlace[place] = a
		if !r.ReceivedAt.Before(s.Deadline) && !slices.Contains(s.Optional, r) {
			missed = append(missed, r.Region)
		}
	}
	if s.Status == replication.TimedOut || s.Status == replication.Recovered {
		for _, region := range missed {
			place := Place{registry, region}
			a := byPlace[place]
			a.Missed++
			byPlace[place] = a
		}
	}
}
