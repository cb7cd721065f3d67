package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/replication"
)

const (
	maxBody = 64 << 10 // bytes of a webhook's body; ACR's are below 2 KiB

	// ACR gives up after 5 s. receiveTimeout is for everything behind a webhook here;
	// answerTimeout is for that and for other replicas together.
	receiveTimeout = 4300 * time.Millisecond
	answerTimeout  = 4500 * time.Millisecond

	// A replica that has just started reads the regions: a webhook waits for that.
	regionsTimeout = 2 * time.Second
	regionsPause   = 50 * time.Millisecond
)

// receive takes a webhook: it answers 202 to news, 200 to a repeat, 204 to a ping.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request) (int, any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case isA[*http.MaxBytesError](err):
		return 0, nil, errTooLarge
	case err != nil:
		return 0, nil, badRequest{errors.New("the body could not be read to its end")}
	}
	p, err := parsePayload(body)
	if err != nil {
		return 0, nil, badRequest{err}
	}
	if p.isPing() {
		return http.StatusNoContent, nil, nil
	}
	// A caller that hangs up now must not take the event with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerTimeout)
	defer cancel()
	status, answer, err := h.take(ctx, r, p, body)
	if err != nil {
		return 0, nil, err
	}
	w.Header().Set("Location", "/notifications/"+p.ID)
	return status, answer, nil
}

// take gives the webhook to its notification, or, if the sidecar refuses connections, to
// another replica.
func (h *Handler) take(ctx context.Context, r *http.Request, p payload, body []byte) (status int, answer any, err error) {
	if h.mustGo(nil) {
		return h.handOver(ctx, r, p, body)
	}
	a, err := h.accept(ctx, r, p, body)
	if err != nil && h.mustGo(err) {
		return h.handOver(ctx, r, p, body)
	}
	if !isFailure(err) || !hasHopped(r) { // the replica that it came from goes on, and reports
		h.report(a, err)
	}
	switch {
	case err != nil:
		return 0, nil, err
	case a.result.Queued:
		return http.StatusAccepted, queued{ID: a.event.ID, Queued: true}, nil
	case a.result.New():
		return http.StatusAccepted, a.result.Status, nil
	}
	return http.StatusOK, a.result.Status, nil
}

// queued is the answer to an event that is safe, but not in its notification yet.
type queued struct {
	ID     string `json:"id"`
	Queued bool   `json:"queued"`
}

// accepted is what is known of a webhook so far.
type accepted struct {
	event   replication.Event
	awaited replication.Awaited
	result  intake.Result
}

// accept makes p an event, and gives it to the intake.
func (h *Handler) accept(ctx context.Context, r *http.Request, p payload, body []byte) (a accepted, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience(r))
	defer cancel()
	if a.event, err = h.event(r, p); err != nil {
		return a, badRequest{err}
	}
	regions, registry := h.config.Regions, a.event.Registry
	if a.awaited, err = h.awaited(ctx, registry); err != nil {
		return a, fmt.Errorf("expected regions: %w", err)
	}
	if a.event.Region, err = parseRegion(r, a.awaited.All()); err != nil {
		return a, badRequest{err}
	}
	a.event.Original = string(body)
	annotate(ctx, a.event.ID, a.event.Region)
	a.result, err = h.config.Intake.Add(ctx, a.event, a.awaited)
	if !isA[*notification.RefusedError](err) || !regions.Recheck(ctx, registry, a.event.Region) {
		return a, err
	}
	// It is the first webhook of a new replica, and ACR does not repeat it.
	if a.awaited, err = regions.Expected(ctx, registry); err != nil {
		return a, fmt.Errorf("expected regions: %w", err)
	}
	a.result, err = h.config.Intake.Add(ctx, a.event, a.awaited)
	return a, err
}

// awaited waits for a moment until the expected regions are known.
func (h *Handler) awaited(ctx context.Context, registry string) (awaited replication.Awaited, err error) {
	ctx, cancel := context.WithTimeout(ctx, regionsTimeout)
	defer cancel()
	for {
		if awaited, err = h.config.Regions.Expected(ctx, registry); err == nil {
			return awaited, nil
		}
		select {
		case <-time.After(regionsPause):
		case <-ctx.Done():
			return awaited, err
		}
	}
}

// event makes p an event of its registry, without a region.
func (h *Handler) event(r *http.Request, p payload) (e replication.Event, err error) {
	if e, err = p.event(); err == nil {
		e.Registry, err = h.config.Regions.Registry(r.URL.Query().Get("registry"), e.Registry)
	}
	return e, err
}

// report calls Received. Its region is empty if the caller may have made it up: nobody
// has checked the region of a queued event.
func (h *Handler) report(a accepted, err error) {
	if h.config.Received == nil {
		return
	}
	region, name := a.event.Region, string(a.result.Reason)
	if !slices.Contains(a.awaited.All(), region) && (err != nil || a.result.Queued) {
		region = ""
	}
	switch {
	case isFailure(err):
		name = intake.ResultFailed
	case err != nil:
		name = intake.ResultRefused
	case a.result.Queued:
		name = intake.ResultQueued
	}
	h.config.Received(region, name)
}

// isFailure tells whether the fault is not the webhook's.
func isFailure(err error) bool {
	return err != nil && !isA[badRequest](err) && !isA[*notification.RefusedError](err)
}

// parseRegion returns the region that the URL names. It may be left out where
// only one is possible. The notification checks whether it is expected.
func parseRegion(r *http.Request, expected []replication.Region) (replication.Region, error) {
	region := replication.ParseRegion(r.URL.Query().Get("region"))
	switch {
	case region != "":
		return region, nil
	case len(expected) == 1:
		return expected[0], nil
	}
	return "", fmt.Errorf("the URL must name the region: ?region=R with R one of %v", expected)
}
