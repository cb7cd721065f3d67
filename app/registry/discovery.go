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

	"allregions/app/actor"
	"allregions/app/replication"
)

// How often the regions are read, and for how long one reading may take.
const (
	refreshInterval = 10 * time.Minute
	retryInterval   = 15 * time.Second // while the last reading failed
	recheckInterval = time.Minute      // at most, when an unexpected region posts
	readTimeout     = 10 * time.Second
	recheckTimeout  = 1500 * time.Millisecond // a webhook waits for it
	storeInterval   = time.Second             // while the store, whose sidecar may be starting, is away
)

// savedKey is where the last good answer is kept.
const savedKey = "registry.regions"

// Source reads the regions of the registry. An error means that they could not be
// read, not that there are none.
type Source interface {
	Regions(ctx context.Context) ([]replication.Region, error)
}

// Discovery keeps the regions that a Source knows at hand: from the source, from
// what it said before the last restart, or, failing both, from a fixed list.
type Discovery struct {
	source   Source
	saved    actor.Records
	fallback Static // may be empty
	log      *slog.Logger
	now      func() time.Time
	reading  *shared[[]replication.Region]

	mu      sync.Mutex
	regions []replication.Region // nil until any are known
	unsaved bool                 // regions are the source's, and not saved yet
	err     error                // of the last reading
}

// NewDiscovery returns a Discovery that knows nothing until Run runs.
func NewDiscovery(source Source, saved actor.Records, fallback Static, now func() time.Time, log *slog.Logger) *Discovery {
	return &Discovery{source: source, saved: saved, fallback: fallback, now: now, log: log, reading: newShared[[]replication.Region](now)}
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
		d.keep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(storeInterval):
		}
	}
}

// Expected returns the regions that a notification that begins now waits for.
// The error says why they are not known.
func (d *Discovery) Expected(context.Context) ([]replication.Region, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.regions != nil:
		return d.regions, nil
	case d.err != nil:
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

// read asks the source, unless that was done less than minAge ago.
func (d *Discovery) read(ctx context.Context, timeout, minAge time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := d.reading.get(ctx, func(age time.Duration, _ error) bool { return age < minAge }, d.ask)
	return err
}

// ask asks the source. After an error what was known still counts.
func (d *Discovery) ask(ctx context.Context) ([]replication.Region, error) {
	regions, err := d.source.Regions(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err = err; err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the registry's regions", slog.Any("err", err))
		return nil, err
	}
	d.learn(ctx, regions, "registry")
	d.unsaved = true // also when nothing is new: the stored document may expire
	return regions, nil
}

// learn takes the regions for those that are expected. The caller holds mu.
func (d *Discovery) learn(ctx context.Context, regions []replication.Region, from string) {
	if !slices.Equal(d.regions, regions) {
		d.log.LogAttrs(ctx, slog.LevelInfo, "the registry's regions", slog.Any("regions", regions), slog.String("from", from))
	}
	d.regions = regions
}

type savedRegions struct {
	Regions []replication.Region `json:"regions"`
	At      time.Time            `json:"at"`
}

// keep restores and saves what there is to restore and to save.
func (d *Discovery) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := errors.Join(d.restore(ctx), d.save(ctx)); err != nil {
		d.log.LogAttrs(ctx, slog.LevelDebug, "cannot keep the registry's regions", slog.Any("err", err))
	}
}

// save keeps what the source said for the next run.
func (d *Discovery) save(ctx context.Context) error {
	d.mu.Lock()
	regions, unsaved := d.regions, d.unsaved
	d.mu.Unlock()
	if !unsaved {
		return nil
	}
	doc, err := json.Marshal(savedRegions{Regions: regions, At: d.now().UTC()})
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	_, version, err := d.saved.Load(ctx, savedKey)
	if err == nil {
		err = d.saved.Save(ctx, savedKey, doc, version)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsaved = !slices.Equal(d.regions, regions)
	return nil
}

// restore takes what was saved, or else the fixed list, if nothing is known yet. An
// error may mean that the sidecar is not there yet: the fixed list must not win over an
// answer that can still be had.
func (d *Discovery) restore(ctx context.Context) error {
	if _, err := d.Expected(ctx); err == nil {
		return nil
	}
	var saved savedRegions
	data, _, err := d.saved.Load(ctx, savedKey)
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &saved)
	}
	if err != nil {
		return fmt.Errorf("read what was saved: %w", err)
	}
	regions, from := saved.Regions, "the last run"
	if len(regions) == 0 {
		regions, from = d.fallback, "WEBHOOK_REGIONS"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.regions == nil && len(regions) > 0 {
		d.learn(ctx, regions, from)
	}
	return nil
}
