package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"allregions/app/replication"
)

// How often the regions are read, and for how long one reading may take.
const (
	refreshInterval = 10 * time.Minute
	retryInterval   = 15 * time.Second // while the last reading failed
	recheckInterval = time.Minute      // at most, when an unexpected region posts
	readTimeout     = 10 * time.Second
	recheckTimeout  = 1500 * time.Millisecond // a webhook waits for it
)

// savedKey is where the last good answer is kept.
const savedKey = "registry.regions"

// Source knows the regions of the registry. An error means that it could not be
// asked, not that there are none.
type Source interface {
	Regions(ctx context.Context) ([]replication.Region, error)
}

// Saved keeps a document over a restart. A nil error of Put means that Get, in
// whatever process, returns doc; a key without a document gives no data.
type Saved interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, doc []byte) error
}

// Discovery keeps the regions that a Source knows at hand: from the source, from
// what it said before the last restart, or, failing both, from a fixed list.
type Discovery struct {
	source   Source
	saved    Saved
	fallback Static // may be empty
	log      *slog.Logger
	now      func() time.Time

	reading chan struct{} // has room for the one who asks the source
	news    chan struct{} // has room for one: something is there to be saved

	mu      sync.Mutex
	regions []replication.Region // nil until any are known
	unsaved bool                 // regions are the source's, and not saved yet
	asked   time.Time            // when the source was last asked
	err     error                // of the last asking
}

// NewDiscovery returns a Discovery that knows nothing until Run runs.
func NewDiscovery(source Source, saved Saved, fallback Static, now func() time.Time, log *slog.Logger) *Discovery {
	return &Discovery{source: source, saved: saved, fallback: fallback, now: now, log: log,
		reading: make(chan struct{}, 1), news: make(chan struct{}, 1)}
}

// Run reads the regions now, and again every 10 minutes, until ctx ends.
func (d *Discovery) Run(ctx context.Context) {
	var next time.Time // of the reading
	for {
		if !d.now().Before(next) {
			interval := refreshInterval
			if d.read(ctx, readTimeout, 0) != nil {
				interval = retryInterval
			}
			next = d.now().Add(interval)
		}
		// The sidecar, which has what was saved, may be starting just now.
		wait := time.Second
		if d.restore(ctx) && d.save(ctx) {
			wait = next.Sub(d.now())
		}
		select {
		case <-ctx.Done():
			return
		case <-d.news:
		case <-time.After(wait):
		}
	}
}

// Expected returns the regions that a notification that begins now waits for.
// The error says why they are not known.
func (d *Discovery) Expected(context.Context) ([]replication.Region, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.regions != nil {
		return d.regions, nil
	}
	if d.err != nil {
		return nil, fmt.Errorf("the registry's regions are not known: %w", d.err)
	}
	return nil, errors.New("the registry's regions are not known yet")
}

// Recheck reads the regions again because one posted that is not expected; at
// most once a minute. It tells whether the region is expected now.
func (d *Discovery) Recheck(ctx context.Context, region replication.Region) bool {
	d.read(ctx, recheckTimeout, recheckInterval) // its error is logged, and changes nothing
	regions, err := d.Expected(ctx)
	return err == nil && slices.Contains(regions, region)
}

// read asks the source, unless that was done less than minAge ago. It waits for
// whoever is asking already, and has its answer then.
func (d *Discovery) read(ctx context.Context, timeout, minAge time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case d.reading <- struct{}{}:
		defer func() { <-d.reading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d.mu.Lock()
	fresh := d.now().Sub(d.asked) < minAge
	if !fresh {
		d.asked = d.now()
	}
	d.mu.Unlock()
	if fresh {
		return nil
	}
	regions, err := d.source.Regions(ctx)
	d.mu.Lock()
	d.err = err
	before := d.regions
	if err == nil {
		d.regions = regions
		d.unsaved = true // also when nothing is new: the store may forget what is old
	}
	d.mu.Unlock()
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the registry's regions", slog.Any("err", err))
		return err
	}
	if !slices.Equal(before, regions) {
		d.log.LogAttrs(ctx, slog.LevelInfo, "the registry's regions", slog.Any("regions", regions), slog.String("from", "registry"))
	}
	select {
	case d.news <- struct{}{}:
	default:
	}
	return nil
}

// save keeps what the source said for the next run. It tells whether nothing is
// left to save.
func (d *Discovery) save(ctx context.Context) bool {
	d.mu.Lock()
	regions, unsaved := d.regions, d.unsaved
	d.mu.Unlock()
	if !unsaved {
		return true
	}
	doc, err := json.Marshal(savedRegions{Regions: regions, At: d.now().UTC()})
	if err != nil {
		return true // regions are strings
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := d.saved.Put(ctx, savedKey, doc); err != nil {
		d.log.LogAttrs(ctx, slog.LevelDebug, "cannot save the registry's regions", slog.Any("err", err))
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsaved = !slices.Equal(d.regions, regions)
	return !d.unsaved
}

type savedRegions struct {
	Regions []replication.Region `json:"regions"`
	At      time.Time            `json:"at"`
}

// restore takes what was saved, or else the fixed list, if nothing is known yet.
// It tells whether anything is known now.
func (d *Discovery) restore(ctx context.Context) bool {
	if _, err := d.Expected(ctx); err == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var saved savedRegions
	data, err := d.saved.Get(ctx, savedKey)
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &saved)
	}
	regions, from := saved.Regions, "the last run"
	if err != nil {
		// Not now, which may be because the sidecar is not there yet: the
		// fixed list must not win over an answer that can still be had.
		d.log.LogAttrs(ctx, slog.LevelDebug, "cannot read the saved regions", slog.Any("err", err))
		return false
	}
	if len(regions) == 0 {
		regions, from = d.fallback, "WEBHOOK_REGIONS"
	}
	if len(regions) == 0 {
		return false
	}
	d.mu.Lock()
	d.regions = regions
	d.mu.Unlock()
	d.log.LogAttrs(ctx, slog.LevelInfo, "the registry's regions", slog.Any("regions", regions), slog.String("from", from))
	return true
}
