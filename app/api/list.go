package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// List reads the list; see catalog.List.
type List interface {
	Page(ctx context.Context, q catalog.Query, now time.Time) (catalog.Page, error)
}

const (
	defaultLimit = 50
	maxLimit     = 200

	// listed is how far back the list goes, where the query does not say: as long as
	// infra lets the stores keep what is not changed.
	listed = 90 * 24 * time.Hour
)

// page is a part of the list. Without a cursor it is the last one.
type page struct {
	Notifications []json.RawMessage `json:"notifications"`
	Cursor        string            `json:"cursor,omitempty"`
}

// list answers the newest notifications.
func (h *Handler) list(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	now := time.Now()
	q, err := parseListQuery(r.URL.Query(), now)
	if err != nil {
		return 0, nil, badRequest{err}
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	found, err := h.config.List.Page(ctx, q, now)
	if err != nil {
		return 0, nil, err
	}
	p := page{Notifications: found.Notifications}
	if found.Next != nil {
		p.Cursor = encodeCursor(*found.Next)
	}
	return http.StatusOK, p, nil
}

var listStatuses = []replication.Status{replication.Collecting, replication.Replicated, replication.TimedOut, replication.Recovered}

// parseListQuery reads the query of the list. Its errors name the parameter.
func parseListQuery(values url.Values, now time.Time) (catalog.Query, error) {
	q := catalog.Query{Since: now.Add(-listed), Limit: defaultLimit}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return q, fmt.Errorf("%s is there twice", name)
		}
		value := values[name][0]
		if value == "" { // as if it were not there
			continue
		}
		var err error
		ok := true
		switch name {
		case "code": // the key
		case "status":
			q.Status = replication.Status(value)
			ok, err = slices.Contains(listStatuses, q.Status), fmt.Errorf("must be one of %v", listStatuses)
		case "registry":
			q.Registry = strings.ToLower(value)
		case "repository":
			q.Repository = value
		case "tag":
			q.Tag = value
		case "region":
			q.Missing = replication.ParseRegion(value)
			ok, err = q.Missing != "", errors.New("must be a region")
		case "since":
			q.Since, ok = parseSince(value, now)
			err = errors.New("must be a time such as 2026-11-24T15:10:00Z, or how long ago, such as 36h")
		case "limit":
			q.Limit, err = strconv.Atoi(value)
			ok, err = err == nil && q.Limit >= 1 && q.Limit <= maxLimit, fmt.Errorf("must be a number from 1 to %d", maxLimit)
		case "cursor":
			q.After, ok = decodeCursor(value)
			err = errors.New("must be one that an earlier page has returned")
		default:
			ok, err = false, errors.New("is no parameter of the list")
		}
		if !ok {
			return q, fmt.Errorf("%s %w", name, err)
		}
	}
	return q, nil
}

func parseSince(s string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), d >= 0
	}
	at, err := time.Parse(time.RFC3339, s)
	return at, err == nil
}

// encodeCursor is the text of a position, which callers do not look into.
func encodeCursor(p catalog.Position) string {
	return base64.RawURLEncoding.EncodeToString([]byte(p.StartedAt.UTC().Format(time.RFC3339Nano) + " " + p.Notification))
}

// decodeCursor takes what encodeCursor returns, and nothing else.
func decodeCursor(s string) (catalog.Position, bool) {
	data, _ := base64.RawURLEncoding.DecodeString(s)
	text, id, _ := strings.Cut(string(data), " ")
	at, err := time.Parse(time.RFC3339Nano, text)
	p := catalog.Position{StartedAt: at, Notification: id}
	return p, err == nil && !at.IsZero() && encodeCursor(p) == s && (id == "" || notification.ValidID(id))
}
