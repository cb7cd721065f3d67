package registry

import (
	"context"
	"time"
)

// sweepRecord is what the sweep of ACR's event log needs to know the next time.
type sweepRecord struct {
	progress
	Found int `json:"found,omitempty"` // events that no notification had, since the record began
}

// SweepFunc gives in what ACR's log has and no notification has, and returns what is to
// be remembered; nil for what it was. Its progress is filled in by the caller. An error
// means that not all of it was done.
type SweepFunc func(ctx context.Context, r record, now time.Time) (*sweepRecord, error)
