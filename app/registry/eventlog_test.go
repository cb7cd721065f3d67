package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry/fake"

	"allregions/app/replication"
)

var pushed = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)

// fired is an event as ACR logs it; status "" is one without an answer.
func fired(id, status string) *armcontainerregistry.Event {
	e := &armcontainerregistry.Event{ID: to.Ptr(id), EventRequestMessage: &armcontainerregistry.EventRequestMessage{
		Content: &armcontainerregistry.EventContent{ID: to.Ptr(id), Action: to.Ptr("push"), Timestamp: to.Ptr(pushed),
			Request: &armcontainerregistry.Request{Host: to.Ptr("Contoso.WestEurope.geo.azurecr.io")},
			Target: &armcontainerregistry.Target{Repository: to.Ptr("shop/cart"), Tag: to.Ptr("v1"), Digest: to.Ptr("sha256:aa"),
				MediaType: to.Ptr("m"), Size: to.Ptr(int64(524))}}}}
	if status != "" {
		e.EventResponseMessage = &armcontainerregistry.EventResponseMessage{StatusCode: to.Ptr(status), ReasonPhrase: to.Ptr("because"),
			Headers: map[string]*string{"date": to.Ptr("Tue, 17 Nov 2026 16:52:07 GMT")}}
	}
	return e
}

// events makes the webhooks of f answer with these pages, by their names, and
// counts the readings.
func (f *registryWebhooks) events(s *fake.ServerFactory, pages map[string][][]*armcontainerregistry.Event, errs map[string]int) {
	s.WebhooksServer.NewListEventsPager = func(_, _, name string, _ *armcontainerregistry.WebhooksClientListEventsOptions) (resp azfake.PagerResponder[armcontainerregistry.WebhooksClientListEventsResponse]) {
		f.mu.Lock()
		f.calls = append(f.calls, "events "+name)
		f.mu.Unlock()
		for _, page := range pages[name] {
			resp.AddPage(http.StatusOK, armcontainerregistry.WebhooksClientListEventsResponse{EventListResult: armcontainerregistry.EventListResult{Value: page}}, nil)
		}
		if status := errs[name]; status != 0 {
			resp.AddResponseError(status, "Broken")
		}
		return
	}
}

func eventLog(t *testing.T, f *registryWebhooks, pages map[string][][]*armcontainerregistry.Event, errs map[string]int) (*EventLog, *bytes.Buffer) {
	var log bytes.Buffer
	server := f.server()
	f.events(server, pages, errs)
	return NewEventLog(reader(t, fake.NewServerFactoryTransport(server), nil), "prod", time.Now, slog.New(slog.NewJSONHandler(&log, nil))), &log
}

func TestEventLog(t *testing.T) {
	f := newRegistryWebhooks()
	f.put("east", "eastus", "prod", armcontainerregistry.CallbackConfig{})
	f.put("eastother", "eastus", "", armcontainerregistry.CallbackConfig{})
	f.put("west", "West US", "", armcontainerregistry.CallbackConfig{}) // made by hand
	f.put("broken", "uksouth", "prod", armcontainerregistry.CallbackConfig{})
	ping := fired("n1", "204")
	ping.EventRequestMessage.Content.Action = to.Ptr("ping")
	l, log := eventLog(t, f, map[string][][]*armcontainerregistry.Event{
		"east":      {{nil, {}, {EventRequestMessage: &armcontainerregistry.EventRequestMessage{}}, ping}, {fired("n0", "202"), fired("n1", "503")}},
		"eastother": {{fired("n2", "202")}},
		"west":      {{fired("n1", "")}},
		"broken":    {{fired("n3", "401")}},
	}, map[string]int{"broken": 403})

	got, err := l.Fired(t.Context(), "n1", pushed, []replication.Region{"eastus", "westus", "japaneast"})
	want := replication.Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart", Tag: "v1", Digest: "sha256:aa",
		MediaType: "m", Size: 524, Region: "eastus", Time: pushed, ReceivedAt: pushed.Truncate(time.Second).Add(6 * time.Second), Via: replication.ViaEventLog}
	west := want
	west.Region, west.ReceivedAt = "westus", pushed // not answered: there is no better time
	if err != nil || len(got) != 2 || got[0] != want || got[1] != west {
		t.Errorf("%+v, %v", got, err)
	}
	if !strings.Contains(log.String(), `"notification":"n1","region":"eastus","status":"503","reason":"because"`) {
		t.Errorf("the log does not say what ACR saw:\n%s", log)
	}
	// Ours is asked, not somebody else's in the same region.
	if got, err := l.Fired(t.Context(), "n2", pushed, []replication.Region{"eastus"}); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	// What was read before an error counts; what was not read is an error.
	if got, err := l.Fired(t.Context(), "n3", pushed, []replication.Region{"uksouth", "eastus"}); len(got) != 1 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := l.Fired(t.Context(), "n4", pushed, []replication.Region{"uksouth"}); len(got) != 0 || err == nil || !strings.Contains(err.Error(), "event log of uksouth: read the events of broken: ") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEventLogIsThrottled(t *testing.T) {
	f := newRegistryWebhooks()
	f.put("east", "eastus", "prod", armcontainerregistry.CallbackConfig{})
	server := f.server()
	f.events(server, map[string][][]*armcontainerregistry.Event{"east": {{fired("n1", "202")}}}, nil)
	for _, tt := range []struct {
		answers []int
		found   int
	}{{[]int{429, 503}, 1}, {[]int{403}, 0}} {
		l := NewEventLog(reader(t, &transport{answers: tt.answers, next: fake.NewServerFactoryTransport(server)}, nil), "prod", time.Now, slog.New(slog.DiscardHandler))
		if got, err := l.Fired(t.Context(), "n1", pushed, []replication.Region{"eastus"}); len(got) != tt.found || (err == nil) != (tt.found == 1) {
			t.Errorf("%v: %+v, %v", tt.answers, got, err)
		}
	}
	l := NewEventLog(reader(t, &transport{}, brokenCredential{}), "prod", time.Now, slog.New(slog.DiscardHandler))
	if _, err := l.Fired(t.Context(), "n1", pushed, []replication.Region{"eastus"}); err == nil || !strings.Contains(err.Error(), "no identity on this machine") {
		t.Errorf("%v", err)
	}
}

