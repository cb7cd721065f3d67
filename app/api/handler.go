// Package api is the public HTTP side: it takes ACR's webhooks in, and
// answers what became of them. It checks keys and limits, turns ACR's payload
// into an event, and gives that to the notification's actor. A 2xx to a webhook
// is a promise that the event is durable, because ACR tries only once.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/replication"
)

// Limits of a request.
const (
	maxBody       = 64 << 10        // bytes of a webhook's body; ACR's are below 2 KiB
	maxWait       = 5 * time.Minute // of ?wait=
	invokeTimeout = 4 * time.Second // for one reading of a status
	// For everything behind a webhook: the answer is there within 4.5 s. ACR
	// gives up after 5.
	receiveTimeout = 4300 * time.Millisecond
	readyTimeout   = time.Second // for the sidecar's answer to /readyz
)

// Notifications joins events. A nil error means that e is part of the
// notification's durable state, or, if the result says that it is queued, that a
// durable queue will bring it there. The expected regions count for a first event.
type Notifications interface {
	Add(ctx context.Context, e replication.Event, expected []replication.Region) (intake.Result, error)
}

// Statuses reads. The error is notification.ErrNotFound if no event of id, or
// about the image, was ever accepted.
type Statuses interface {
	Status(ctx context.Context, id string) (notification.Status, error)
	Find(ctx context.Context, image catalog.Image) (notification.Status, error)
}

// Deliveries knows what became of outcomes at the targets. The errors are those of
// Statuses, or delivery.ErrNone.
type Deliveries interface {
	List(ctx context.Context, notification string) ([]delivery.Status, error)
	Again(ctx context.Context, notification, target string) (delivery.Status, error)
	Health() []delivery.TargetStatus
}

// Regions knows which regions a notification that begins now waits for. Recheck
// looks again, if that can bring news, and tells whether a region that was not
// expected is.
type Regions interface {
	Expected(ctx context.Context) ([]replication.Region, error)
	Recheck(ctx context.Context, region replication.Region) bool
}

// Handler serves the public listener.
type Handler struct {
	Notifications
	Statuses
	deliveries Deliveries
	waiters    *Waiters
	looks      looks
	regions    Regions
	keys       Keys
	ready      func(context.Context) error
	received   func(region replication.Region, result string)
	tracer     trace.Tracer                  // nil for none
	propagator propagation.TextMapPropagator // with tracer
	log        *slog.Logger
	mux        *http.ServeMux
	refusals   throttle // lines of the log about callers without a key
	readiness  throttle // and about /readyz
}

// Config is what a Handler needs.
type Config struct {
	Notifications Notifications
	Statuses      Statuses
	Deliveries    Deliveries
	Waiters       *Waiters
	Regions       Regions
	Keys          Keys
	// Ready is nil while webhooks can be taken. Its error goes to the log, and not
	// to whoever asks /readyz, for that needs no key.
	Ready func(context.Context) error

	// Received, if set, is told what became of each webhook that has a key and can
	// be read: how its notification decided, or one of intake's results, and the
	// region, if it is an expected one. It must not block.
	Received func(region replication.Region, result string)

	// Tracer, if set, traces what is asked with a key. Propagator then reads what
	// trace a caller is in.
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator

	Log *slog.Logger
}

// New returns the handler of the public listener.
func New(c Config) *Handler {
	h := &Handler{Notifications: c.Notifications, Statuses: c.Statuses, deliveries: c.Deliveries, waiters: c.Waiters, looks: looks{next: map[string]*reading{}}, regions: c.Regions,
		keys: c.Keys, ready: c.Ready, received: c.Received, tracer: c.Tracer, propagator: c.Propagator, log: c.Log, mux: http.NewServeMux()}

	h.route("/webhooks/acr", methods{http.MethodPost: h.withKey(h.receive)})
	// The URLs of the two samples that people come from.
	h.route("/api/ImagePush", methods{http.MethodPost: h.withKey(h.receive)})
	h.route("/images/push", methods{http.MethodPost: h.withKey(h.receive)})

	h.route("/notifications/{id}", methods{http.MethodGet: h.withKey(h.status)})
	h.route("/notifications/{id}/deliveries", methods{http.MethodGet: h.withKey(h.listDeliveries)})
	h.route("/notifications/{id}/deliveries/{target}", methods{http.MethodPost: h.withKey(h.deliverAgain)})
	h.route("/targets", methods{http.MethodGet: h.withKey(h.targets)})
	h.route("/images/{repository...}", methods{http.MethodGet: h.withKey(h.image)})

	h.route("/healthz", methods{http.MethodGet: h.alive})
	h.route("/readyz", methods{http.MethodGet: h.isReady})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, errNoRoute) })
	return h
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) withKey(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !h.keys.admit(r) {
			h.fail(w, r, errUnauthorized)
			return
		}
		h.traced(next, w, r)
	}
}

