package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/registry"
	"allregions/app/replication"
)

// maxWait is the longest ?wait=. Azure Container Apps ends every request after 240 s with a
// 504; what follows the wait takes a few seconds at most.
const maxWait = 230 * time.Second

// status answers where a notification stands. With ?wait= it answers when there is an
// outcome or the wait is over.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) (int, any, error) {
	q, err := parseQuery(r)
	if err != nil {
		return 0, nil, err
	}
	id, err := pathID(r)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := waitContext(w, r, q)
	defer cancel()
	st, err := h.read(id).once(r.Context())
	// With a requirement the question may come before the first webhook.
	open := err == nil && !q.settles(st) || q.replicated && errors.Is(err, notification.ErrNotFound)
	if open && q.wait > 0 {
		st, err = h.wait(ctx, r, id, h.read(id), q.settles)
	}
	return q.answer(r, st, err)
}

// image answers where the newest notification about an image stands. Its wait
// may begin before there is any.
func (h *Handler) image(w http.ResponseWriter, r *http.Request) (int, any, error) {
	q, err := parseQuery(r)
	if err != nil {
		return 0, nil, err
	}
	image := catalog.Image{Registry: h.registry(r), Repository: r.PathValue("repository"), Digest: r.URL.Query().Get("digest"), Tag: r.URL.Query().Get("tag")}
	if image.Digest == "" && image.Tag == "" {
		return 0, nil, badRequest{errors.New("the URL must name the image: ?digest=sha256:... or ?tag=..., or both")}
	}
	ctx, cancel := waitContext(w, r, q)
	defer cancel()
	var find readFunc = func(ctx context.Context) (notification.Status, error) { return h.config.Statuses.Find(ctx, image) }
	st, err := find.once(r.Context())
	if errors.Is(err, notification.ErrNotFound) && q.wait > 0 {
		st, err = h.wait(ctx, r, fmt.Sprintf("image %q", image), find, func(notification.Status) bool { return true })
	}
	if err == nil && !q.settles(st) && q.wait > 0 {
		st, err = h.wait(ctx, r, st.ID, h.read(st.ID), q.settles)
	}
	return q.answer(r, st, err)
}

// registry is the one that a question is about: the URL names it, or there is only one. It
// is "" for any.
func (h *Handler) registry(r *http.Request) string {
	if named := r.URL.Query().Get("registry"); named != "" {
		return named
	}
	if all := h.config.Regions.Registries(); len(all) == 1 {
		return all[0].Name
	}
	return ""
}

func (h *Handler) read(id string) readFunc {
	return func(ctx context.Context) (notification.Status, error) { return h.config.Statuses.Status(ctx, id) }
}

// wait reads until the status is enough. After the end of ctx it reads once more.
func (h *Handler) wait(ctx context.Context, r *http.Request, key string, read readFunc, enough func(notification.Status) bool) (notification.Status, error) {
	st, err := h.polls.wait(ctx, key, read, enough)
	if err == nil || errors.Is(err, errStopping) {
		return st, err
	}
	return read.once(r.Context())
}

// waitContext ends with the wait of q. It gives w the time for it.
func waitContext(w http.ResponseWriter, r *http.Request, q query) (context.Context, context.CancelFunc) {
	if q.wait > 0 {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(q.wait + 4*callTimeout))
	}
	return context.WithTimeout(r.Context(), q.wait)
}

// pathID is the id of the notification in the path.
func pathID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !notification.ValidID(id) {
		return "", notification.ErrNotFound
	}
	return id, nil
}

// query is what /notifications and /images have in common.
type query struct {
	wait       time.Duration        // 0 for none
	replicated bool                 // the HTTP status is to say whether the image is everywhere
	regions    []replication.Region // that everywhere means; none for all
}

func parseQuery(r *http.Request) (q query, err error) {
	values := r.URL.Query()
	if q.wait, err = parseWait(values.Get("wait")); err != nil {
		return q, err
	}
	if list := values.Get("regions"); list != "" {
		regions, err := registry.ParseStatic(strings.Split(list, ","))
		if err != nil {
			return q, badRequest{fmt.Errorf("regions must be names of regions, comma separated: %w", err)}
		}
		q.regions = regions
	}
	switch values.Get("require") {
	case "":
	case string(replication.Replicated):
		q.replicated = true
	default:
		return q, badRequest{errors.New("require can be replicated, and nothing else")}
	}
	return q, nil
}

func parseWait(s string) (time.Duration, error) {
	if _, err := strconv.Atoi(s); err == nil {
		s += "s"
	}
	d, err := time.ParseDuration(cmp.Or(s, "0s"))
	if err != nil || d < 0 || d > maxWait {
		return 0, badRequest{fmt.Errorf("wait must be a duration from 0s to %.0fs, such as 60s", maxWait.Seconds())}
	}
	return d, nil
}

// missing are the regions asked about that have not reported, and one that the
// notification does not wait for, or "".
func (q query) missing(st notification.Status) (missing []replication.Region, unknown replication.Region) {
	if len(q.regions) == 0 {
		return st.Missing, ""
	}
	for _, region := range q.regions {
		switch {
		case st.Has(region):
		case slices.Contains(st.Awaited().All(), region):
			missing = append(missing, region)
		default:
			unknown = region
		}
	}
	return missing, unknown
}

// settles tells whether st answers the question for good: nothing that still comes
// makes a delete or a quarantine an image that is everywhere. An optional region that is
// asked about has the time of the others, for no outcome waits for it.
func (q query) settles(st notification.Status) bool {
	missing, unknown := q.missing(st)
	return unknown != "" || q.over(st, missing) || len(q.regions) > 0 && len(missing) == 0 || q.replicated && !st.IsArrival()
}

// over tells whether the notification has nothing left to wait for but regions that have
// had their time.
func (q query) over(st notification.Status, missing []replication.Region) bool {
	optional := func(r replication.Region) bool { return !slices.Contains(st.Missing, r) }
	return st.Concluded() && (!slices.ContainsFunc(missing, optional) || !time.Now().Before(st.Deadline))
}

// answer lets a client that looks at the HTTP status alone (curl --fail) fail unless
// the image is in every region that q asks about, if q requires that.
func (q query) answer(r *http.Request, st notification.Status, err error) (int, any, error) {
	missing, unknown := q.missing(st)
	switch {
	case r.Context().Err() != nil: // the caller has gone
		return http.StatusOK, nil, nil
	case q.replicated && errors.Is(err, notification.ErrNotFound):
		return 0, nil, undecided{}
	case err != nil:
		return 0, nil, err
	case unknown != "":
		return 0, nil, &notification.RefusedError{Region: unknown, Expected: st.Awaited().All()}
	case q.replicated && !q.settles(st):
		return 0, nil, undecided{missing}
	case q.replicated && (!st.IsArrival() || len(missing) > 0 && (len(q.regions) > 0 || st.Status == replication.TimedOut)):
		return http.StatusConflict, st, nil
	}
	return http.StatusOK, st, nil
}