// A region whose webhooks all failed makes thousands of notifications ask at the
// same time: they share a reading, which is never older than 2 s.
func TestEventLogIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRegistryWebhooks()
		f.put("east", "eastus", "prod", armcontainerregistry.CallbackConfig{})
		var page []*armcontainerregistry.Event
		for i := range 100 {
			page = append(page, fired(fmt.Sprint("n", i), "202"))
		}
		l, _ := eventLog(t, f, map[string][][]*armcontainerregistry.Event{"east": {page}}, nil)
		all := func() {
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					if got, err := l.Fired(t.Context(), fmt.Sprint("n", i), pushed, []replication.Region{"eastus"}); err != nil || len(got) != 1 {
						t.Errorf("%+v, %v", got, err)
					}
				})
			}
			wg.Wait()
		}
		for reading := range 3 {
			all()
			if len(f.calls) != reading+1 || f.lists != 1 {
				t.Errorf("%q, %d lists", f.calls, f.lists)
			}
			time.Sleep(logFreshness)
		}
		time.Sleep(webhooksFreshness)
		all()
		if f.lists != 2 {
			t.Errorf("%d lists", f.lists)
		}
	})
}

// A log is read no further back than a notification may have been fired, and one reading
// serves all who ask for no more than that.
func TestEventLogIsReadBackToTheBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(id, status string, at time.Time) *armcontainerregistry.Event {
			e := fired(id, status)
			e.EventRequestMessage.Content.Timestamp = &at
			if status != "" {
				e.EventResponseMessage.Headers["date"] = to.Ptr(at.Format(time.RFC1123))
			}
			return e
		}
		second := func(n int) time.Time { return pushed.Truncate(time.Second).Add(time.Duration(n) * time.Second) }
		pages := [][]*armcontainerregistry.Event{
			{at("n5", "", second(99)), at("n4", "503", second(90))},
			{at("n3", "", second(10)), at("n2", "503", second(50))}, // one that was not answered does not say when that was
			{at("n1", "503", second(20)), at("n0", "503", second(30))},
			{at("n9", "503", second(0))},
		}
		type ask struct {
			id    string
			began int
			found bool
		}
		for name, tt := range map[string]struct {
			asks     []ask
			readings int
		}{
			"no further":               {[]ask{{"n4", 95, true}, {"n2", 95, false}, {"n1", 95, false}}, 1},
			"an unanswered firing":     {[]ask{{"n1", 40, true}, {"n9", 40, false}}, 1},
			"to the end":               {[]ask{{"n9", 0, true}, {"n5", 95, true}, {"n1", 95, true}}, 1},
			"one began before another": {[]ask{{"n4", 95, true}, {"n1", 30, true}}, 1}, // the server goes on where it was
		} {
			f := newRegistryWebhooks()
			f.put("east", "eastus", "prod", armcontainerregistry.CallbackConfig{})
			l, _ := eventLog(t, f, map[string][][]*armcontainerregistry.Event{"east": pages}, nil)
			for _, a := range tt.asks {
				got, err := l.Fired(t.Context(), a.id, second(a.began).Add(firedEarlier), []replication.Region{"eastus"})
				if err != nil || (len(got) == 1) != a.found || len(f.calls) != tt.readings {
					t.Errorf("%s: %s: got %d events, %v, after %d readings; want %v after %d", name, a.id, len(got), err, len(f.calls), a.found, tt.readings)
				}
			}
		}
	})
}

// What a reading of a log costs, and whether it failed, says how long it counts.
func TestFreshLog(t *testing.T) {
	broken, hurried := errors.New("403"), fmt.Errorf("read: %w", context.DeadlineExceeded)
	for _, tt := range []struct {
		name string
		took time.Duration
		err  error
		want time.Duration
	}{
		{"quick", time.Second / 10, nil, 2 * time.Second},
		{"slow", time.Second, nil, 10 * time.Second},
		{"refused", 0, broken, 2 * time.Second},
		{"refused slowly", time.Second, broken, 10 * time.Second},
		{"of a caller in a hurry", time.Second, hurried, 0},
		{"not done in time", 8 * time.Second, hurried, 80 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			last := reading{t0, tt.took, tt.err}
			if tt.want > 0 && !freshLog(tt.want-1, last) || freshLog(tt.want, last) {
				t.Errorf("fresh before %v: %v, at %v: %v", tt.want, freshLog(tt.want-1, last), tt.want, freshLog(tt.want, last))
			}
		})
	}
}

// Who cannot wait does not, and the error of one is not that of the next.
func TestSharedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared[int](time.Now)
		hangs := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		first, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go s.get(first, newerThan(time.Hour), hangs)
		synctest.Wait()
		brief, cancelBrief := context.WithTimeout(t.Context(), time.Second)
		defer cancelBrief()
		begin := time.Now()
		if _, err := s.get(brief, newerThan(time.Hour), hangs); err == nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		got, err := s.get(t.Context(), newerThan(time.Hour), func(context.Context) (int, error) { return 7, nil })
		if got != 7 || err != nil || time.Since(begin) != time.Minute {
			t.Errorf("%d, %v after %v", got, err, time.Since(begin))
		}
	})
}
