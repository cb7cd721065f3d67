package api

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"allregions/app/actor"
	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/notification"
	"allregions/app/replication"
)

// The refusals of this package, beside badRequest. Those of package notification
// are refusals, too; everything else is a failure behind the handler.
var (
	errUnauthorized     = errors.New("a valid key is required")
	errReadOnly         = errors.New("this key may only read")
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

// typeAmbiguous is the type of the problem that an image is in several registries. It has
// the member registries.
const typeAmbiguous = "urn:allregions:problem:ambiguous"

// problem is an RFC 9457 problem detail.
type problem struct {
	Type       string               `json:"type"`
	Title      string               `json:"title"`
	Status     int                  `json:"status"`
	Detail     string               `json:"detail,omitempty"`
	Missing    []replication.Region `json:"missing,omitzero"`    // of typeUndecided, and there never nil
	Registries []string             `json:"registries,omitzero"` // of typeAmbiguous
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
	return "not in every region yet, ask again; missing: " + strings.Join(replication.Names(u.missing), ", ")
}

// badRequest is an error whose text is for the caller.
type badRequest struct{ error }

// unready is why no webhook can be taken now. Its text is for the log: whoever asks
// needs no key.
type unready struct{ error }

// statusRow is what an error comes to.
type statusRow struct {
	is         func(error) bool
	status     int
	detail     string          // of a failure, whose error is for the log; "" for the error's text
	retryAfter string          // in seconds
	level      slog.Level      // below info it is no failure, for traces either
	msg        string          // in the log; "refused" by default
	throttle   *actor.Throttle // of the log, for what needs no key
}

// newStatuses maps errors to HTTP. The first row that fits counts; the last one
// fits everything. Guesses at keys must not hide that the service is not ready.
func newStatuses() []statusRow {
	refused, notReady := &actor.Throttle{Every: time.Second}, &actor.Throttle{Every: time.Second}
	return []statusRow{
		{is: is(errUnauthorized), status: http.StatusUnauthorized, throttle: refused},
		{is: is(errReadOnly), status: http.StatusForbidden},
		{is: is(errNoRoute), status: http.StatusNotFound, throttle: refused},
		{is: is(notification.ErrNotFound), status: http.StatusNotFound},
		{is: is(delivery.ErrNone), status: http.StatusNotFound},
		{is: is(errMethodNotAllowed), status: http.StatusMethodNotAllowed, throttle: refused},
		{is: is(errTooLarge), status: http.StatusRequestEntityTooLarge},
		{is: isA[*catalog.AmbiguousError], status: http.StatusConflict},
		{is: isA[badRequest], status: http.StatusBadRequest},
		{is: isA[*notification.RefusedError], status: http.StatusBadRequest},
		{is: is(errStopping), status: http.StatusServiceUnavailable, retryAfter: "5"},
		{is: is(errNoStreams), status: http.StatusServiceUnavailable, retryAfter: "5", level: slog.LevelWarn},
		{is: is(errHop), status: http.StatusServiceUnavailable, retryAfter: "1", msg: "not taken over"},
		{is: isA[undecided], status: http.StatusServiceUnavailable, retryAfter: "1", level: slog.LevelDebug, msg: "undecided"},
		{is: isA[unready], status: http.StatusServiceUnavailable, detail: "webhooks cannot be taken now; the log of the service says why",
			retryAfter: "1", level: slog.LevelWarn, msg: "not ready", throttle: notReady},
		// ACR does not retry, but people and other senders do.
		{is: func(error) bool { return true }, status: http.StatusServiceUnavailable, detail: "the notification could not be reached or stored",
			retryAfter: "5", level: slog.LevelError, msg: "cannot answer"},
	}
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// log writes the line of an error, unless its throttle says no.
func (h *Handler) log(r *http.Request, row statusRow, err error) {
	attrs := []slog.Attr{slog.String("path", r.URL.Path), slog.Int("status", row.status), slog.Any("err", err)}
	if row.throttle != nil {
		unlogged, ok := row.throttle.Allow(time.Now())
		if !ok {
			return
		}
		attrs = append(attrs, slog.Int("unlogged", unlogged))
	}
	h.config.Log.LogAttrs(r.Context(), row.level, cmp.Or(row.msg, "refused"), attrs...)
}

// fail answers err and logs it: here, and only here. It returns the HTTP status.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) int {
	row := h.statuses[slices.IndexFunc(h.statuses, func(row statusRow) bool { return row.is(err) })]
	p := problem{Type: "about:blank", Title: http.StatusText(row.status), Status: row.status, Detail: cmp.Or(row.detail, err.Error())}
	if u, ok := errors.AsType[undecided](err); ok {
		p.Type, p.Title, p.Missing = typeUndecided, "Not decided yet", append([]replication.Region{}, u.missing...)
	}
	if several, ok := errors.AsType[*catalog.AmbiguousError](err); ok {
		p.Type, p.Title, p.Registries = typeAmbiguous, "In several registries", several.Registries
	}
	if row.status == http.StatusUnauthorized { // no hint at what was wrong
		p.Detail = ""
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if row.retryAfter != "" {
		w.Header().Set("Retry-After", row.retryAfter)
	}
	if row.status >= http.StatusInternalServerError && row.level >= slog.LevelInfo {
		trace.SpanFromContext(r.Context()).SetStatus(codes.Error, "")
	}
	h.log(r, row, err)
	writeJSON(w, row.status, "application/problem+json", p)
	return row.status
}
