// Package webhook is the public HTTP side: it takes ACR's webhooks in, and
// answers what became of them. It checks keys and limits, turns ACR's payload
// into an event, and gives that to the notification's actor. A 2xx to a webhook
// is a promise that the event is durable, because ACR tries only once.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"allregions/app/notification"
	"allregions/app/replication"
)

// Limits of a request.
const (
	maxBody       = 1 << 20         // bytes of a webhook's body; ACR's are below 2 KiB
	maxWait       = 5 * time.Minute // of ?wait=
	invokeTimeout = 4 * time.Second // for one call of an actor; ACR gives up after 5 s
	readyTimeout  = time.Second     // for the sidecar's answer to /readyz
)

// Notifications joins events. A nil error means that e is part of the
// notification's durable state.
type Notifications interface {
	Add(ctx context.Context, e replication.Event) (notification.Result, error)
}

// Statuses reads. The error is notification.ErrNotFound if no event of id was
// ever accepted.
type Statuses interface {
	Status(ctx context.Context, id string) (notification.Status, error)
}

// Regions knows which regions a notification that begins now waits for.
type Regions interface {
	Expected(ctx context.Context) ([]replication.Region, error)
}

// Handler serves the public listener.
type Handler struct {
	Notifications
	Statuses
	waiters *Waiters
	regions Regions
	keys    Keys
	ready   func(context.Context) error
	log     *slog.Logger
	mux     *http.ServeMux
}

// Config is what a Handler needs.
type Config struct {
	Notifications Notifications
	Statuses      Statuses
	Waiters       *Waiters
	Regions       Regions
	Keys          Keys
	// Ready is nil while webhooks can be taken; its error is shown to whoever
	// asks /readyz, without a key.
	Ready func(context.Context) error
	Log   *slog.Logger
}

// New returns the handler of the public listener.
func New(c Config) *Handler {
	h := &Handler{c.Notifications, c.Statuses, c.Waiters, c.Regions, c.Keys, c.Ready, c.Log, http.NewServeMux()}

	h.route("/webhooks/acr", methods{http.MethodPost: h.withKey(h.receive)})
	// The URLs of the two samples that people come from.
	h.route("/api/ImagePush", methods{http.MethodPost: h.withKey(h.receive)})
	h.route("/images/push", methods{http.MethodPost: h.withKey(h.receive)})

	h.route("/notifications/{id}", methods{http.MethodGet: h.withKey(h.status)})

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
		next(w, r)
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), invokeTimeout)
	defer cancel()
	region, err := h.region(ctx, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	e, err := p.event(region)
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	result, err := h.Add(ctx, e)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/notifications/"+e.ID)
	status := http.StatusOK
	if result.New() {
		status = http.StatusAccepted
	}
	writeJSON(w, status, "application/json", result.Status)
}

// region is the one that the URL names. It may be left out where only one is
// possible. Whether it is expected, the notification knows.
func (h *Handler) region(ctx context.Context, r *http.Request) (replication.Region, error) {
	region := replication.ParseRegion(r.URL.Query().Get("region"))
	if region != "" {
		return region, nil
	}
	expected, err := h.regions.Expected(ctx)
	if err != nil {
		return "", fmt.Errorf("expected regions: %w", err)
	}
	if len(expected) == 1 {
		return expected[0], nil
	}
	return "", badRequest{fmt.Errorf("the URL must name the region: ?region=R with R one of %v", expected)}
}

// status answers where a notification stands, with ?wait= not before an outcome
// is reached or the wait is over.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !validID.MatchString(id) {
		h.fail(w, r, notification.ErrNotFound)
		return
	}
	wait, err := parseWait(r.URL.Query().Get("wait"))
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	st, err := h.read(r, id)
	if err == nil && !st.Concluded() && wait > 0 {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 2*invokeTimeout))
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		var concluded bool
		if st, concluded = h.waiters.Wait(ctx, id); !concluded {
			st, err = h.read(r, id)
		}
	}
	switch {
	case r.Context().Err() != nil: // nobody is there to read it
	case err != nil:
		h.fail(w, r, err)
	default:
		writeJSON(w, http.StatusOK, "application/json", st)
	}
}

func (h *Handler) read(r *http.Request, id string) (notification.Status, error) {
	ctx, cancel := context.WithTimeout(r.Context(), invokeTimeout)
	defer cancel()
	return h.Status(ctx, id)
}

func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
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
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, "application/problem+json", problem{
			Type: "about:blank", Title: "not ready", Status: http.StatusServiceUnavailable, Detail: err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ready"})
}
