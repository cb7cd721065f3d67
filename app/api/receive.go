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

	// receiveTimeout is for everything behind a webhook: the answer is there within
	// 4.5 s. ACR gives up after 5.
	receiveTimeout = 4300 * time.Millisecond
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), receiveTimeout)
	defer cancel()
	e, result, err := h.accept(ctx, r, p, body)
	if err != nil {
		return 0, nil, err
	}
	w.Header().Set("Location", "/notifications/"+e.ID)
	switch {
	case result.Queued:
		return http.StatusAccepted, queued{ID: e.ID, Queued: true}, nil
	case result.New():
		return http.StatusAccepted, result.Status, nil
	}
	return http.StatusOK, result.Status, nil
}

// queued is the answer to an event that is safe, but not in its notification yet.
type queued struct {
	ID     string `json:"id"`
	Queued bool   `json:"queued"`
}

// accept makes p an event, and gives it to the intake.
func (h *Handler) accept(ctx context.Context, r *http.Request, p payload, body []byte) (e replication.Event, result intake.Result, err error) {
	var expected []replication.Region
	defer func() { h.report(e, result, err, expected) }()
	if expected, err = h.config.Regions.Expected(ctx); err != nil {
		return e, result, fmt.Errorf("expected regions: %w", err)
	}
	region, err := parseRegion(r, expected)
	if err != nil {
		return e, result, badRequest{err}
	}
	if e, err = p.event(region); err != nil {
		return e, result, badRequest{err}
	}
	e.Original = string(body)
	annotate(ctx, e.ID, region)
	result, err = h.config.Intake.Add(ctx, e, expected)
	if !isA[*notification.RefusedError](err) || !h.config.Regions.Recheck(ctx, region) {
		return e, result, err
	}
	// It is the first webhook of a new replica, and ACR does not repeat it.
	if expected, err = h.config.Regions.Expected(ctx); err != nil {
		return e, result, fmt.Errorf("expected regions: %w", err)
	}
	result, err = h.config.Intake.Add(ctx, e, expected)
	return e, result, err
}

// report calls Received. Its region is empty if the caller may have made it up: nobody
// has checked the region of a queued event.
func (h *Handler) report(e replication.Event, result intake.Result, err error, expected []replication.Region) {
	if h.config.Received == nil {
		return
	}
	region, name := e.Region, string(result.Reason)
	if !slices.Contains(expected, region) && (err != nil || result.Queued) {
		region = ""
	}
	switch {
	case isA[badRequest](err), isA[*notification.RefusedError](err):
		name = intake.ResultRefused
	case err != nil:
		name = intake.ResultFailed
	case result.Queued:
		name = intake.ResultQueued
	}
	h.config.Received(region, name)
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
