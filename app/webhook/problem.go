package webhook

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"allregions/app/delivery"
	"allregions/app/notification"
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

// problem is an RFC 9457 problem detail.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// badRequest is an error whose text is for the caller.
type badRequest struct{ error }

// statuses maps errors to HTTP. The first row that fits counts; the last one
// fits everything. Where detail is set, the error's text goes to the caller:
// never for a failure behind the handler, whose text is for the log. Where
// anybody is set, no key is needed to get there, and the log must not be theirs.
var statuses = []struct {
	is      func(error) bool
	status  int
	detail  bool
	anybody bool
}{
	{is(errUnauthorized), http.StatusUnauthorized, false, true}, // no hint at what was wrong
	{is(errNoRoute), http.StatusNotFound, true, true},
	{is(notification.ErrNotFound), http.StatusNotFound, true, false},
	{is(delivery.ErrNone), http.StatusNotFound, true, false},
	{is(errMethodNotAllowed), http.StatusMethodNotAllowed, true, true},
	{is(errTooLarge), http.StatusRequestEntityTooLarge, true, false},
	{isA[badRequest], http.StatusBadRequest, true, false},
	{isA[*notification.RefusedError], http.StatusBadRequest, true, false},
	{is(errStopping), http.StatusServiceUnavailable, true, false},
	{func(error) bool { return true }, http.StatusServiceUnavailable, false, false},
}

// flood keeps callers without a key from filling the log: one line a second is
// enough to see them.
type flood struct {
	mu       sync.Mutex
	last     time.Time
	unlogged int64 // since last
}

// log tells whether to write a line now, and how many were not written before it.
func (f *flood) log(now time.Time) (unlogged int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.last) < time.Second {
		f.unlogged++
		return 0, false
	}
	unlogged, f.unlogged, f.last = f.unlogged, 0, now
	return unlogged, true
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// retryAfter is the Retry-After of a 503, in seconds. ACR does not retry, but
// people and other senders do.
const retryAfter = "5"

// fail answers err, and logs it: here, and only here.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	for _, row := range statuses {
		if !row.is(err) {
			continue
		}
		p := problem{Type: "about:blank", Title: http.StatusText(row.status), Status: row.status}
		if row.detail {
			p.Detail = err.Error()
		}
		level, msg := slog.LevelInfo, "refused"
		switch row.status {
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", "Bearer")
		case http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", retryAfter)
			if !row.detail {
				p.Detail = "the notification could not be reached or stored"
				level, msg = slog.LevelError, "cannot answer"
			}
		}
		attrs := []slog.Attr{slog.String("path", r.URL.Path), slog.Int("status", row.status), slog.Any("err", err)}
		if !row.anybody {
			h.log.LogAttrs(r.Context(), level, msg, attrs...)
		} else if before, ok := h.flood.log(time.Now()); ok {
			h.log.LogAttrs(r.Context(), level, msg, append(attrs, slog.Int64("unlogged", before))...)
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
