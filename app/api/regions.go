package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"allregions/app/catalog"
	"allregions/app/registry"
)

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
			answer.Regions = append(answer.Regions, withActivity(region, activity[catalog.Place{Registry: s.LoginServer, Region: region.Region}]))
		}
		registries = append(registries, answer)
	}
	return http.StatusOK, map[string]any{"registries": registries, "deadLetters": dead}, nil
}

func withActivity(region registry.RegionStatus, a catalog.Activity) regionAnswer {
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
