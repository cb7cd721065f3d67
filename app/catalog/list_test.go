package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

// list is a list whose senders end with the test.
func (r *recents) list(t *testing.T) *List {
	l := NewList(r, r, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		l.Flush(context.Background())
	})
	return l
}

// invoked is how many calls each window had since it was asked last.
func (r *recents) invoked() map[string]int {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	n := map[string]int{}
	for _, call := range r.calls {
		if id, ok := strings.CutPrefix(call, "invoke "); ok {
			n[id]++
		}
	}
	r.calls = nil
	return n
}

// A window gets one call a second, whatever comes, and none without news.
func TestCallsOfASecondGoTogether(t *testing.T) {
	bubble(t, "together", func(t *testing.T) {
		r := newRecents()
		l := r.list(t)
		var settled []func(context.Context) error
		for n := range 100 {
			settled = append(settled, l.Send(listing(n, 1, replication.Collecting)), l.Send(listing(n, 3, replication.Replicated)), l.Send(listing(n, 2, replication.Collecting)))
			time.Sleep(5 * time.Millisecond)
		}
		next := listing(10*60*1000, 1, replication.Collecting)
		l.Send(next)
		for _, wait := range settled {
			if err := wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := r.invoked(), map[string]int{theWindow: 1}; !maps.Equal(got, want) {
			t.Errorf("calls: got %v, want %v", got, want)
		}
		all := r.listed(t, theWindow)
		for n, got := range all {
			if want := fmt.Sprintf("n%d 3", n); got != want {
				t.Errorf("listed %s, want %s", got, want)
			}
		}
		if len(all) != 100 {
			t.Errorf("%d are listed", len(all))
		}
		time.Sleep(time.Minute)
		if got, want := r.invoked(), map[string]int{windowID(next.StartedAt): 1}; !maps.Equal(got, want) {
			t.Errorf("calls: got %v, want %v", got, want)
		}
		l.running.Wait()
		if len(l.pending) != 0 {
			t.Errorf("%v are pending", l.pending)
		}
	})
	for name, tt := range map[string]struct {
		takes       time.Duration // a call
		least, most int           // calls in a minute
	}{
		"one a second":                     {10 * time.Millisecond, 57, 60},
		"fewer, if they take long":         {100 * time.Millisecond, 27, 30},
		"one in ten seconds, if they do":   {500 * time.Millisecond, 6, 6},
		"not fewer, however long they may": {2 * time.Second, 5, 6},
	} {
		bubble(t, name, func(t *testing.T) {
			r := newRecents()
			r.takes = func(call, _ string) time.Duration { return map[string]time.Duration{"invoke": tt.takes}[call] }
			l := r.list(t)
			for n := range 600 {
				l.Send(listing(n, 1, replication.Replicated))
				time.Sleep(100 * time.Millisecond)
			}
			if got := r.invoked()[theWindow]; got < tt.least || got > tt.most {
				t.Errorf("got %d calls in a minute, want %d to %d", got, tt.least, tt.most)
			}
		})
	}
}

// Whatever becomes of a call: an entry is settled only when it, or a later one, is saved;
// it is sent until it is.
func TestSendUntilItIsSaved(t *testing.T) {
	for _, w := range []what{lost, reported, late, hangs} {
		for _, call := range []string{"invoke", "load", "save", "register"} {
			bubble(t, fmt.Sprint(call, " ", w), func(t *testing.T) {
				r := newRecents()
				failed := 0
				r.becomes = func(name, _ string, _ int) what {
					if name == call && failed < 2 {
						failed++
						return w
					}
					return done
				}
				l := r.list(t)
				for saves := range 3 {
					wait := l.Send(listing(1, saves+1, replication.Collecting))
					err := wait(t.Context())
					if got := r.window(t, theWindow).Entries; err == nil && (len(got) == 0 || got[0].Saves <= saves) {
						t.Fatalf("after %d saves it is settled, and not saved", saves+1)
					}
				}
				time.Sleep(30 * time.Second)
				if got, want := r.listed(t, theWindow), []string{"n1 3"}; !slices.Equal(got, want) {
					t.Errorf("listed %q, want %q", got, want)
				}
			})
		}
	}
}

// What is saved, or on its way, is not sent again, however often reminders ask for it.
func TestWhatIsSavedIsNotSentAgain(t *testing.T) {
	bubble(t, "again", func(t *testing.T) {
		r := newRecents()
		fail := false
		r.takes = func(call, _ string) time.Duration { return map[string]time.Duration{"invoke": 3 * time.Second}[call] }
		r.becomes = func(string, string, int) what {
			if fail {
				return lost
			}
			return done
		}
		l := r.list(t)
		send := func(saves int) error { return l.Send(listing(1, saves, replication.Collecting))(t.Context()) }
		l.Send(listing(1, 2, replication.Collecting))
		time.Sleep(sendPause + time.Second) // the call has begun
		if err := errors.Join(send(2), send(1), send(2)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if got := r.invoked()[theWindow]; got != 1 {
			t.Errorf("got %d calls, want 1", got)
		}
		fail = true
		if err := errors.Join(send(3), send(3)); err == nil {
			t.Error("no error, and nothing is saved")
		}
		fail = false
		if err := send(3); err != nil || !slices.Equal(r.listed(t, theWindow), []string{"n1 3"}) {
			t.Errorf("%v, listed %q", err, r.listed(t, theWindow))
		}
	})
}

// What waits for a window has the bounds of a window, but for a single entry; more is
// refused, and left to the reminders.
func TestListIsBounded(t *testing.T) {
	for name, tt := range map[string]struct{ size, room int }{
		"many":  {0, maxListed},
		"large": {maxBytes/4 + 1, 4},
		"huge":  {maxBytes, 1},
	} {
		bubble(t, name, func(t *testing.T) {
			r := newRecents()
			r.becomes = always(lost)
			l := r.list(t)
			entry := func(n, saves int) Listed {
				e := listing(n, saves, replication.Collecting)
				e.Status = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", tt.size))
				return e
			}
			for n := range tt.room {
				l.Send(entry(n, 1))
			}
			if err := l.Send(entry(tt.room, 1))(t.Context()); err == nil || errors.Is(err, errAway) {
				t.Errorf("got %v", err)
			}
			wait := l.Send(entry(0, 2)) // in the place of another
			time.Sleep(10 * time.Second)
			if err := wait(t.Context()); !errors.Is(err, errAway) {
				t.Errorf("got %v", err)
			}
			r.set(nil)
			l.running.Wait()
			if got := r.listed(t, theWindow); len(got) > tt.room || tt.size == 0 && (len(got) != tt.room || got[0] != "n0 2") {
				t.Errorf("listed %d, the first is %s", len(got), got[0])
			}
		})
	}
}

func TestSettledEndsWithItsContext(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRecents()
		l := r.list(t)
		wait := l.Send(listing(1, 1, replication.Replicated))
		ctx, cancel := context.WithTimeout(t.Context(), sendPause/2)
		defer cancel()
		if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := wait(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestListFlush(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRecents()
		l := r.list(t)
		begin := time.Now()
		wait := l.Send(listing(1, 1, replication.Replicated))
		if err := l.Flush(t.Context()); err != nil || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := wait(t.Context()); err != nil || len(r.listed(t, theWindow)) != 1 {
			t.Errorf("%v", err)
		}
	})
	bubble(t, "fails", func(t *testing.T) {
		r := newRecents()
		r.becomes = always(lost)
		l := r.list(t)
		wait := l.Send(listing(1, 1, replication.Replicated))
		if err := l.Flush(t.Context()); err != nil { // the reminder sends it again
			t.Error(err)
		}
		if err := wait(t.Context()); err == nil {
			t.Error("settled")
		}
	})
	bubble(t, "hangs", func(t *testing.T) {
		r := newRecents()
		r.becomes = always(hangs)
		l := r.list(t)
		l.Send(listing(1, 1, replication.Replicated))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		l.running.Wait()
	})
}

// Both must be there before a reminder may go.
func TestCatalogSettlesBoth(t *testing.T) {
	for _, failing := range []string{"", "save image", "invoke"} {
		bubble(t, "failing: "+failing, func(t *testing.T) {
			r := newRecents()
			r.becomes = func(call, key string, _ int) what {
				if failing != "" && strings.HasPrefix(call+" "+key, failing) {
					return lost
				}
				return done
			}
			c := Catalog{Index: index(r.store), List: r.list(t)}
			err := c.Send(nth(1), listing(1, 1, replication.Replicated))(t.Context())
			if (err != nil) != (failing != "") {
				t.Errorf("got %v", err)
			}
			r.set(nil)
			if err := c.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// put puts notifications into their windows.
func (r *recents) put(t *testing.T, entries ...Listed) {
	t.Helper()
	for _, e := range entries {
		body, _ := json.Marshal(map[string]any{"entries": []Listed{e}})
		if _, err := r.actor().add(t.Context(), windowID(e.StartedAt), body); err != nil {
			t.Fatal(err)
		}
	}
}

// of are the ids in a page.
func of(t *testing.T, p Page) (ids []string) {
	t.Helper()
	for _, data := range p.Notifications {
		var s status
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	return ids
}

// began is an entry that began so long before t0.
func began(id string, before time.Duration, change ...string) Listed {
	l := listing(0, 1, replication.TimedOut)
	l.ID, l.StartedAt = id, t0.Add(-before)
	text := strings.NewReplacer(append([]string{`"id":"n0"`, fmt.Sprintf(`"id":%q`, id),
		`"startedAt":"` + t0.Format(time.RFC3339Nano), `"startedAt":"` + l.StartedAt.Format(time.RFC3339Nano)}, change...)...).Replace(string(l.Status))
	l.Status = json.RawMessage(text)
	return l
}

// Whoever pages from the newest to the oldest sees each once, in order, whatever the
// size of the page, also while others come.
func TestPages(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 79, 80, 200} {
		r := newRecents()
		l := r.list(t)
		var want []string
		for i := range 40 {
			before := time.Duration(i*i) * time.Minute                                               // up to 25 hours
			r.put(t, began(fmt.Sprintf("a%02d", i), before), began(fmt.Sprintf("b%02d", i), before)) // at the same time
			want = append(want, fmt.Sprintf("b%02d", i), fmt.Sprintf("a%02d", i))
		}
		var got []string
		q := Query{Since: t0.Add(-30 * time.Hour), Limit: limit}
		for pages := 0; ; pages++ {
			p, err := l.Page(t.Context(), q, t0)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Notifications) > limit || p.Notifications == nil {
				t.Fatalf("limit %d: %d", limit, len(p.Notifications))
			}
			got = append(got, of(t, p)...)
			if p.Next == nil {
				if whole := (len(want)+limit-1)/limit + 1; pages > whole {
					t.Errorf("limit %d: %d pages", limit, pages)
				}
				break
			}
			q.After = *p.Next
			r.put(t, began(fmt.Sprintf("new-%d-%d", limit, pages), -time.Second)) // meanwhile
		}
		got = slices.DeleteFunc(got, func(id string) bool { return strings.HasPrefix(id, "new") })
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %q\nwant %q", limit, got, want)
		}
	}
}

// One page reads a day at most, and goes on where it ended. It reads no window twice.
func TestPageReadsADay(t *testing.T) {
	r := newRecents()
	// The first moment before the windows of the first page.
	edge := windowStart(t0.Add(skew)).Add(-(maxWindows - 1) * windowLength).Add(-1)
	r.put(t, began("edge", t0.Sub(edge)), began("old", 60*time.Hour))
	l := r.list(t)
	q := Query{Since: t0.Add(-90 * time.Hour), Limit: 10}
	read := map[string]bool{}
	var found [][]string
	for {
		r.calls = nil
		p, err := l.Page(t.Context(), q, t0)
		if err != nil || len(r.calls) > maxWindows {
			t.Fatalf("%d calls, %v", len(r.calls), err)
		}
		for _, call := range r.calls {
			if read[call] || !strings.HasPrefix(call, "load ") {
				t.Fatalf("%s again", call)
			}
			read[call] = true
		}
		found = append(found, of(t, p))
		if p.Next == nil {
			break
		}
		q.After = *p.Next
	}
	if len(found) != 4 || !slices.Equal(found[1], []string{"edge"}) || !slices.Equal(found[2], []string{"old"}) {
		t.Errorf("got %q", found)
	}
	// Nor does it read what began before.
	r.calls = nil
	if p, err := l.Page(t.Context(), Query{Limit: 1, Since: t0.Add(-time.Minute)}, t0); err != nil || p.Next != nil || len(r.calls) != 1 {
		t.Errorf("got %+v, %v after %q", p, err, r.calls)
	}
	// Another replica's clock may be ahead, of the next window.
	r.put(t, began("ahead", -8*time.Minute))
	if p, err := l.Page(t.Context(), Query{Limit: 1}, t0.Add(8*time.Minute-skew)); err != nil || len(p.Notifications) != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	// What the first page wants is in the first windows.
	r.put(t, began("new", 0), began("newer", 0))
	r.calls = nil
	if p, err := l.Page(t.Context(), Query{Limit: 1}, t0); err != nil || len(p.Notifications) != 1 || p.Next == nil || len(r.calls) != 1 {
		t.Errorf("got %+v, %v after %q", p, err, r.calls)
	}
}

func TestQuery(t *testing.T) {
	r := newRecents()
	r.put(t, began("plain", time.Minute),
		began("open", 2*time.Minute, `"timedOut"`, `"collecting"`),
		began("registry", 3*time.Minute, "contoso.", "fabrikam."),
		began("repository", 4*time.Minute, "shop/cart", "shop/pay"),
		began("tag", 5*time.Minute, `"v0"`, `"v1"`),
		began("missing", 6*time.Minute, `["eastus"]`, `["japaneast","uksouth"]`),
		began("ahead", -skew/2))
	l := r.list(t)
	for _, tt := range []struct {
		name string
		q    Query
		want []string
	}{
		{"all", Query{}, []string{"ahead", "plain", "open", "registry", "repository", "tag", "missing"}},
		{"status", Query{Status: replication.Collecting}, []string{"open"}},
		{"registry", Query{Registry: "fabrikam.azurecr.io"}, []string{"registry"}},
		{"repository", Query{Repository: "shop/pay"}, []string{"repository"}},
		{"part of a repository", Query{Repository: "shop"}, nil},
		{"tag", Query{Tag: "v1"}, []string{"tag"}},
		{"part of a name", Query{Search: "pay:v"}, []string{"repository"}},
		{"part of no name", Query{Search: "pay:v1"}, nil},
		{"region", Query{Missing: "uksouth"}, []string{"missing"}},
		{"region that is there", Query{Missing: "westeurope"}, nil},
		{"two", Query{Status: replication.TimedOut, Tag: "v1"}, []string{"tag"}},
		{"since", Query{Since: t0.Add(-3 * time.Minute)}, []string{"ahead", "plain", "open", "registry"}},
		{"since, of another window", Query{Since: t0}, []string{"ahead"}},
		{"after", Query{After: Position{t0.Add(-4 * time.Minute), "repository"}}, []string{"tag", "missing"}},
		{"after what never was", Query{After: Position{t0.Add(-4 * time.Minute), "z"}}, []string{"repository", "tag", "missing"}},
		{"after a time", Query{After: Position{StartedAt: t0.Add(-4 * time.Minute)}}, []string{"tag", "missing"}},
		{"after the future", Query{After: Position{StartedAt: t0.Add(time.Hour)}, Limit: 1}, []string{"ahead"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.Limit == 0 {
				tt.q.Limit = 100
			}
			if tt.q.Since.IsZero() {
				tt.q.Since = t0.Add(-time.Hour)
			}
			p, err := l.Page(t.Context(), tt.q, t0)
			if got := of(t, p); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestPageFails(t *testing.T) {
	r := newRecents()
	r.put(t, began("one", 0))
	l := r.list(t)
	r.becomes = always(lost)
	if _, err := l.Page(t.Context(), Query{Limit: 1}, t0); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Activity(t.Context(), t0); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
	r.becomes = nil
	for _, broken := range []string{"[]", `{"entries":[{"id":"x","status":[]}]}`} {
		r.records[theWindow] = record{[]byte(broken), 1}
		if _, err := l.Page(t.Context(), Query{Limit: 1}, t0); err == nil || !strings.Contains(err.Error(), theWindow) {
			t.Errorf("%s: got %v", broken, err)
		}
	}
}

func TestActivity(t *testing.T) {
	r := newRecents()
	at := func(d time.Duration) string { return t0.Add(d).Format(time.RFC3339Nano) }
	entry := func(n int, status replication.Status, missing string, regions map[string]time.Duration) Listed {
		l := listing(0, 1, status)
		l.ID = fmt.Sprint("n", n)
		var all []string
		for region, after := range regions {
			all = append(all, fmt.Sprintf(`{"region":%q,"receivedAt":%q}`, region, at(after)))
		}
		registry := "" // ACR does not always say
		if n == 20 {
			registry = "b.azurecr.io"
		}
		l.Status = fmt.Appendf(nil, `{"id":%q,"registry":%q,"status":%q,"startedAt":%q,"deadline":%q,"regions":[%s],"missing":[%s]}`,
			l.ID, registry, status, at(0), at(2*time.Minute), strings.Join(all, ","), missing)
		return l
	}
	for n := 1; n <= 19; n++ {
		r.put(t, entry(n, replication.Replicated, "", map[string]time.Duration{"westeurope": 0, "eastus": time.Duration(n) * time.Second}))
	}
	r.put(t, entry(20, replication.TimedOut, `"japaneast"`, map[string]time.Duration{"westeurope": 0, "eastus": 3 * time.Minute}),
		entry(21, replication.Recovered, "", map[string]time.Duration{"westeurope": time.Second, "japaneast": time.Hour}),
		entry(22, replication.Collecting, `"uksouth"`, map[string]time.Duration{"westeurope": 0}))
	old := began("old", 24*time.Hour+time.Second, "eastus", "brazilsouth")
	r.put(t, old)
	want := map[Place]Activity{
		{"", "westeurope"}:             {LastEvent: t0.Add(time.Second), Count: 22, P95: 0},
		{"", "eastus"}:                 {LastEvent: t0.Add(3 * time.Minute), Count: 20, Median: 10 * time.Second, P95: 19 * time.Second, Missed: 1},
		{"", "japaneast"}:              {LastEvent: t0.Add(time.Hour), Count: 1, Median: time.Hour, P95: time.Hour, Missed: 2},
		{"b.azurecr.io", "westeurope"}: {LastEvent: t0, Count: 1},
		{"b.azurecr.io", "eastus"}:     {LastEvent: t0.Add(3 * time.Minute), Count: 1, Median: 3 * time.Minute, P95: 3 * time.Minute, Missed: 1},
		{"b.azurecr.io", "japaneast"}:  {Missed: 1},
	}
	l := r.list(t)
	check := func(now time.Time, calls int) {
		t.Helper()
		r.calls = nil
		got, err := l.Activity(t.Context(), now)
		if err != nil || !reflect.DeepEqual(got, want) || len(r.calls) != calls {
			t.Errorf("got  %+v, %v after %d calls\nwant %+v after %d", got, err, len(r.calls), want, calls)
		}
	}
	now := t0.Add(time.Minute)
	check(now, maxWindows+1)
	r.put(t, entry(23, replication.Replicated, "", map[string]time.Duration{"westeurope": time.Minute}))
	check(now.Add(activityAge-1), 0)
	everywhere := Place{"", "westeurope"}
	west := want[everywhere]
	west.LastEvent, west.Count, west.P95 = t0.Add(time.Minute), 23, time.Second
	want[everywhere] = west
	check(now.Add(activityAge), maxWindows+1)
}
