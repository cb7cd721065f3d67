package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Throttle limits log lines that strangers or a broken network could repeat without
// end. A nil Throttle limits nothing.
type Throttle struct {
	Interval time.Duration // from one line to the next, at least

	mu       sync.Mutex
	last     time.Time
	unlogged int // since last
}

// LogAttrs logs a line, or counts it if the last one was less than Interval ago. The
// next line has the count, as "unlogged".
func (t *Throttle) LogAttrs(ctx context.Context, log *slog.Logger, level slog.Level, msg string, attrs ...slog.Attr) {
	if t == nil {
		log.LogAttrs(ctx, level, msg, attrs...)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.last.IsZero() && now.Sub(t.last) < t.Interval {
		t.unlogged++
		return
	}
	log.LogAttrs(ctx, level, msg, append(attrs, slog.Int("unlogged", t.unlogged))...)
	t.last, t.unlogged = now, 0
}
