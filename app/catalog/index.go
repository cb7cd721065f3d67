// Package catalog finds notifications: by the image that they are about, by when they
// began, and those that are overdue.
//
// An index leads from each name of an image, its digest and its tag, to the newest
// notification about it in each registry. Each replica writes it behind the webhooks' answers. A name
// that many pushes share, such as a tag that moves all the time, costs one write in
// each pause, however many pushes there are.
//
// A list has what began lately: an actor Recent for each ten minutes of UTC, whose record
// is a window of the list. Each replica sends what is new to it behind the webhooks'
// answers, in batches, with the number of times that a notification was saved: of two
// entries the later one stands, whoever sends it last. Readers compute the windows' keys,
// and read the records. What has no room in its window is left out of the list.
//
// Recent is also the second net: a notification that it lists as open long after it was
// due may have lost its reminder, and has it registered again.
package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"allregions/app/actor"
	"allregions/app/replication"
)

// Image names an image by its digest, its tag, or both.
type Image struct {
	Registry                string // its login server; also its name alone, or "" for any, where the image is looked for
	Repository, Digest, Tag string // Digest or Tag may be "", but not both
}

// Entry leads from one name of an image to a notification about it. Its JSON form is
// stored.
type Entry struct {
	Registry     string    `json:"registry,omitempty"` // login server; "" where ACR does not say
	Repository   string    `json:"repository"`
	Digest       string    `json:"digest,omitempty"` // "" if Tag is the name
	Tag          string    `json:"tag,omitempty"`    // "" if Digest is the name
	Notification string    `json:"notification"`
	StartedAt    time.Time `json:"startedAt"` // of the notification: the newest counts
}

// Entries are those of a notification, one for each name that the image has: the
// digest, then the tag.
func Entries(image Image, notification string, startedAt time.Time) (entries []Entry) {
	e := Entry{Registry: image.Registry, Repository: image.Repository, Notification: notification, StartedAt: startedAt}
	if image.Repository != "" && image.Digest != "" {
		e.Digest, e.Tag = image.Digest, ""
		entries = append(entries, e)
	}
	if image.Repository != "" && image.Tag != "" {
		e.Digest, e.Tag = "", image.Tag
		entries = append(entries, e)
	}
	return entries
}

// Newer tells whether e counts, of two entries for one name in one registry.
func (e Entry) Newer(than Entry) bool {
	return cmp.Or(e.StartedAt.Compare(than.StartedAt), cmp.Compare(e.Notification, than.Notification)) > 0
}

// key is that of the name, in whichever registry: one read finds all. It is a hash, because
// a repository has slashes and may be long. Its "." keeps it apart from the ids of
// notifications.
func (e Entry) key() string {
	name := "@" + e.Digest
	if e.Tag != "" {
		name = ":" + e.Tag
	}
	hash := sha256.Sum256([]byte(e.Repository + "\x00" + name))
	return "image." + hex.EncodeToString(hash[:16])
}

// maxRegistries bounds the entries for one name.
const maxRegistries = 16

// stored is what the store has for one name.
type stored struct {
	Kind   string  `json:"kind"` // "index"
	Entry          // the newest
	Others []Entry `json:"others,omitempty"` // of other registries, the newest first
}

func encode(entries []Entry) ([]byte, error) {
	return json.Marshal(stored{"index", entries[0], entries[1:]})
}

// decode returns the entries for a name, the newest first; none of nothing.
func decode(data []byte) ([]Entry, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("decode index: %w", err)
	}
	if s.Notification == "" {
		return nil, nil
	}
	return append([]Entry{s.Entry}, s.Others...), nil
}

// inRegistry returns the entry of a registry; the zero Entry if there is none.
func inRegistry(registry string, entries []Entry) Entry {
	if i := slices.IndexFunc(entries, func(e Entry) bool { return e.Registry == registry }); i >= 0 {
		return entries[i]
	}
	return Entry{}
}