// receive takes a webhook in: 202 for news, 200 for a repeat, 204 for a ping.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if isA[*http.MaxBytesError](err) {
			err = errTooLarge
		} else {
			err = badRequest{errors.New("the body could not be read to its end")}
		}
		h.fail(w, r, err)
		return
	}
	p, err := parsePayload(body)
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	if p.isPing() {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	// Once the body is here the event must not be lost to a caller that hangs
	// up: the rest goes on without it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), receiveTimeout)
	defer cancel()
	e, result, err := h.take(ctx, r, p, body)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/notifications/"+e.ID)
	if result.Queued {
		writeJSON(w, http.StatusAccepted, "application/json", queued{ID: e.ID, Queued: true})
		return
	}
	status := http.StatusOK
	if result.New() {
		status = http.StatusAccepted
	}
	writeJSON(w, status, "application/json", result.Status)
}

// take makes p an event, and gives it to its notification.
func (h *Handler) take(ctx context.Context, r *http.Request, p payload, body []byte) (e replication.Event, result intake.Result, err error) {
	var expected []replication.Region
	if h.received != nil {
		defer func() { h.received(regionOf(e, result, err, expected), resultOf(result, err)) }()
	}
	if expected, err = h.regions.Expected(ctx); err != nil {
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
	result, err = h.add(ctx, e, expected)
	return e, result, err
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

// regionOf is the region of e if somebody expects it. The caller may have made it
// up: nobody has looked at one that is queued.
func regionOf(e replication.Event, result intake.Result, err error, expected []replication.Region) replication.Region {
	if slices.Contains(expected, e.Region) || err == nil && !result.Queued {
		return e.Region
	}
	return ""
}

// queued is the answer to an event that is safe, and on its way.
type queued struct {
	ID     string `json:"id"`
	Queued bool   `json:"queued"`
}

// add gives e to its notification. The region of a new replica posts before
// anybody has read of it, and does not post again: so it gets a second look.
func (h *Handler) add(ctx context.Context, e replication.Event, expected []replication.Region) (intake.Result, error) {
	result, err := h.Add(ctx, e, expected)
	if !isA[*notification.RefusedError](err) || !h.regions.Recheck(ctx, e.Region) {
		return result, err
	}
	if expected, err = h.regions.Expected(ctx); err != nil {
		return result, fmt.Errorf("expected regions: %w", err)
	}
	return h.Add(ctx, e, expected)
}

// parseRegion returns the region that the URL names. It may be left out where
// only one is possible. Whether it is expected, the notification knows.
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

// status answers where a notification stands, with ?wait= not before an outcome
// is reached or the wait is over.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r)
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	id := r.PathValue("id")
	if !notification.ValidID(id) {
		h.fail(w, r, notification.ErrNotFound)
		return
	}
	ctx, cancel := q.wait(w, r)
	defer cancel()
	st, err := h.looks.look(r.Context(), id, func(ctx context.Context) (notification.Status, error) { return h.Status(ctx, id) })
	// With a requirement the question may come before the first webhook.
	open := err == nil && !q.settles(st) || errors.Is(err, notification.ErrNotFound) && q.replicated
	if open && q.waits() {
		st, err = h.outcome(ctx, r, id)
	}
	h.answer(w, r, q, st, err)
}

// image answers where the newest notification about an image stands. Its wait
// may begin before there is any.
func (h *Handler) image(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r)
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	image := catalog.Image{Repository: r.PathValue("repository"), Digest: r.URL.Query().Get("digest"), Tag: r.URL.Query().Get("tag")}
	if image.Digest == "" && image.Tag == "" {
		h.fail(w, r, badRequest{errors.New("the URL must name the image: ?digest=sha256:... or ?tag=..., or both")})
		return
	}
	ctx, cancel := q.wait(w, r)
	defer cancel()
	find := func(ctx context.Context) (notification.Status, error) { return h.Find(ctx, image) }
	key := fmt.Sprintf("image %q", image)
	st, err := h.looks.look(r.Context(), key, find)
	if errors.Is(err, notification.ErrNotFound) && q.waits() {
		found, ok := h.waiters.Wait(ctx, key, func(ctx context.Context) (notification.Status, bool) {
			st, err := find(ctx)
			return st, err == nil
		})
		switch {
		case ok:
			st, err = found, nil
		case h.waiters.Closed():
			err = errStopping
		}
	}
	if err == nil && !q.settles(st) && q.waits() {
		st, err = h.outcome(ctx, r, st.ID)
	}
	h.answer(w, r, q, st, err)
}

