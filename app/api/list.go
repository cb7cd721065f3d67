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

// parseListQuery reads the query of the list. Its errors name the parameter.
func parseListQuery(values url.Values, now time.Time) (catalog.Query, error) {
	q := catalog.Query{Since: now.Add(-listed), Limit: defaultLimit}
	parsers := map[string]func(string) error{
		"code":       func(string) error { return nil }, // the key
		"status":     func(s string) (err error) { q.Status, err = parseStatus(s); return err },
		"registry":   func(s string) error { q.Registry = strings.ToLower(s); return nil },
		"repository": func(s string) error { q.Repository = s; return nil },
		"tag":        func(s string) error { q.Tag = s; return nil },
		"region":     func(s string) (err error) { q.Missing, err = parseMissing(s); return err },
		"since":      func(s string) (err error) { q.Since, err = parseSince(s, now); return err },
		"limit":      func(s string) (err error) { q.Limit, err = parseLimit(s); return err },
		"cursor":     func(s string) (err error) { q.After, err = decodeCursor(s); return err },
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all := values[name]
		parse, ok := parsers[name]
		switch {
		case !ok:
			return q, fmt.Errorf("%q is no parameter of the list", name)
		case len(all) > 1:
			return q, fmt.Errorf("%s is there twice", name)
		case all[0] == "": // as if it were not there
			continue
		}
		if err := parse(all[0]); err != nil {
			return q, fmt.Errorf("%s %w", name, err)
		}
	}
	return q, nil
}

func parseStatus(s string) (replication.Status, error) {
	all := []replication.Status{replication.Collecting, replication.Replicated, replication.TimedOut, replication.Recovered}
	if !slices.Contains(all, replication.Status(s)) {
		return "", fmt.Errorf("must be one of %v", all)
	}
	return replication.Status(s), nil
}

func parseMissing(s string) (replication.Region, error) {
	region := replication.ParseRegion(s)
	if region == "" {
		return "", errors.New("must be a region")
	}
	return region, nil
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return at, errors.New("must be a time such as 2026-11-24T15:10:00Z, or a duration before now such as 36h")
	}
	return at, nil
}

func parseLimit(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, fmt.Errorf("must be a number from 1 to %d", maxLimit)
	}
	return n, nil
}

// encodeCursor is the text of a position, which callers do not look into.
func encodeCursor(p catalog.Position) string {
	return base64.RawURLEncoding.EncodeToString([]byte(p.StartedAt.UTC().Format(time.RFC3339Nano) + " " + p.Notification))
}

// decodeCursor takes what encodeCursor returns, and nothing else.
func decodeCursor(s string) (p catalog.Position, err error) {
	data, err := base64.RawURLEncoding.DecodeString(s)
	at, id, ok := strings.Cut(string(data), " ")
	p.Notification = id
	if err == nil && ok && (id == "" || notification.ValidID(id)) {
		p.StartedAt, err = time.Parse(time.RFC3339Nano, at)
	}
	if err != nil || encodeCursor(p) != s || p.StartedAt.IsZero() {
		return catalog.Position{}, errors.New("must be one that an earlier page has returned")
	}
	return p, nil
}