// with returns the entries for a name with e instead of that of its registry.
func (e Entry) with(entries []Entry) []Entry {
	entries = append(slices.DeleteFunc(slices.Clone(entries), func(other Entry) bool { return other.Registry == e.Registry }), e)
	slices.SortFunc(entries, func(a, b Entry) int { return b.StartedAt.Compare(a.StartedAt) })
	return entries[:min(len(entries), maxRegistries)]
}

// AmbiguousError means that an image is in several registries.
type AmbiguousError struct{ Registries []string } // login servers

func (e *AmbiguousError) Error() string {
	return "the image is in several registries; registry must be one of " + strings.Join(e.Registries, ", ")
}

const (
	batchPause = 20 * time.Millisecond // between two writes of a name: what comes meanwhile goes together
	retryPause = time.Second           // before what has failed is tried again
	writeLimit = 5 * time.Second       // for one entry
	atATime    = 16                    // entries that are written at the same time
	maxPending = 10_000                // names that are written; the reminders of their notifications send more than that again
	maxTries   = 5                     // against others who change the same entry
	maxKnown   = 8192                  // entries that are known to be stored, of the index, and of the list
)

// Index is the index of images, as one replica writes and reads it.
type Index struct {
	records  actor.Records
	log      *slog.Logger
	failures actor.Throttle
	slots    chan struct{} // has room for the writes that run at the same time

	running sync.WaitGroup // what Flush waits for

	mu      sync.Mutex
	pending map[place]*write[Entry] // present while it is written: the newest entry that waits, or nil
	known   map[place]Entry         // what this replica has seen stored
}

// place is that of one entry: the key of the name, and the registry.
type place struct{ key, registry string }

func (e Entry) place() place { return place{e.key(), e.Registry} }

// write is something on its way to the store. Those who wait for it share it.
type write[T any] struct {
	entry T
	done  chan struct{} // closed when the entry, or a newer one, is stored, or has failed
	err   error
}

func (w *write[T]) wait(ctx context.Context) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return fmt.Errorf("catalog: %w", context.Cause(ctx))
	}
}

// over returns a write that has ended, with that error or none.
func over[T any](err error) *write[T] {
	w := &write[T]{done: make(chan struct{}), err: err}
	close(w.done)
	return w
}

// ended returns when what runs has ended, or with an error when ctx ends.
func ended(ctx context.Context, running *sync.WaitGroup) error {
	all := &write[struct{}]{done: make(chan struct{})}
	go func() { running.Wait(); close(all.done) }()
	return all.wait(ctx)
}

// NewIndex returns the index in records.
func NewIndex(records actor.Records, log *slog.Logger) *Index {
	return &Index{records: records, log: log, failures: actor.Throttle{Every: retryPause}, slots: make(chan struct{}, atATime),
		pending: map[place]*write[Entry]{}, known: map[place]Entry{}}
}

