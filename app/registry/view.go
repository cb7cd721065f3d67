package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"allregions/app/actor"
	"allregions/app/replication"
)

const (
	viewInterval  = 10 * time.Second // between two readings of the record
	storeInterval = time.Second      // while the store, whose sidecar may be starting, is away
)

// View is what one process holds in memory of a registry's record. It reads the store
// at start and every 10 s: what a webhook needs of it is there.
type View struct {
	Name     string // of the registry
	Records  actor.Reader
	Fallback Static   // the regions, until the record has some; may be empty
	Optional Static   // those that nobody waits for; may be empty
	Observer Observer // nil for none
	Now      func() time.Time
	Log      *slog.Logger

	mu      sync.Mutex
	record  record
	read    bool      // the store, or the actor, has answered
	learned time.Time // when the actor last answered
}

// Follow reads the record until ctx ends.
func (v *View) Follow(ctx context.Context) {
	for {
		pause := viewInterval
		if err := v.load(ctx); err != nil {
			v.Log.LogAttrs(ctx, slog.LevelDebug, "cannot read the record of the registry", slog.Any("err", err))
			pause = storeInterval
		}
		v.observe()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// load reads the record from the store. What the actor has answered meanwhile is newer.
func (v *View) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := v.Now()
	data, _, err := v.Records.Load(ctx, actorID(v.Name))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(data) == 0 { // a store that has lost it does not make the regions unknown
		r.Replicas = v.record.Replicas
	}
	if !v.learned.After(began) {
		v.set(r)
	}
	return nil
}

// learn takes the record that the actor has answered.
func (v *View) learn(r record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.learned = v.Now()
	v.set(r)
}

// set is for the holder of mu.
func (v *View) set(r record) {
	if regions := r.Replicas.expected(); !v.read || !slices.Equal(regions, v.record.Replicas.expected()) {
		if len(regions) > 0 {
			v.Log.Info("the registry's regions", "regions", regions, "from", "registry", "at", r.Replicas.At)
			if unmatched := v.unmatched(r); len(unmatched) > 0 {
				v.Log.Warn("OPTIONAL_REGIONS names regions in which the registry has no replica", "regions", unmatched)
			}
		} else if len(v.Fallback) > 0 {
			v.Log.Info("the registry's regions", "regions", v.Fallback, "from", "WEBHOOK_REGIONS")
		}
	}
	v.record, v.read = r, true
}

// unmatched are the optional regions in which the registry has no replica.
func (v *View) unmatched(r record) Static {
	return slices.DeleteFunc(slices.Clone(v.Optional), func(region replication.Region) bool {
		return slices.ContainsFunc(r.Replicas.List, func(have replica) bool { return have.Region == region })
	})
}

// observe tells the age of what the record has.
func (v *View) observe() {
	r, _ := v.current()
	for w, p := range map[work]progress{readReplicas: r.Replicas.progress, checkWebhooks: r.Webhooks.progress, sweepLog: r.Sweep.progress} {
		if v.Observer != nil && !p.At.IsZero() {
			v.Observer.Age(actorID(v.Name), string(w), max(0, v.Now().Sub(p.At)))
		}
	}
}

// current is the record, and whether the store or the actor has answered at all.
func (v *View) current() (record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.record, v.read
}

// loginServer is the registry's host. Until Azure has said it, it is the usual one.
func (v *View) loginServer() (host string, known bool) {
	if r, _ := v.current(); r.LoginServer != "" {
		return r.LoginServer, true
	}
	return actorID(v.Name) + ".azurecr.io", false
}

// isHost tells whether host, in lower case, is the registry's. Until Azure has said that,
// the name in it counts: the remainder may be unusual.
func (v *View) isHost(host string) bool {
	server, known := v.loginServer()
	return host == server || !known && replication.RegistryName(host) == actorID(v.Name)
}

// Expected returns the regions that a notification that begins now waits for. The error
// says why they are not known: until the store has answered, what Azure has said before
// may be there.
func (v *View) Expected(context.Context) (replication.Awaited, error) {
	r, read := v.current()
	regions := r.Replicas.expected()
	switch {
	case len(regions) > 0:
		return v.Optional.await(regions)
	case read && len(v.Fallback) > 0:
		return v.Optional.await(v.Fallback)
	case r.Replicas.Error != "":
		return replication.Awaited{}, fmt.Errorf("the registry's regions are not known: %s", r.Replicas.Error)
	}
	return replication.Awaited{}, errors.New("the registry's regions are not known yet")
}

// Replicas is what ARM said of each of these regions' replicas, where that is known.
func (v *View) Replicas(regions []replication.Region) map[replication.Region]string {
	r, _ := v.current()
	states := map[replication.Region]string{}
	for _, have := range r.Replicas.List {
		if slices.Contains(regions, have.Region) {
			states[have.Region] = have.State
		}
	}
	return states
}
