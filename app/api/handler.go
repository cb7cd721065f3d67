// Package api is the public HTTP side: it takes ACR's webhooks, and answers what
// became of them. It checks keys and limits, turns ACR's payload into an event, and
// gives that to the intake. A 2xx to a webhook is a promise that the event is durable,
// because ACR tries only once.
package api

import (
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/page"
	"allregions/app/registry"
	"allregions/app/replication"
	"allregions/app/target"
)

const (
	callTimeout  = 4 * time.Second // of one call behind the API, such as a reading
	readyTimeout = time.Second     // of the sidecar's answer to /readyz
)

// Intake takes events; see intake.Intake.
type Intake interface {
	Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error)
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
	List(ctx context.Context, id string) ([]delivery.Status, error)
	Again(ctx context.Context, id, name string) (delivery.Status, error)
	Health() []target.Health
}

// Regions knows which regions of a registry a notification that begins now waits for.
// Registry returns the login server of the registry that a webhook is of, by the name in
// its URL and the host in its body, which both may be ""; its error is for the sender.
// Recheck asks again, if that can bring news, and tells whether a region that was not
// expected now is. Registries is what is known of them, without asking anybody.
type Regions interface {
	Registry(named, host string) (loginServer string, err error)
	Expected(ctx context.Context, registry string) (replication.Awaited, error)
	Recheck(ctx context.Context, registry string, region replication.Region) bool
	Registries() []registry.Status
}

// Config is what a Handler needs.
type Config struct {
	Intake     Intake
	Statuses   Statuses
	List       List
	Deliveries Deliveries
	Regions    Regions
	Keys       Keys
	ReadKeys   Keys // of callers who may only GET; unlike Keys, none let nobody in
	Peer       Peer // nil for none

	// Activity is what came from each place in the last day, and DeadLetters what could
	// never be delivered; nil where that is not known.
	Activity    func(context.Context) (map[catalog.Place]catalog.Activity, error)
	DeadLetters func(context.Context) (intake.DeadSummary, error)

	// Page, if set, is what browsers see.
	Page *page.Handler

	// Ready returns nil while webhooks can be taken. Its error goes to the log, and
	// not to the caller of /readyz, who needs no key.
	Ready func(context.Context) error

	// Received, if set, is called for each webhook that has a key and can be read, and
	// that no other replica has answered: with the decision of its notification or one
	// of intake's results, and with the region if it is expected. It must not block.
	Received func(region replication.Region, result string)

	// Tracer, if set, traces requests that have a key. Propagator then reads the
	// trace of the caller.
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator

	Version string // the release, or the commit

	Log *slog.Logger
}

// Handler serves the public listener.
type Handler struct {
	config   Config
	mux      *http.ServeMux
	polls    polls
	feed     *feed
	stop     context.CancelFunc
	statuses []statusRow
}

// New returns the handler of the public listener.
func New(c Config) *Handler {
	h := &Handler{config: c, mux: http.NewServeMux(), polls: polls{byKey: map[string]*reading{}}, statuses: newStatuses()}
	h.feed = newFeed(c.List, c.Log)
	h.polls.stopping, h.stop = context.WithCancel(context.Background())

	h.route("POST", "/webhooks/acr", h.withKey(h.receive))
	// The URLs of the two samples that users migrate from.
	h.route("POST", "/api/ImagePush", h.withKey(h.receive))
	h.route("POST", "/images/push", h.withKey(h.receive))

	h.route("GET", "/notifications", h.withKey(h.list))
	h.route("GET", "/stream", h.stream)
	h.route("GET", "/notifications/{id}", h.orPage(h.withKey(h.status)))
	h.route("GET", "/notifications/{id}/deliveries", h.withKey(h.listDeliveries))
	h.route("POST", "/notifications/{id}/deliveries/{target}", h.withKey(h.deliverAgain))
	h.route("GET", "/targets", h.withKey(h.targets))
	h.route("GET", "/regions", h.orPage(h.withKey(h.regions)))
	h.route("GET", "/images/{repository...}", h.withKey(h.image))

	h.route("GET", "/openapi.yaml", h.withKey(h.openapi))
	h.route("GET", "/version", h.withKey(h.version))
	h.route("GET", "/healthz", h.withoutKey(h.alive))
	h.route("GET", "/readyz", h.withoutKey(h.ready))
	if c.Page != nil {
		for pattern, file := range map[string]http.HandlerFunc{"/{$}": c.Page.Frame, page.Assets + "{file}": c.Page.Asset} {
			h.route("GET", pattern, file)
		}
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, errNoRoute) })
	return h
}