// Send has the entries written soon. It does not wait; settled does: its nil error
// means that each name leads to this notification or to a newer one, and that this
// survives a kill -9 of every process. An entry whose write fails is tried again, even
// if no caller waits for it. One that is refused, because too many wait, is not.
func (x *Index) Send(entries []Entry) (settled func(context.Context) error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var sent []*write[Entry]
	for _, e := range entries {
		if have, ok := x.known[e.place()]; !ok || e.Newer(have) {
			sent = append(sent, x.add(e.place(), e))
		}
	}
	return func(ctx context.Context) error {
		for _, w := range sent {
			if err := w.wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// Flush returns when everything is written, or with an error when ctx ends. Nothing may
// be sent meanwhile.
func (x *Index) Flush(ctx context.Context) error { return ended(ctx, &x.running) }

// add makes e pending. The caller holds mu.
func (x *Index) add(at place, e Entry) *write[Entry] {
	w, running := x.pending[at]
	switch {
	case w != nil && e.Newer(w.entry):
		w.entry = e
	case !running && len(x.pending) >= maxPending:
		return over[Entry](errors.New("index: too many entries wait"))
	case w == nil:
		w = &write[Entry]{entry: e, done: make(chan struct{})}
		x.pending[at] = w
		if !running {
			x.running.Go(func() { x.run(at) })
		}
	}
	return w
}

// run writes what is pending there, until nothing is.
func (x *Index) run(at place) {
	for pause := batchPause; pause > 0; time.Sleep(pause) {
		x.slots <- struct{}{}
		pause = x.write(at)
		<-x.slots
	}
}

// write writes what is pending there, and returns the pause after it; 0 if nothing
// is. If that fails, it is pending again, unless a newer entry is.
func (x *Index) write(at place) (pause time.Duration) {
	x.mu.Lock()
	w := x.pending[at]
	if x.pending[at] = nil; w == nil {
		delete(x.pending, at)
	}
	x.mu.Unlock()
	if w == nil {
		return 0
	}

	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	there, err := x.store(ctx, at, w.entry)

	x.mu.Lock()
	defer x.mu.Unlock()
	defer close(w.done)
	if err != nil {
		w.err = fmt.Errorf("index: %w", err)
		if _, ok := x.failures.Allow(time.Now()); ok {
			x.log.LogAttrs(ctx, slog.LevelWarn, "the index is written later", slog.Any("err", w.err))
		}
		x.add(at, w.entry)
		return retryPause
	}
	if len(x.known) >= maxKnown { // to forget one costs two calls, if it comes again
		clear(x.known)
	}
	x.known[at] = there
	return batchPause
}

// store stores e, unless something newer is there, and returns what is. Most keys are new:
// one of which this replica knows nothing is created without a read.
func (x *Index) store(ctx context.Context, at place, e Entry) (Entry, error) {
	x.mu.Lock()
	have, seen := x.known[at]
	x.mu.Unlock()
	if seen && !e.Newer(have) {
		return have, nil
	}
	if !seen {
		data, err := encode([]Entry{e})
		if err != nil {
			return Entry{}, err
		}
		if err := x.records.Save(ctx, at.key, data, ""); !errors.Is(err, actor.ErrConflict) {
			return e, err
		}
	}
	for range maxTries {
		old, version, err := x.records.Load(ctx, at.key)
		if err != nil {
			return Entry{}, err
		}
		entries, _ := decode(old) // what cannot be read leads nowhere, and is replaced
		if there := inRegistry(e.Registry, entries); !e.Newer(there) {
			return there, nil
		}
		data, err := encode(e.with(entries))
		if err != nil {
			return Entry{}, err
		}
		if err := x.records.Save(ctx, at.key, data, version); !errors.Is(err, actor.ErrConflict) {
			return e, err
		}
	}
	return Entry{}, actor.ErrConflict
}

// Find returns the newest notification about the image, "" if there is none. If the
// image has a tag, the tag leads. The error is an AmbiguousError if the image names no
// registry, and is in several.
func (x *Index) Find(ctx context.Context, image Image) (notification string, err error) {
	names := Entries(image, "", time.Time{})
	if len(names) == 0 {
		return "", nil
	}
	data, _, err := x.records.Load(ctx, names[len(names)-1].key())
	if err != nil {
		return "", fmt.Errorf("read index: %w", err)
	}
	entries, err := decode(data)
	if image.Registry != "" {
		entries = slices.DeleteFunc(entries, func(e Entry) bool { return !replication.NamesRegistry(image.Registry, e.Registry) })
	}
	var registries []string // those that ACR has named
	for _, e := range entries {
		if e.Registry != "" {
			registries = append(registries, e.Registry)
		}
	}
	switch {
	case len(entries) == 0:
		return "", err
	case len(registries) > 1:
		return "", &AmbiguousError{slices.Sorted(slices.Values(registries))}
	}
	return entries[0].Notification, nil
}
