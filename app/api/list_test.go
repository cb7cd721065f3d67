package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// listFunc is a List.
type listFunc func(ctx context.Context, q catalog.Query, now time.Time) (catalog.Page, error)

func (f listFunc) Page(ctx context.Context, q catalog.Query, now time.Time) (catalog.Page, error) {
	return f(ctx, q, now)
}

func listHandler(l List) *Handler {
	return New(Config{List: l, Keys: NewKeys([]string{key1, key2}), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

func TestList(t *testing.T) {
	var asked []catalog.Query
	position := catalog.Position{StartedAt: time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC), Notification: "n1"}
	pages := []catalog.Page{
		{Notifications: []json.RawMessage{json.RawMessage(`{"id":"n1"}`)}, Next: &position},
		{Notifications: []json.RawMessage{}},
	}
	h := listHandler(listFunc(func(ctx context.Context, q catalog.Query, _ time.Time) (catalog.Page, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("a call without a time limit")
		}
		asked = append(asked, q)
		return pages[len(asked)-1], nil
	}))
	w := call(h, http.MethodGet, "/notifications", "")
	var first page
	if err := json.Unmarshal(w.Body.Bytes(), &first); err != nil || w.Code != http.StatusOK || first.Cursor == "" || string(first.Notifications[0]) != `{"id":"n1"}` {
		t.Fatalf("%d %s, %v", w.Code, w.Body, err)
	}
	w = call(h, http.MethodGet, "/notifications?cursor="+first.Cursor, "")
	if got, want := strings.TrimSpace(w.Body.String()), `{"notifications":[]}`; w.Code != http.StatusOK || got != want {
		t.Errorf("%d %s, want %s", w.Code, got, want)
	}
	if asked[1].After != position {
		t.Errorf("asked for what follows %+v, want %+v", asked[1].After, position)
	}

	h = listHandler(listFunc(func(context.Context, catalog.Query, time.Time) (catalog.Page, error) {
		return catalog.Page{}, errors.New("no store")
	}))
	if w := call(h, http.MethodGet, "/notifications", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("the store is away: %d %s", w.Code, w.Body)
	}
}

func TestParseListQuery(t *testing.T) {
	now := time.Date(2026, 11, 24, 15, 10, 0, 0, time.UTC)
	cursor := catalog.Position{StartedAt: now.Add(-time.Minute), Notification: "n1"}
	with := func(change func(*catalog.Query)) catalog.Query {
		q := catalog.Query{Since: now.Add(-90 * 24 * time.Hour), Limit: 50}
		change(&q)
		return q
	}
	for query, want := range map[string]catalog.Query{
		"":                            with(func(*catalog.Query) {}),
		"code=" + key1:                with(func(*catalog.Query) {}),
		"status=&tag=&limit=&cursor=": with(func(*catalog.Query) {}),
		"status=timedOut&tag=v1":      with(func(q *catalog.Query) { q.Status, q.Tag = replication.TimedOut, "v1" }),
		"registry=Contoso.azurecr.io": with(func(q *catalog.Query) { q.Registry = "contoso.azurecr.io" }),
		"repository=shop%2Fcart":      with(func(q *catalog.Query) { q.Repository = "shop/cart" }),
		"region=West+Europe":          with(func(q *catalog.Query) { q.Missing = "westeurope" }),
		"since=2026-11-24T15:00:00Z":  with(func(q *catalog.Query) { q.Since = now.Add(-10 * time.Minute) }),
		"since=36h":                   with(func(q *catalog.Query) { q.Since = now.Add(-36 * time.Hour) }),
		"limit=200":                   with(func(q *catalog.Query) { q.Limit = 200 }),
		"cursor=" + encodeCursor(cursor) + "&limit=1": with(func(q *catalog.Query) { q.After, q.Limit = cursor, 1 }),
	} {
		t.Run(query, func(t *testing.T) {
			values, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseListQuery(values, now)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

// The answer to a query that is wrong names the parameter.
func TestListRefuses(t *testing.T) {
	h := listHandler(listFunc(func(context.Context, catalog.Query, time.Time) (catalog.Page, error) {
		t.Error("asked")
		return catalog.Page{}, nil
	}))
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for query, name := range map[string]string{
		"status=done":              "status",
		"status=TimedOut":          "status",
		"limit=0":                  "limit",
		"limit=201":                "limit",
		"limit=-1":                 "limit",
		"limit=ten":                "limit",
		"since=yesterday":          "since",
		"since=-1h":                "since",
		"since=2026-11-24":         "since",
		"region=-":                 "region",
		"cursor=x":                 "cursor",
		"cursor=" + encode("n1"):   "cursor",
		"cursor=" + encode("x n1"): "cursor",
		"cursor=" + encode("2026-11-24T15:10:00Z n 1"):        "cursor",
		"cursor=" + encode("2026-11-24T15:10:00.0Z n1"):       "cursor", // not as we write it
		"cursor=" + encode("2026-11-24T15:10:00+01:00 n1"):    "cursor",
		"cursor=" + encode("2026-11-24T15:10:00Z ../etc"):     "cursor",
		"cursor=" + encode("0001-01-01T00:00:00Z n1"):         "cursor",
		"cursor=" + encode("2026-11-24T15:10:00Z n1") + "%3D": "cursor",
		"tag=a&tag=b":     "tag",
		"stauts=timedOut": "stauts",
		"wait=60s":        "wait",
	} {
		t.Run(query, func(t *testing.T) {
			w := call(h, http.MethodGet, "/notifications?"+query, "")
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusBadRequest || !strings.Contains(p.Detail, name) {
				t.Errorf("%d %s, %v", w.Code, w.Body, err)
			}
		})
	}
}

// Whatever comes as a cursor is refused, or is one that a page returns.
func FuzzCursor(f *testing.F) {
	at := time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)
	f.Add(encodeCursor(catalog.Position{StartedAt: at, Notification: "n1"}))
	f.Add(encodeCursor(catalog.Position{StartedAt: at}))
	f.Add("")
	f.Add("MjAyNi0xMS0yNFQxNToxMDowMFogbiAx")
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := decodeCursor(s)
		if !ok {
			return
		}
		if encodeCursor(p) != s || p.StartedAt.IsZero() || p.Notification != "" && !notification.ValidID(p.Notification) {
			t.Errorf("%q is taken for %+v", s, p)
		}
	})
}
