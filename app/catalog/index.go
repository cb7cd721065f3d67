// Package catalog finds notifications: by the image that they are about.
//
// An index leads from each name of an image, its digest and its tag, to the newest
// notification about it. It is written behind the webhooks' answers, in batches, by
// each replica for itself. A name that many pushes share, such as a tag that moves
// all the time, costs one write per batch, however many pushes there are.
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
	"sync"
	"time"

	"allregions/app/actor"
)

// Image is what somebody who pushed knows of an image. Digest or Tag may be
// empty, but not both.
type Image struct {
	Repository, Digest, Tag string
}

// Entry leads from one name of an image to a notification about it.
type Entry struct {
	Repository   string
	Digest, Tag  string // one of these two
	Notification string
	StartedAt    time.Time // of the notification: the newest counts
}

// Entries are those of a notification: one for each name that the image has.
func Entries(image Image, notification string, startedAt time.Time) []Entry {
	var entries []Entry
	if image.Repository == "" {
		return nil
	}
	e := Entry{Repository: image.Repository, Notification: notification, StartedAt: startedAt}
	if image.Digest != "" {
		digest := e
		digest.Digest = image.Digest
		entries = append(entries, digest)
	}
	if image.Tag != "" {
		tag := e
		tag.Tag = image.Tag
		entries = append(entries, tag)
	}
	return entries
}

// Newer tells whether e counts, of two entries for one name.
func (e Entry) Newer(than Entry) bool {
	return cmp.Or(e.StartedAt.Compare(than.StartedAt), cmp.Compare(e.Notification, than.Notification)) > 0
}

// key is a hash, because a repository has slashes and may be long. It begins with
// what no notification's id may hold.
func (e Entry) key() string {
	name := "@" + e.Digest
	if e.Tag != "" {
		name = ":" + e.Tag
	}
	hash := sha256.Sum256([]byte(e.Repository + "\x00" + name))
	return "image." + hex.EncodeToString(hash[:16])
}

// stored is an Entry in the store.
type stored struct {
	Kind         string    `json:"kind"` // "index"
	Repository   string    `json:"repository"`
	Digest       string    `json:"digest,omitempty"`
	Tag          string    `json:"tag,omitempty"`
	Notification string    `json:"notification"`
	StartedAt    time.Time `json:"startedAt"`
}

func encode(e Entry) ([]byte, error) {
	return json.Marshal(stored{"index", e.Repository, e.Digest, e.Tag, e.Notification, e.StartedAt})
}

func decode(data []byte) (Entry, error) {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return Entry{}, fmt.Errorf("decode index: %w", err)
	}
	return Entry{s.Repository, s.Digest, s.Tag, s.Notification, s.StartedAt}, nil
}

const (
	batchPause = 20 * time.Millisecond // between two batches: what comes meanwhile goes together
	retryPause = time.Second           // before what has failed is tried again
	writeLimit = 5 * time.Second       // for one entry
	atATime    = 16                    // entries that are written at the same time
	maxPending = 10_000                // entries that wait; more are left to the reminders of their notifications
	maxTries   = 5                     // against others who change the same entry
)

// Index is the index of images, as one replica writes and reads it.
type Index struct {
	records actor.Records
	log     *slog.Logger

	mu      sync.Mutex
	pending map[string]*write // by key: the newest entry that waits to be written
	writing map[string]bool   // by key: something is written now
	known   recent            // what this replica has seen stored
	running bool
	idle    chan struct{} // closed when nothing runs; replaced when something begins
	logged  time.Time     // the last failure that is in the log
}

// write is an entry on its way. Those who wait for it share it.
type write struct {
	entry     Entry
	notBefore time.Time     // it may begin
	done      chan struct{} // closed when the entry, or a newer one, is stored, or has failed
	err       error
}

// NewIndex returns the index in records.
func NewIndex(records actor.Records, log *slog.Logger) *Index {
	idle := make(chan struct{})
	close(idle)
	return &Index{records: records, log: log, pending: map[string]*write{}, writing: map[string]bool{}, known: newRecent(), idle: idle}
}

// Send has the entries written soon. It does not wait; settled does: its nil error
// means that each name leads to this notification or to a newer one, and that this
// survives a kill -9 of every process. What fails is tried again, whoever waits; what
// is refused, because too much waits already, is not.
func (x *Index) Send(entries []Entry) (settled func(context.Context) error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var waiting []*write
	for _, e := range entries {
		key := e.key()
		if x.known.has(key, e) {
			continue
		}
		waiting = append(waiting, x.add(key, e))
	}
	if len(x.pending) > 0 && !x.running {
		x.running, x.idle = true, make(chan struct{})
		go x.run()
	}
	return func(ctx context.Context) error {
		var errs []error
		for _, w := range waiting {
			select {
			case <-w.done:
				errs = append(errs, w.err)
			case <-ctx.Done():
				return fmt.Errorf("index: %w", context.Cause(ctx))
			}
		}
		return errors.Join(errs...)
	}
}

