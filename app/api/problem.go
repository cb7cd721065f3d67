package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/delivery"
	"allregions/app/notification"
	"allregions/app/replication"
)

// The refusals of this package, beside badRequest. Those of package notification
// are refusals, too; everything else is a failure behind the handler.
var (
	errUnauthorized     = errors.New("a valid key is required")
	errNoRoute          = errors.New("there is nothing at this path")
	errMethodNotAllowed = errors.New("the path does not answer this method")
	errTooLarge         = errors.New("the body is larger than 64 KiB")
	// errStopping ends a wait early. It is a 503 and not the status so far:
	// to a pipeline that would look like the end of its wait.
	errStopping = errors.New("this replica is stopping; ask again")
)

// typeUndecided is the type of the problem that an image is not everywhere yet. It
// has the member missing.
const typeUndecided = "urn:allregions:problem:undecided"

// problem is an RFC 9457 problem detail.
type problem struct {
	Type    string               `json:"type"`
	Title   string               `json:"title"`
	Status  int                  `json:"status"`
	Detail  string               `json:"detail,omitempty"`
	Missing []replication.Region `json:"missing,omitzero"` // of typeUndecided, and there never nil
}

// problemOf is the problem with a status whose error has no type of its own.
func problemOf(err error, status int) problem {
	if u, ok := errors.AsType[undecided](err); ok {
		return problem{Type: typeUndecided, Title: "Not decided yet", Status: status, Missing: append([]replication.Region{}, u.missing...)}
	}
	return problem{Type: "about:blank", Title: http.StatusText(status), Status: status}
}

// undecided is the answer to require=replicated while it can still come true. It is
// no failure, and a 503 so that curl --fail takes it for no yes, and --retry asks
// again.
type undecided struct {
	missing []replication.Region // empty before the first webhook
}

func (u undecided) Error() string {
	if len(u.missing) == 0 {
		return "no region has reported it yet; ask again"
	}
	names := make([]string, 0, len(u.missing))
	for _, r := range u.missing {
		names = append(names, string(r))
	}
	return "not in every region yet, ask again; missing: " + strings.Join(names, ", ")
}

// badRequest is an error whose text is for the caller.
type badRequest struct{ error }

// unready is why no webhook can be taken now. Its text is for the log: whoever asks
// needs no key.
type unready struct{ error }

// statuses maps errors to HTTP. The first row that fits counts; the last one
// fits everything.
var statuses = []struct {
	is         func(error) bool
	status     int
	detail     func(error) string       // nil for none; of a failure never error.Error, which is for the log
	retryAfter string                   // in seconds
	level      slog.Level               // below info it is no failure, for traces either
	msg        string                   // in the log; "refused" by default
	limit      func(*Handler) *throttle // of what needs no key: the log must not be everybody's
}{
	{is: is(errUnauthorized), status: http.StatusUnauthorized, limit: refusals}, // no hint at what was wrong
	{is: is(errNoRoute), status: http.StatusNotFound, detail: error.Error, limit: refusals},
	{is: is(notification.ErrNotFound), status: http.StatusNotFound, detail: error.Error},
	{is: is(delivery.ErrNone), status: http.StatusNotFound, detail: error.Error},
	{is: is(errMethodNotAllowed), status: http.StatusMethodNotAllowed, detail: error.Error, limit: refusals},
	{is: is(errTooLarge), status: http.StatusRequestEntityTooLarge, detail: error.Error},
	{is: isA[badRequest], status: http.StatusBadRequest, detail: error.Error},
	{is: isA[*notification.RefusedError], status: http.StatusBadRequest, detail: error.Error},
	{is: is(errStopping), status: http.StatusServiceUnavailable, detail: error.Error, retryAfter: "5"},
	{is: isA[undecided], status: http.StatusServiceUnavailable, detail: error.Error, retryAfter: "1", level: slog.LevelDebug, msg: "undecided"},
	{is: isA[unready], status: http.StatusServiceUnavailable, detail: fixed("webhooks cannot be taken now; the log of the service says why"),
		retryAfter: "1", level: slog.LevelWarn, msg: "not ready", limit: readiness},
	// ACR does not retry, but people and other senders do.
	{is: func(error) bool { return true }, status: http.StatusServiceUnavailable, detail: fixed("the notification could not be reached or stored"),
		retryAfter: "5", level: slog.LevelError, msg: "cannot answer"},
}

func fixed(detail string) func(error) string { return func(error) string { return detail } }

// Those who guess keys do not hide that the service is not ready.
func refusals(h *Handler) *throttle  { return &h.refusals }
func readiness(h *Handler) *throttle { return &h.readiness }

// throttle lets one line a second into the log: enough to see what goes on.
type throttle struct {
	mu       sync.Mutex
	last     time.Time
	unlogged int64 // since last
}

// admit tells whether to write a line now, and how many were not written before it.
func (t *throttle) admit(now time.Time) (unlogged int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) < time.Second {
		t.unlogged++
		return 0, false
	}
	unlogged, t.unlogged, t.last = t.unlogged, 0, now
	return unlogged, true
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// fail answers err, and logs it: here, and only here.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	for _, row := range statuses {
		if !row.is(err) {
			continue
		}
		p := problemOf(err, row.status)
		if row.detail != nil {
			p.Detail = row.detail(err)
		}
		if row.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		if row.retryAfter != "" {
			w.Header().Set("Retry-After", row.retryAfter)
		}
		if row.status >= http.StatusInternalServerError && row.level >= slog.LevelInfo {
			trace.SpanFromContext(r.Context()).SetStatus(codes.Error, "")
		}
		attrs := []slog.Attr{slog.String("path", r.URL.Path), slog.Int("status", row.status), slog.Any("err", err)}
		if row.limit == nil {
			h.log.LogAttrs(r.Context(), row.level, cmp.Or(row.msg, "refused"), attrs...)
		} else if before, ok := row.limit(h).admit(time.Now()); ok {
			h.log.LogAttrs(r.Context(), row.level, cmp.Or(row.msg, "refused"), append(attrs, slog.Int64("unlogged", before))...)
		}
		writeJSON(w, row.status, "application/problem+json", p)
		return
	}
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// methods answers a path by method, and 405 with Allow for every other.
type methods map[string]http.HandlerFunc

func (h *Handler) route(pattern string, m methods) {
	if get, ok := m[http.MethodGet]; ok {
		m[http.MethodHead] = get
	}
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		if _, ok := m[method]; ok {
			allow = append(allow, method)
		}
	}
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		serve, ok := m[r.Method]
		if !ok {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			serve = func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, errMethodNotAllowed) }
		}
		serve(w, r)
	})
}
