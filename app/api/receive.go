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
	if h.config.Received != nil {
		defer func() { h.config.Received(regionOf(e, result, err, expected), resultOf(result, err)) }()
	}
	if expected, err = h.expected(ctx); err != nil {
		return e, result, err
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
	// The first webhook of a new replica may come before we know the region, and ACR
	// does not repeat it.
	if isA[*notification.RefusedError](err) && h.config.Regions.Recheck(ctx, region) {
		if expected, err = h.expected(ctx); err == nil {
			result, err = h.config.Intake.Add(ctx, e, expected)
		}
	}
	return e, result, err
}

func (h *Handler) expected(ctx context.Context) ([]replication.Region, error) {
	expected, err := h.config.Regions.Expected(ctx)
	if err != nil {
		return nil, fmt.Errorf("expected regions: %w", err)
	}
	return expected, nil
}

func resultOf(result intake.Result, err error) string {
	switch {
	case isA[badRequest](err), isA[*notification.RefusedError](err):
		return intake.ResultRefused
	case err != nil:
		return intake.ResultFailed
	case result.Queued:
		return intake.ResultQueued
	}
	return string(result.Reason)
}

// regionOf is the region of e if it is expected, and "" if the caller may have made it
// up: nobody has checked the region of a queued event.
func regionOf(e replication.Event, result intake.Result, err error, expected []replication.Region) replication.Region {
	if slices.Contains(expected, e.Region) || err == nil && !result.Queued {
		return e.Region
	}
	return ""
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
