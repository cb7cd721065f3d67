package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"allregions/app/registry"
)

// Activity is what came from a region in the last day.
type Activity struct {
	LastEvent   time.Time     // when the newest one was accepted; zero for none
	Median, P95 time.Duration // from the first event of a notification to the region's
	Count       int           // of the notifications in them
	Missed      int           // notifications that timed out without the region
}

// DeadLetters are the events that could never be delivered.
type DeadLetters struct {
	Count int         `json:"count"`
	Last  *DeadLetter `json:"last,omitempty"`
}

// DeadLetter is one of them.
type DeadLetter struct {
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
	Reason string    `json:"reason"`
}

// registryAnswer is a registry with what came from its regions.
type registryAnswer struct {
	registry.Status
	Regions []regionAnswer `json:"regions"`
}

type regionAnswer struct {
	registry.RegionStatus
	LastEvent time.Time `json:"lastEvent,omitzero"`
	LatencyMS *latency  `json:"latencyMs,omitempty"`
	Missed    int       `json:"missed"`
}

// latency is in milliseconds.
type latency struct {
	Median int64 `json:"median"`
	P95    int64 `json:"p95"`
	Count  int   `json:"count"`
}

// regions answers what is known of each registry's regions. What cannot be read is left
// out: the answer is for those who want to know what does not work.
func (h *Handler) regions(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	activity, err := optional(ctx, h.config.Activity)
	h.warn(ctx, "cannot read the activity of the regions", err)
	dead, err := optional(ctx, h.config.DeadLetters)
	h.warn(ctx, "cannot read the dead letters", err)
	registries := []registryAnswer{}
	for _, s := range h.config.Regions.Registries() {
		answer := registryAnswer{s, []regionAnswer{}}
		for _, region := range s.Regions {
			answer.Regions = append(answer.Regions, activity[region.Region].of(region))
		}
		registries = append(registries, answer)
	}
	return http.StatusOK, map[string]any{"registries": registries, "deadLetters": dead}, nil
}

// of is the region with its activity.
func (a Activity) of(region registry.RegionStatus) regionAnswer {
	answer := regionAnswer{RegionStatus: region, LastEvent: a.LastEvent, Missed: a.Missed}
	if a.Count > 0 {
		answer.LatencyMS = &latency{a.Median.Milliseconds(), a.P95.Milliseconds(), a.Count}
	}
	return answer
}

// optional calls read, if there is one.
func optional[T any](ctx context.Context, read func(context.Context) (T, error)) (v T, err error) {
	if read == nil {
		return v, nil
	}
	return read(ctx)
}

func (h *Handler) warn(ctx context.Context, msg string, err error) {
	if err != nil {
		h.config.Log.LogAttrs(ctx, slog.LevelWarn, msg, slog.Any("err", err))
	}
}
