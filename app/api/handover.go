package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"allregions/app/intake"
	"allregions/app/replication"
)

// Peer is another replica; see intake.Peer.
type Peer interface {
	NeededFor(err error) bool
	HandOver(ctx context.Context, w intake.Webhook) (intake.Answer, error)
}

// errHop is the answer to a webhook that has hopped already: the replica that has sent
// it tries again.
var errHop = errors.New("the sidecar of this replica refuses connections, too; try another replica")

// mustGo tells whether the webhook must go to another replica: err, if there is one, is
// why this one has not taken it.
func (h *Handler) mustGo(err error) bool {
	return h.config.Peer != nil && (err == nil || isFailure(err)) && h.config.Peer.NeededFor(err)
}

// handOver gives the webhook to another replica, and passes its answer on.
func (h *Handler) handOver(ctx context.Context, r *http.Request, p payload, body []byte) (status int, answer any, err error) {
	if hasHopped(r) {
		return 0, nil, errHop
	}
	query := r.URL.Query()
	w := intake.Webhook{ID: p.ID, Region: query.Get("region"), Registry: query.Get("registry"), Body: body, Header: http.Header{}}
	w.Header.Set("Content-Type", "application/json; charset=utf-8")
	if key, ok := h.config.Keys.given(r); ok {
		w.Header.Set("Authorization", "Bearer "+key)
	}
	if h.config.Propagator != nil {
		h.config.Propagator.Inject(ctx, propagation.HeaderCarrier(w.Header))
	}
	a, err := h.config.Peer.HandOver(ctx, w)
	switch {
	case err != nil:
		e, _ := h.event(r, p) // what is wrong with it is for another replica to say
		awaited, _ := h.config.Regions.Expected(ctx, e.Registry)
		e.Region = replication.ParseRegion(w.Region)
		h.report(accepted{event: e, awaited: awaited}, err)
		return 0, nil, err
	case a.Status == http.StatusUnauthorized: // it has other keys
		return 0, nil, errUnauthorized
	case a.Refused():
		return 0, nil, badRequest{errors.New(a.Detail)}
	}
	return a.Status, json.RawMessage(a.Body), nil
}

// hasHopped tells whether another replica has handed the webhook over. A caller that only
// says so has a key as well, and gets less.
func hasHopped(r *http.Request) bool { return r.Header.Get(intake.HopHeader) != "" }

// patience is how long everything behind the webhook may take here. A replica that has
// handed it over has less time left: without the hint the answer, which may be that the
// event is queued, would come too late for it.
func patience(r *http.Request) time.Duration {
	left, err := time.ParseDuration(r.Header.Get(intake.HopHeader))
	if err != nil {
		return receiveTimeout
	}
	return min(left, receiveTimeout)
}