// orPage answers a browser that a person uses with the page, which then asks for the
// JSON. It needs no key: it has no data.
func (h *Handler) orPage(json http.HandlerFunc) http.HandlerFunc {
	if h.config.Page == nil {
		return json
	}
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			h.config.Page.Frame(w, r)
			return
		}
		json(w, r)
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Concluded makes those who wait for the notification read it now. It never blocks.
func (h *Handler) Concluded(id string) { h.polls.wake(id) }

// Stop ends every wait, now and from now on, and makes /readyz fail.
func (h *Handler) Stop() { h.stop() }

// route answers a path with one method, and 405 with Allow to every other.
func (h *Handler) route(method, pattern string, serve http.HandlerFunc) {
	allow := []string{method}
	if method == http.MethodGet {
		allow = append(allow, http.MethodHead)
	}
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(allow, r.Method) {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			h.fail(w, r, errMethodNotAllowed)
			return
		}
		serve(w, r)
	})
}

// endpoint answers a request with an HTTP status and JSON, nil for no body, or with an
// error, which the table of errors maps to an answer.
type endpoint func(w http.ResponseWriter, r *http.Request) (status int, body any, err error)

func (h *Handler) withKey(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h.config.refusal(r); err != nil {
			h.fail(w, r, err)
			return
		}
		h.traced(w, r, e)
	}
}

func (h *Handler) withoutKey(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, e) }
}

// answer writes what e returns, and returns the HTTP status.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, e endpoint) int {
	status, body, err := e(w, r)
	switch {
	case err != nil:
		return h.fail(w, r, err)
	case body == nil:
		w.WriteHeader(status)
	default:
		if d, ok := body.(document); ok {
			w.Header().Set("Content-Type", "application/yaml")
			w.Write(d)
			return status
		}
		writeJSON(w, status, "application/json", body)
	}
	return status
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func (h *Handler) alive(http.ResponseWriter, *http.Request) (int, any, error) {
	return http.StatusOK, map[string]string{"status": "ok"}, nil
}

// openAPI describes what this package answers.
//
//go:embed openapi.yaml
var openAPI []byte

func (h *Handler) openapi(http.ResponseWriter, *http.Request) (int, any, error) {
	return http.StatusOK, document(openAPI), nil
}

// document is a body that is not JSON.
type document []byte

func (h *Handler) version(http.ResponseWriter, *http.Request) (int, any, error) {
	return http.StatusOK, map[string]string{"version": h.config.Version}, nil
}

func (h *Handler) ready(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	if h.polls.stopping.Err() != nil {
		return 0, nil, unready{errStopping}
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := h.config.Ready(ctx); err != nil {
		return 0, nil, unready{err}
	}
	return http.StatusOK, map[string]string{"status": "ready"}, nil
}

func (h *Handler) listDeliveries(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	id, err := pathID(r)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	list, err := h.config.Deliveries.List(ctx, id)
	return http.StatusOK, map[string]any{"deliveries": list}, err
}

// deliverAgain answers 202: the attempt follows.
func (h *Handler) deliverAgain(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	id, err := pathID(r)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	st, err := h.config.Deliveries.Again(ctx, id, r.PathValue("target"))
	return http.StatusAccepted, st, err
}

func (h *Handler) targets(http.ResponseWriter, *http.Request) (int, any, error) {
	return http.StatusOK, map[string]any{"targets": h.config.Deliveries.Health()}, nil
}
