package catalog

import (
	"context"
	"slices"
	"sync"
	"time"

	"allregions/app/replication"
)

// Activity is what a region has done in the last day, by the notifications that the list
// has.
type Activity struct {
	LastEvent   time.Time // when its newest event was accepted; zero without one
	Count       int       // of events
	Median, P95 time.Duration
	Missed      int // notifications that timed out without it
}

// activityAge is how old an answer may be.
const activityAge = time.Minute

type activityCache struct {
	mu       sync.Mutex
	at       time.Time
	byRegion map[replication.Region]Activity
}

// Activity returns what each region has done in the day before now. Median and P95 are of
// the times from a notification's first event until the region's; 0 for the first. This
// replica reads for it at most once a minute. The map is shared: it must not be changed.
func (l *List) Activity(ctx context.Context, now time.Time) (map[replication.Region]Activity, error) {
	c := &l.activity
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byRegion != nil && now.Sub(c.at) < activityAge {
		return c.byRegion, nil
	}
	byRegion, latencies := map[replication.Region]Activity{}, map[replication.Region][]time.Duration{}
	since := now.Add(-maxWindows * windowLength)
	for w, err := range l.read(ctx, now, maxWindows+1) {
		if err != nil {
			return nil, err
		}
		for _, s := range w.statuses {
			if !s.StartedAt.Before(since) {
				s.addTo(byRegion, latencies)
			}
		}
	}
	for region, all := range latencies {
		slices.Sort(all)
		a := byRegion[region]
		a.Count, a.Median, a.P95 = len(all), nearest(all, 50), nearest(all, 95)
		byRegion[region] = a
	}
	c.at, c.byRegion = now, byRegion
	return byRegion, nil
}

// nearest is the percentile of sorted durations by the nearest rank.
func nearest(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)*percent+99)/100-1]
}

func (s status) addTo(byRegion map[replication.Region]Activity, latencies map[replication.Region][]time.Duration) {
	missed := s.Missing
	for _, r := range s.Regions {
		a := byRegion[r.Region]
		if r.ReceivedAt.After(a.LastEvent) {
			a.LastEvent = r.ReceivedAt
		}
		byRegion[r.Region] = a
		latencies[r.Region] = append(latencies[r.Region], r.ReceivedAt.Sub(s.StartedAt))
		if !r.ReceivedAt.Before(s.Deadline) { // it came too late
			missed = append(slices.Clip(missed), r.Region)
		}
	}
	if s.Status != replication.TimedOut && s.Status != replication.Recovered {
		return
	}
	for _, region := range missed {
		a := byRegion[region]
		a.Missed++
		byRegion[region] = a
	}
}
