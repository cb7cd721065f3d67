package intake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"allregions/app/actor"
)

const (
	deadKey    = "DeadLetters" // of the record
	deadFormat = 1             // of what this version writes
	deadKnown  = 256           // how many events are remembered as counted
	deadText   = 300           // bytes that the record has of an event's id, and of a reason
)

// DeadLetters counts dead letters, in one record for all replicas.
type DeadLetters struct{ Records actor.Records }

// DeadLetter is one of them.
type DeadLetter struct {
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
	Reason string    `json:"reason"`
}

// DeadSummary is how many there have been, and the last one.
type DeadSummary struct {
	Count int         `json:"count"`
	Last  *DeadLetter `json:"last,omitempty"`
}

// deadRecord is what is stored.
type deadRecord struct {
	Format int `json:"format"`
	DeadSummary
	Counted []string `json:"counted"` // hashes of the last events: a message may come again

	more actor.Fields // of a newer version
}

// unknownID stands for the id of a message that has none.
func unknownID(message []byte) string { return "unknown/" + shortHash(string(message)) }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// Summary reads the record.
func (d *DeadLetters) Summary(ctx context.Context) (DeadSummary, error) {
	r, _, err := d.load(ctx)
	return r.DeadSummary, err
}

// Add counts a dead letter, unless its event is counted already. A nil error means that
// the record has it.
func (d *DeadLetters) Add(ctx context.Context, letter DeadLetter) error {
	r, version, err := d.load(ctx)
	hash := shortHash(letter.Event)
	if err != nil || slices.Contains(r.Counted, hash) {
		return err
	}
	letter.Event, letter.Reason = letter.Event[:min(len(letter.Event), deadText)], letter.Reason[:min(len(letter.Reason), deadText)]
	r.Format, r.Count, r.Last = deadFormat, r.Count+1, &letter
	r.Counted = append(r.Counted[max(0, len(r.Counted)-deadKnown+1):], hash)
	data, err := actor.Marshal(r, r.more)
	if err != nil {
		return fmt.Errorf("encode dead letters: %w", err)
	}
	return d.Records.Save(ctx, deadKey, data, version)
}

func (d *DeadLetters) load(ctx context.Context) (r deadRecord, version string, err error) {
	data, version, err := d.Records.Load(ctx, deadKey)
	if err == nil && len(data) > 0 {
		r.more, err = actor.Decode(data, &r)
	}
	if err != nil {
		return deadRecord{}, "", fmt.Errorf("read dead letters: %w", err)
	}
	return r, version, nil
}
