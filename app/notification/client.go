package notification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"allregions/app/actor"
	"allregions/app/catalog"
	"allregions/app/replication"
)

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// ValidID tells whether id can be a notification's. It is stricter than ACR,
// whose ids are UUIDs: the id becomes the id of an actor, and part of a URL that
// Dapr does not escape; and with an outcome behind it, the MessageId of Service
// Bus, which has room for 128 characters.
func ValidID(id string) bool { return validID.MatchString(id) }

// ErrNotFound means that no event of the notification was ever accepted.
var ErrNotFound = errors.New("no such notification")

// CallTimeout is how long a webhook waits for its turn. It is longer than a turn that
// can still save: an event that is safe is not queued.
const CallTimeout = 2800 * time.Millisecond

// RefusedError means that the region that reported is not expected. Nothing was stored.
type RefusedError struct {
	Region   replication.Region
	Expected []replication.Region // or optional
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("region %q is not expected; expected: %s", e.Region, strings.Join(replication.Names(e.Expected), ", "))
}

// Finder returns the newest notification about an image; "" if there is none.
type Finder interface {
	Find(ctx context.Context, image catalog.Image) (notification string, err error)
}

// Client gives events to actors, and reads their records, on whichever replica. Its
// errors, other than ErrNotFound and RefusedError, mean that the actor or the store
// could not be reached, or could not save.
type Client struct {
	Actors  actor.Invoker
	Records actor.Reader
	Index   Finder
}

// Result is what became of an event.
type Result struct {
	Reason replication.Reason
	Status Status
}

// New tells whether the event changed what is known, and was not a repeat.
func (r Result) New() bool {
	return !slices.Contains([]replication.Reason{replication.Duplicate, replication.Differs, replication.NotAwaited}, r.Reason)
}

// Add gives e to its notification, which waits for what is awaited if e is its first
// event. A nil error means that e is part of the notification's
// durable state.
func (c *Client) Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (Result, error) {
	body, err := json.Marshal(NewMessage(e, awaited))
	if err != nil {
		return Result{}, fmt.Errorf("encode event: %w", err)
	}
	data, err := c.Actors.Invoke(ctx, e.ID, methodAdd, body)
	if err != nil {
		return Result{}, fmt.Errorf("actor %s: %w", e.ID, err)
	}
	var r reply
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, fmt.Errorf("actor %s: decode reply: %w", e.ID, err)
	}
	switch {
	case r.Reason == replication.Refused:
		return Result{}, &RefusedError{e.Region, r.Expected}
	case r.Status == nil:
		return Result{}, fmt.Errorf("actor %s: answered %q without a status", e.ID, r.Reason)
	case r.Status.ID != e.ID || !r.Status.Has(e.Region) && r.Reason != replication.NotAwaited:
		// The caller passes this on as a promise: it must be about this event.
		return Result{}, fmt.Errorf("actor %s: answered to %s with a status of %s with %v", e.ID, e.Region, r.Status.ID, r.Status.Reported())
	}
	return Result{Reason: r.Reason, Status: *r.Status}, nil
}

// Status returns where the notification stands, or ErrNotFound. It reads what was
// last saved: it decides nothing, repairs nothing, and takes no turn.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	r, err := c.load(ctx, id)
	if err != nil {
		return Status{}, err
	}
	return statusOf(r.State), nil
}

// Original returns the body of the webhook that began the notification, as ACR
// sent it; "" if that is not known. The error is ErrNotFound if there is none.
func (c *Client) Original(ctx context.Context, id string) (string, error) {
	r, err := c.load(ctx, id)
	return r.First.Original, err
}

// Find returns where the newest notification about the image stands, or
// ErrNotFound. With both a digest and a tag it is the tag's newest, if that is
// of the digest: after a tag was moved, the answer is not about the old image. It may be a
// catalog.AmbiguousError.
func (c *Client) Find(ctx context.Context, image catalog.Image) (Status, error) {
	id, err := c.Index.Find(ctx, image)
	if err != nil {
		return Status{}, err
	}
	if id == "" {
		return Status{}, ErrNotFound
	}
	st, err := c.Status(ctx, id)
	if err == nil && image.Digest != "" && st.Digest != image.Digest {
		err = ErrNotFound
	}
	return st, err
}

// Newer returns the notification of a newer push of the same tag; "" if there is none.
func (c *Client) Newer(ctx context.Context, st Status) (string, error) {
	if st.Tag == "" {
		return "", nil
	}
	newest, err := c.Find(ctx, catalog.Image{Registry: st.Registry, Repository: st.Repository, Tag: st.Tag})
	if _, ok := errors.AsType[*catalog.AmbiguousError](err); ok || errors.Is(err, ErrNotFound) || err == nil && !(newest.IsArrival() && newest.StartedAt.After(st.StartedAt)) {
		return "", nil
	}
	return newest.ID, err
}

func (c *Client) load(ctx context.Context, id string) (record, error) {
	data, _, err := c.Records.Load(ctx, id)
	if err != nil {
		return record{}, fmt.Errorf("read notification %s: %w", id, err)
	}
	r, err := decodeRecord(data)
	if err == nil && !r.Exists() {
		err = ErrNotFound
	}
	return r, err
}