func (h *Handler) listDeliveries(w http.ResponseWriter, r *http.Request) {
	h.ofNotification(w, r, http.StatusOK, func(ctx context.Context, id string) (any, error) {
		list, err := h.deliveries.List(ctx, id)
		return map[string]any{"deliveries": list}, err
	})
}

// deliverAgain answers 202: the attempt follows.
func (h *Handler) deliverAgain(w http.ResponseWriter, r *http.Request) {
	h.ofNotification(w, r, http.StatusAccepted, func(ctx context.Context, id string) (any, error) {
		return h.deliveries.Again(ctx, id, r.PathValue("target"))
	})
}

// ofNotification answers what do returns about the notification in the path.
func (h *Handler) ofNotification(w http.ResponseWriter, r *http.Request, status int, do func(ctx context.Context, id string) (any, error)) {
	id := r.PathValue("id")
	if !notification.ValidID(id) {
		h.fail(w, r, notification.ErrNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), invokeTimeout)
	defer cancel()
	answer, err := do(ctx, id)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, status, "application/json", answer)
}

func (h *Handler) targets(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", map[string]any{"targets": h.deliveries.Health()})
}

// outcome waits until the notification has one, or ctx ends; then it answers
// where it stands.
func (h *Handler) outcome(ctx context.Context, r *http.Request, id string) (notification.Status, error) {
	read := func(ctx context.Context) (notification.Status, error) { return h.Status(ctx, id) }
	concluded, ok := h.waiters.Wait(ctx, id, func(ctx context.Context) (notification.Status, bool) {
		st, err := read(ctx)
		return st, err == nil && st.Concluded()
	})
	switch {
	case ok:
		return concluded, nil
	case h.waiters.Closed():
		return notification.Status{}, errStopping
	}
	return h.looks.look(r.Context(), id, read)
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, q query, st notification.Status, err error) {
	switch {
	case r.Context().Err() != nil: // nobody is there to read it
	case q.replicated && errors.Is(err, notification.ErrNotFound):
		h.fail(w, r, undecided{})
	case err != nil:
		h.fail(w, r, err)
	case q.replicated && !q.settles(st):
		h.fail(w, r, undecided{st.Missing})
	default:
		writeJSON(w, q.status(st), "application/json", st)
	}
}

// query is what /notifications and /images have in common.
type query struct {
	timeout    time.Duration // of the wait; 0 for none
	replicated bool          // answer with an HTTP status that says whether the image is everywhere
}

func parseQuery(r *http.Request) (q query, err error) {
	values := r.URL.Query()
	if q.timeout, err = parseWait(values.Get("wait")); err != nil {
		return q, err
	}
	switch values.Get("require") {
	case "":
	case string(replication.Replicated):
		q.replicated = true
	default:
		return q, errors.New("require can be replicated, and nothing else")
	}
	return q, nil
}

func (q query) waits() bool { return q.timeout > 0 }

// wait is the context of the wait. It gives w the time for it.
func (q query) wait(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	if q.waits() {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(q.timeout + 4*invokeTimeout))
	}
	return context.WithTimeout(r.Context(), q.timeout)
}

// settles tells whether st answers the question for good: nothing that still comes
// makes a delete or a quarantine an image that is everywhere.
func (q query) settles(st notification.Status) bool {
	return st.Concluded() || q.replicated && !st.IsArrival()
}

// status is the HTTP status for st, which settles q if that requires anything. A
// client that only looks at it (curl --fail) fails unless the image is in every
// region.
func (q query) status(st notification.Status) int {
	if q.replicated && (st.Status == replication.TimedOut || !st.IsArrival()) {
		return http.StatusConflict
	}
	return http.StatusOK
}

func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if seconds, secondsErr := strconv.Atoi(s); secondsErr == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < 0 || d > maxWait {
		return 0, fmt.Errorf("wait must be a duration from 0s to %s, such as 60s", maxWait)
	}
	return d, nil
}

func (h *Handler) alive(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ok"})
}

func (h *Handler) isReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := h.ready(ctx); err != nil {
		h.fail(w, r, unready{err})
		return
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ready"})
}