// add puts e among what is pending; the caller holds mu.
func (x *Index) add(key string, e Entry) *write {
	w := x.pending[key]
	switch {
	case w == nil && len(x.pending) >= maxPending:
		w = &write{entry: e, done: make(chan struct{}), err: errors.New("index: too many entries wait")}
		close(w.done)
	case w == nil:
		w = &write{entry: e, done: make(chan struct{})}
		x.pending[key] = w
	case e.Newer(w.entry):
		w.entry = e
	}
	return w
}

// Flush returns when everything is written, or with an error when ctx ends.
func (x *Index) Flush(ctx context.Context) error {
	x.mu.Lock()
	idle := x.idle
	x.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("index: %w", context.Cause(ctx))
	}
}

// run writes until nothing is pending. An entry that takes long, or fails, holds up no
// other one.
func (x *Index) run() {
	room := make(chan struct{}, atATime)
	for {
		batch, more := x.take(time.Now())
		if !more {
			return
		}
		for key, w := range batch {
			room <- struct{}{}
			go func() {
				defer func() { <-room }()
				x.finish(key, w)
			}()
		}
		time.Sleep(batchPause)
	}
}

// take returns what may be written now: one entry of a name after the other. More is
// false when everything is written.
func (x *Index) take(now time.Time) (batch map[string]*write, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.pending)+len(x.writing) == 0 {
		x.running = false
		close(x.idle)
		return nil, false
	}
	batch = map[string]*write{}
	for key, w := range x.pending {
		if !x.writing[key] && !now.Before(w.notBefore) {
			batch[key] = w
			x.writing[key] = true
			delete(x.pending, key)
		}
	}
	return batch, true
}

// finish writes w, and tells those who wait. What fails is pending again, or what is
// newer instead, after a pause.
func (x *Index) finish(key string, w *write) {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	written, err := x.write(ctx, key, w.entry)
	if err != nil {
		w.err = fmt.Errorf("index: %w", err)
		x.complain(w.err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.add(key, w.entry).notBefore = time.Now().Add(retryPause)
	} else {
		x.known.add(key, written)
	}
	delete(x.writing, key)
	close(w.done)
}

// complain logs a failure, one in each retryPause.
func (x *Index) complain(err error) {
	now := time.Now()
	x.mu.Lock()
	often := now.Sub(x.logged) < retryPause
	if !often {
		x.logged = now
	}
	x.mu.Unlock()
	if !often {
		x.log.LogAttrs(context.Background(), slog.LevelWarn, "the index is written later", slog.Any("err", err))
	}
}

// write stores e under key, unless something newer is there, and returns what is. Most
// keys are new: a key of which this replica knows nothing is created without a read.
func (x *Index) write(ctx context.Context, key string, e Entry) (Entry, error) {
	x.mu.Lock()
	have, seen := x.known.get(key)
	x.mu.Unlock()
	if seen && !e.Newer(have) {
		return have, nil
	}
	data, err := encode(e)
	if err != nil {
		return Entry{}, err
	}
	if !seen {
		if err := x.records.Save(ctx, key, data, ""); !errors.Is(err, actor.ErrConflict) {
			return e, err
		}
	}
	for range maxTries {
		old, version, err := x.records.Load(ctx, key)
		if err != nil {
			return Entry{}, err
		}
		// What cannot be read leads nowhere, and is replaced.
		if there, err := decode(old); err == nil && !e.Newer(there) {
			return there, nil
		}
		if err := x.records.Save(ctx, key, data, version); !errors.Is(err, actor.ErrConflict) {
			return e, err
		}
	}
	return Entry{}, actor.ErrConflict
}

// Find returns the newest notification about the image; "" if there is none.
func (x *Index) Find(ctx context.Context, image Image) (notification string, err error) {
	e := Entry{Repository: image.Repository, Digest: image.Digest}
	if image.Tag != "" {
		e.Digest, e.Tag = "", image.Tag
	}
	data, _, err := x.records.Load(ctx, e.key())
	if err != nil {
		return "", fmt.Errorf("read index: %w", err)
	}
	if len(data) == 0 {
		return "", nil
	}
	e, err = decode(data)
	return e.Notification, err
}

// recent remembers the newest entries that were seen stored, a few thousand names
// at least.
type recent struct{ young, old map[string]Entry }

const generation = 4096 // names

func newRecent() recent { return recent{map[string]Entry{}, map[string]Entry{}} }

func (r *recent) get(key string) (Entry, bool) {
	if e, ok := r.young[key]; ok {
		return e, true
	}
	e, ok := r.old[key]
	return e, ok
}

// has tells whether e, or something newer, was seen under key.
func (r *recent) has(key string, e Entry) bool {
	have, ok := r.get(key)
	return ok && !e.Newer(have)
}

func (r *recent) add(key string, e Entry) {
	if len(r.young) >= generation {
		r.young, r.old = map[string]Entry{}, r.young
	}
	r.young[key] = e
}
