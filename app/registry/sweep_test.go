package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry/fake"

	"allregions/app/replication"
)

// firedAt is a firing of the webhook "w" in eastus that was answered with the status.
func firedAt(id, status string, at time.Time) firing {
	return firing{webhook: "w", status: status, event: replication.Event{ID: id, Action: "push", Repository: "shop/cart", Tag: "v1", Digest: "sha256:aa", Region: "eastus", ReceivedAt: at}}
}

func TestFates(t *testing.T) {
	known := firedAt("known", "503", t0.Add(-time.Minute))
	marked := sweepRecord{Since: t0.Add(-2 * time.Hour), Logs: map[string]mark{"w": {At: t0, Settled: map[string]int64{}}, "other": {Settled: map[string]int64{}}}}
	marked.Logs["w"].settle(known)
	for name, tt := range map[string]struct {
		record  sweepRecord
		firing  firing
		catchUp time.Duration
		want    fate
	}{
		"nobody knows it":                   {marked, firedAt("n1", "503", t0.Add(-time.Minute)), time.Hour, lookUp},
		"answered, which may be by another": {marked, firedAt("n1", "202", t0), time.Hour, lookUp},
		"not answered":                      {marked, firedAt("n1", "", t0.Add(-inFlight)), time.Hour, lookUp},
		"not answered yet":                  {marked, firedAt("n1", "", t0.Add(1-inFlight)), time.Hour, tooNew},
		"fired in our future":               {marked, firedAt("n1", "", t0.Add(time.Minute)), time.Hour, tooNew},
		"older than the mark: logged late":  {marked, firedAt("n1", "503", t0.Add(-59*time.Minute)), time.Hour, lookUp},
		"settled":                           {marked, known, time.Hour, "known"},
		"settled, of another webhook":       {sweepRecord{Since: marked.Since, Logs: map[string]mark{"other": marked.Logs["w"]}}, known, time.Hour, lookUp},
		"older than CATCH_UP":               {marked, firedAt("n1", "503", t0.Add(-time.Hour-1)), time.Hour, tooOld},
		"as old as CATCH_UP":                {marked, firedAt("n1", "503", t0.Add(-time.Hour)), time.Hour, lookUp},
		"older than the first sweep":        {marked, firedAt("n1", "503", t0.Add(-2*time.Hour-1)), 24 * time.Hour, tooOld},
		"the first sweep":                   {sweepRecord{}, firedAt("n1", "503", t0.Add(-time.Second)), time.Hour, tooOld},
	} {
		t.Run(name, func(t *testing.T) {
			from := tt.record.from(tt.catchUp, t0)
			todo, counts := sweep(tt.record, []logReading{{webhook: "w", firings: []firing{tt.firing}}}, from, t0)
			if counts[tt.want] != 1 || len(counts) != 1 || len(todo) == 1 != (tt.want == lookUp) {
				t.Errorf("got %v, %d to do, want %s", counts, len(todo), tt.want)
			}
		})
	}
}

// The newest push of a tag comes first, and what began a push begins its notification.
func TestOrderOfASweep(t *testing.T) {
	at := func(id, tag string, region replication.Region, second int) firing {
		f := firedAt(id, "503", t0.Add(time.Duration(second)*time.Second))
		f.event.Tag, f.event.Region = tag, region
		return f
	}
	todo, _ := sweep(sweepRecord{}, []logReading{
		{webhook: "w", firings: []firing{at("old", "v1", "eastus", 5), at("new", "v1", "eastus", 20), at("else", "v2", "eastus", 10)}},
		{webhook: "v", firings: []firing{at("new", "v1", "westus", 22), at("old", "v1", "westus", 1)}},
	}, t0, t0.Add(time.Minute))
	var got []string
	for _, image := range todo {
		s := ""
		for _, firings := range image {
			for _, f := range firings {
				s += fmt.Sprintf(" %s %s", f.event.ID, f.event.Region)
			}
		}
		got = append(got, s)
	}
	slices.Sort(got)
	if want := []string{" else eastus", " new eastus new westus old westus old eastus"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMarks(t *testing.T) {
	r := sweepRecord{Found: 7}.carry([]logReading{{webhook: "a", whole: true, began: t0}, {webhook: "b", began: t0}}, t0, t0.Add(999*time.Millisecond))
	if r.Since != t0 || r.Logs["a"].At != t0 || !r.Logs["b"].At.IsZero() || r.Found != 7 {
		t.Errorf("%+v", r)
	}
	r.Logs["a"].settle(firedAt("old", "", t0))
	r.Logs["a"].settle(firedAt("new", "", t0.Add(time.Hour)))
	r.Logs["b"].settle(firedAt("b", "", t0.Add(time.Hour)))
	next := r.carry([]logReading{{webhook: "a", began: t0.Add(time.Hour)}}, t0.Add(time.Minute), t0.Add(time.Hour))
	if next.Since != t0 || next.Logs["a"].At != t0 || len(next.Logs) != 1 || len(next.Logs["a"].Settled) != 1 {
		t.Errorf("%+v", next)
	}
	if len(r.Logs["a"].Settled) != 2 {
		t.Error("the record before was changed")
	}
}

// A firing is remembered for as long as it may be read, and no longer.
func TestWhatIsRemembered(t *testing.T) {
	r := sweepRecord{Logs: map[string]mark{"a": {Settled: map[string]int64{}}, "b": {Settled: map[string]int64{}}}}
	last := t0.Add(time.Hour)
	r.Logs["a"].settle(firedAt("not read any more", "", last.Add(-overlap-time.Second)))
	r.Logs["a"].settle(firedAt("read again", "", last.Add(-overlap)))
	next := r.carry([]logReading{{webhook: "a", whole: true, began: last}}, t0, last)
	if m := next.Logs["a"]; len(m.Settled) != 1 || m.Settled[firedAt("read again", "", t0).key()] == 0 {
		t.Errorf("got %+v", m)
	}
	// Where the last reading was not whole, the next one goes back further.
	if m := r.carry([]logReading{{webhook: "a", began: last}}, t0, last).Logs["a"]; len(m.Settled) != 2 {
		t.Errorf("got %+v", m)
	}
	for i := range maxSettled {
		r.Logs["a"].settle(firedAt(strconv.Itoa(i), "", last.Add(time.Minute)))
	}
	r.Logs["b"].settle(firedAt("b", "", t0))
	r.forget()
	if m := r.Logs["a"].Settled; len(m) != maxSettled/2 || m[firedAt("read again", "", t0).key()] != 0 || len(r.Logs["b"].Settled) != 1 {
		t.Errorf("%d are remembered, want half of %d", len(m), maxSettled)
	}
}

func TestDoIDsAgree(t *testing.T) {
	at := func(id string, region replication.Region, second int) firing {
		f := firedAt(id, "202", t0.Add(time.Duration(second)*time.Second))
		f.event.Region = region
		return f
	}
	other := func(f firing, change func(*replication.Event)) firing { change(&f.event); return f }
	for name, tt := range map[string]struct {
		firings []firing
		want    string
		agree   bool
	}{
		"one id":                       {[]firing{at("a", "eastus", 0), at("a", "westus", 30)}, "", true},
		"two ids":                      {[]firing{at("a", "eastus", 0), at("b", "westus", 30)}, "a eastus b westus", false},
		"two ids, the later one first": {[]firing{at("b", "westus", 30), at("a", "eastus", 0)}, "a eastus b westus", false},
		"the newest pair":              {[]firing{at("a", "eastus", 0), at("b", "westus", 30), at("c", "eastus", 40), at("d", "westus", 50)}, "c eastus d westus", false},
		"one is shared":                {[]firing{at("a", "eastus", 0), at("b", "westus", 30), at("b", "eastus", 31)}, "", true},
		"a third region has its own":   {[]firing{at("a", "eastus", 0), at("a", "westus", 1), at("b", "uksouth", 2)}, "a westus b uksouth", true},
		"in one region":                {[]firing{at("a", "eastus", 0), at("b", "eastus", 1)}, "", false},
		"not within the timeout":       {[]firing{at("a", "eastus", 0), at("b", "westus", 121)}, "", false},
		"too new: a may come yet":      {[]firing{at("a", "eastus", 100), at("b", "westus", 200)}, "", false},
		"too old":                      {[]firing{at("a", "eastus", -1), at("b", "westus", 0)}, "", false},
		"another digest":               {[]firing{at("a", "eastus", 0), other(at("b", "westus", 0), func(e *replication.Event) { e.Digest = "x" })}, "", false},
		"another tag":                  {[]firing{at("a", "eastus", 0), other(at("b", "westus", 0), func(e *replication.Event) { e.Tag = "x" })}, "", false},
		"another repository":           {[]firing{at("a", "eastus", 0), other(at("b", "westus", 0), func(e *replication.Event) { e.Repository = "x" })}, "", false},
		"another action":               {[]firing{at("a", "eastus", 0), other(at("b", "westus", 0), func(e *replication.Event) { e.Action = "x" })}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			pair, agree := compare([]logReading{{firings: tt.firings}}, 2*time.Minute, t0, t0.Add(150*time.Second))
			got := ""
			if pair != nil {
				got = fmt.Sprintf("%s %s %s %s", pair.Events[0].ID, pair.Events[0].Region, pair.Events[1].ID, pair.Events[1].Region)
			}
			if got != tt.want || agree != tt.agree {
				t.Errorf("got %q, %v, want %q, %v", got, agree, tt.want, tt.agree)
			}
		})
	}
}

// logs is ARM with the logs of webhooks, in pages, newest first.
type logs struct {
	policy.Transporter // for other calls

	page   func(webhook string, page int) (events []*armcontainerregistry.Event, more bool)
	status map[string]int // by webhook: what is answered instead
	calls  []string
}

func (l *logs) Do(r *http.Request) (*http.Response, error) {
	path, ok := strings.CutSuffix(r.URL.Path, "/listEvents")
	if !ok {
		return l.Transporter.Do(r)
	}
	webhook := path[strings.LastIndex(path, "/")+1:]
	n, _ := strconv.Atoi(r.URL.Query().Get("page"))
	l.calls = append(l.calls, webhook+" "+strconv.Itoa(n))
	resp := &http.Response{StatusCode: cmp.Or(l.status[webhook], http.StatusOK), Header: http.Header{"Content-Type": {"application/json"}}, Request: r}
	if resp.StatusCode == http.StatusTooManyRequests {
		resp.Header.Set("Retry-After", "17")
	}
	var list armcontainerregistry.EventListResult
	more := false
	if list.Value, more = l.page(webhook, n); more {
		list.NextLink = to.Ptr("https://management.azure.com" + r.URL.Path + "?page=" + strconv.Itoa(n+1))
	}
	body, err := json.Marshal(list)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// entry is an event in ACR's log, fired at a time, or at pushed if it was not answered.
func entry(id, status string, at time.Time) *armcontainerregistry.Event {
	e := fired(id, status)
	if status == "" {
		e.EventRequestMessage.Content.Timestamp = &at
	} else {
		e.EventResponseMessage.Headers["date"] = to.Ptr(at.UTC().Format(time.RFC1123))
		e.EventResponseMessage.Headers["date"] = to.Ptr(strings.Replace(*e.EventResponseMessage.Headers["date"], "UTC", "GMT", 1))
	}
	return e
}

// notifications is who takes what a Sweeper finds.
type notifications struct {
	mu       sync.Mutex
	regions  map[string][]replication.Region
	lookups  []string
	given    []replication.Event
	expected []replication.Region
	err      error // of everything
	refused  error
}

func (n *notifications) Regions(_ context.Context, id string) ([]replication.Region, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups = append(n.lookups, id)
	return slices.Clone(n.regions[id]), n.err
}

func (n *notifications) Give(_ context.Context, e replication.Event, awaited replication.Awaited) (refused, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.given, n.expected = append(n.given, e), awaited.Expected; n.err == nil && n.refused == nil {
		n.regions[e.ID] = append(n.regions[e.ID], e.Region)
	}
	return n.refused, n.err
}

// did is what was looked up and given since the last time.
func (n *notifications) did() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := slices.Sorted(slices.Values(n.lookups))
	for _, e := range n.given {
		s = append(s, "give "+e.ID+" "+string(e.Region))
	}
	n.lookups, n.given = nil, nil
	return strings.Join(s, ", ")
}

// swept is a registry with webhooks in eastus and westus, east and west.
type swept struct {
	*logs
	*notifications
	*Sweeper
	record record
	log    bytes.Buffer
	told   int // that ids disagree
}

func newSwept(t *testing.T) *swept {
	f := newRegistryWebhooks()
	for name, region := range map[string]string{"east": "eastus", "west": "West US"} {
		f.put(name, region, "", armcontainerregistry.CallbackConfig{})
	}
	w := &swept{logs: &logs{Transporter: fake.NewServerFactoryTransport(f.server()), status: map[string]int{}},
		notifications: &notifications{regions: map[string][]replication.Region{}}}
	w.shows(nil, nil)
	w.Sweeper = &Sweeper{Log: NewEventLog(reader(t, w.logs, nil), "", time.Now, slog.New(slog.NewTextHandler(&w.log, nil))), Intake: w.notifications,
		CatchUp: time.Hour, Timeout: 2 * time.Minute, Disagreed: func() { w.told++ }}
	w.record = settled()
	w.record.LoginServer, w.record.Sweep = "contoso.azurecr.io", sweepRecord{}
	w.record.Replicas.List[1].Counts = true
	return w
}

// shows makes the logs show these, on one page each.
func (w *swept) shows(east, west []*armcontainerregistry.Event) {
	w.page = func(webhook string, _ int) ([]*armcontainerregistry.Event, bool) {
		return map[string][]*armcontainerregistry.Event{"east": east, "west": west}[webhook], false
	}
}

// sweep sweeps a minute after the last time, and complains if it did anything else.
func (w *swept) sweep(t *testing.T, want string) error {
	t.Helper()
	time.Sleep(time.Minute)
	w.calls = nil
	after, err := w.Sweep(t.Context(), w.record, time.Now())
	if after != nil {
		w.record.Sweep = *after
	}
	if got := w.did(); got != want {
		t.Errorf("did %q, want %q", got, want)
	}
	return err
}

func (w *swept) read(t *testing.T, want ...string) {
	t.Helper()
	if slices.Sort(w.calls); !slices.Equal(w.calls, want) {
		t.Errorf("read %q, want %q", w.calls, want)
	}
}

func (w *swept) in(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %q", what, err, want)
	}
}

// What was lost is found once; what is there is looked at once; and a sweep that finds
// nothing new costs a reading of each log and nothing else.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
		w.shows([]*armcontainerregistry.Event{entry("before", "503", ago(time.Second))}, nil)
		if err := w.sweep(t, ""); err != nil { // the first one
			t.Fatal(err)
		}
		first := time.Now()
		lost, there, queued, foreign := entry("lost", "", time.Now().Add(time.Second)), entry("there", "202", first.Add(time.Second)), entry("slow", "", first.Add(time.Minute-time.Second)), entry("foreign", "200", first)
		foreign.EventRequestMessage.RequestURI = to.Ptr("https://ci.example.com/?region=eastus")
		lost.EventRequestMessage.RequestURI = to.Ptr("https://allregions.example.com/base/webhooks/acr?region=eastus")
		w.regions["there"] = []replication.Region{"eastus", "westus"}
		w.shows([]*armcontainerregistry.Event{queued, foreign, there, lost, entry("before", "503", first.Add(-2*time.Minute))}, []*armcontainerregistry.Event{there})
		if err := w.sweep(t, "lost, there, give lost eastus"); err != nil {
			t.Error(err)
		}
		if w.record.Sweep.Found != 1 || !strings.Contains(w.log.String(), `msg="a webhook that ACR fired did not come" notification=lost region=eastus status="" reason=""`) {
			t.Errorf("found %d, and the log is\n%s", w.record.Sweep.Found, &w.log)
		}
		w.read(t, "east 0", "west 0")
		if err := w.sweep(t, "slow, give slow eastus"); err != nil {
			t.Error(err)
		}
		for range 10 { // nothing new, and then too old to be looked at
			data, err := w.record.encode()
			if err == nil {
				w.record, err = decodeRecord(data) // as the actor stores it
			}
			if err := errors.Join(err, w.sweep(t, "")); err != nil {
				t.Error(err)
			}
			w.read(t, "east 0", "west 0")
		}
	})
}

// An event from the log is what ACR sent, fired when it says, of this registry.
func TestSweptEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		at := time.Now().Add(10 * time.Second)
		one := entry("n1", "503", at)
		one.EventRequestMessage.Content.Request.Host = to.Ptr("contoso.westus.geo.azurecr.io")
		w.shows(nil, []*armcontainerregistry.Event{one})
		time.Sleep(time.Minute)
		if _, err := w.Sweep(t.Context(), w.record, time.Now()); err != nil {
			t.Fatal(err)
		}
		e := w.given[0]
		var original struct{ Request struct{ Host string } }
		if err := json.Unmarshal([]byte(e.Original), &original); err != nil || original.Request.Host != "contoso.westus.geo.azurecr.io" {
			t.Errorf("%q, %v", e.Original, err)
		}
		e.Original = ""
		want := replication.Event{ID: "n1", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart", Tag: "v1", Digest: "sha256:aa", MediaType: "m", Size: 524,
			Region: "westus", Time: pushed, ReceivedAt: at.Truncate(time.Second).UTC(), Via: replication.ViaEventLog}
		if e != want || !slices.Equal(w.expected, []replication.Region{"westeurope", "eastus"}) {
			t.Errorf("got %+v for %v, want %+v", e, w.expected, want)
		}
	})
}

// What cannot be given in comes again each minute, and what is refused does not.
func TestSweepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		w.shows([]*armcontainerregistry.Event{entry("n1", "503", time.Now().Add(time.Second))}, nil)
		w.err = errAway
		w.in(t, "the store is away", w.sweep(t, "n1"), "look up n1: ")
		w.err, w.refused = nil, errors.New("not expected")
		if err := w.sweep(t, "n1, give n1 eastus"); err != nil || w.record.Sweep.Found != 0 || !strings.Contains(w.log.String(), `an event in ACR's log is refused`) {
			t.Errorf("%v, and the log is\n%s", err, &w.log)
		}
		if err := w.sweep(t, ""); err != nil {
			t.Error(err)
		}

		// ARM is not asked again before it wants to be, nor about the next webhook.
		for name := range map[string]bool{"east": true, "west": true} {
			w.status[name] = http.StatusTooManyRequests
		}
		begin, marks := time.Now().Add(time.Minute), maps.Clone(w.record.Sweep.Logs)
		err := w.sweep(t, "")
		if w.in(t, "throttled", err, "event log of "); retryAfter(err) != 17*time.Second || len(w.calls) != 1 || time.Since(begin) != 0 {
			t.Errorf("%v, read %q in %v", err, w.calls, time.Since(begin))
		}
		for name, m := range w.record.Sweep.Logs {
			if m.At != marks[name].At || len(m.Settled) != len(marks[name].Settled) {
				t.Errorf("%s: got %+v, want %+v", name, m, marks[name])
			}
		}

		// One log that cannot be read does not stop the other, nor is it thought to be read.
		w.status = map[string]int{"east": http.StatusForbidden}
		w.shows(nil, []*armcontainerregistry.Event{entry("n2", "503", time.Now().Add(time.Second))})
		w.refused = nil
		w.in(t, "one is broken", w.sweep(t, "n2, give n2 westus"), "event log of eastus: read the events of east: ")
		if got, want := w.record.Sweep.Logs["east"].At, marks["east"].At; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// A log is read as far back as it must be, and no further.
func TestHowFarALogIsRead(t *testing.T) {
	const minute = time.Minute
	for name, tt := range map[string]struct {
		pages [][]time.Duration // how long before the sweep its firings were; negative: not answered
		mark  time.Duration     // how long before it the last whole reading was; 0: never
		want  int               // pages
	}{
		"nothing new":                       {[][]time.Duration{{30 * minute, 31 * minute}, {32 * minute}}, minute, 1},
		"an empty page says nothing":        {[][]time.Duration{{}, {30 * minute}, {31 * minute}}, minute, 2},
		"all new":                           {[][]time.Duration{{1, 2 * minute}, {3 * minute}, {4 * minute}}, minute, 3},
		"the overlap":                       {[][]time.Duration{{1}, {6*minute - 1}, {6*minute + time.Second}, {30 * minute}}, minute, 3},
		"in another order in a page":        {[][]time.Duration{{30 * minute, 1}, {31 * minute}}, minute, 1},
		"one without an answer may be new":  {[][]time.Duration{{-30 * minute, 1}, {31 * minute}, {32 * minute}}, minute, 2},
		"a page without answers":            {[][]time.Duration{{-30 * minute, -31 * minute}, {32 * minute}}, minute, 1},
		"the first time, back to CATCH_UP":  {[][]time.Duration{{1}, {59 * minute}, {61 * minute}, {62 * minute}}, 0, 3},
		"after a long time, to CATCH_UP":    {[][]time.Duration{{1}, {59 * minute}, {61 * minute}, {62 * minute}}, 3 * time.Hour, 3},
		"after some time, to the last time": {[][]time.Duration{{1}, {34 * minute}, {36 * minute}, {59 * minute}}, 30 * minute, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newSwept(t)
				time.Sleep(24 * time.Hour)
				now := time.Now()
				w.record.Sweep.Since = now.Add(-24 * time.Hour)
				if tt.mark > 0 {
					w.record.Sweep.Logs = map[string]mark{"east": {At: now.Add(-tt.mark)}}
				}
				w.page = func(webhook string, page int) (events []*armcontainerregistry.Event, more bool) {
					if webhook == "west" {
						return nil, false
					}
					for i, age := range tt.pages[page] {
						status := "503"
						if age < 0 {
							status = ""
						}
						events = append(events, entry(fmt.Sprint(page, "-", i), status, now.Add(-age.Abs())))
					}
					return events, page+1 < len(tt.pages)
				}
				after, err := w.Sweep(t.Context(), w.record, now)
				if err != nil || len(w.calls) != tt.want+1 || after.Logs["east"].At != now {
					t.Errorf("read %q, %v, want %d pages", w.calls, err, tt.want)
				}
			})
		})
	}
}

// What is fired while the pages are read shifts them, and nothing is lost.
func TestALogChangesWhileItIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		var log []*armcontainerregistry.Event // newest first
		push := func() {
			log = slices.Insert(log, 0, entry(fmt.Sprintf("n%02d", len(log)), "503", time.Now()))
		}
		for range 10 {
			push()
		}
		w.page = func(webhook string, page int) ([]*armcontainerregistry.Event, bool) {
			if webhook == "west" {
				return nil, false
			}
			defer push() // between two pages
			from := min(page*4, len(log))
			return slices.Clone(log[from:min(from+4, len(log))]), from+4 < len(log)
		}
		for range 3 {
			if after, err := w.Sweep(t.Context(), w.record, time.Now().Add(inFlight)); err != nil {
				t.Error(err)
			} else {
				w.record.Sweep = *after
			}
			time.Sleep(time.Minute)
		}
		for i := range 10 + 4 {
			if id := fmt.Sprintf("n%02d", i); !slices.Contains(w.regions[id], "eastus") {
				t.Errorf("%s is lost", id)
			}
		}
		if len(w.given) != len(w.regions) {
			t.Errorf("%d events were given for %d notifications", len(w.given), len(w.regions))
		}
		if slices.Sort(w.lookups); len(slices.Compact(slices.Clone(w.lookups))) != len(w.lookups) {
			t.Errorf("looked up twice: %q", w.lookups)
		}
	})
}

// A log that does not end ends the reading, which says so, and comes to an end.
func TestAnEndlessLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		w.page = func(webhook string, page int) ([]*armcontainerregistry.Event, bool) { return nil, webhook == "east" }
		err := w.sweep(t, "")
		if w.in(t, "endless", err, "east has more than 200 pages of events since "); w.record.Sweep.Logs["east"].At != time.Now() || len(w.calls) != maxSweepPages+1 {
			t.Errorf("%d pages, the mark is %v", len(w.calls), w.record.Sweep.Logs["east"].At)
		}
	})
}

// Ids that disagree are told once, and no more when they agree again.
func TestDisagreementIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		at := time.Now()
		east, west := entry("a", "202", at), entry("b", "202", at)
		w.regions["a"], w.regions["b"] = []replication.Region{"eastus"}, []replication.Region{"westus"}
		w.shows([]*armcontainerregistry.Event{east}, []*armcontainerregistry.Event{west})
		w.sweep(t, "a, b")
		if w.told != 0 || w.record.Sweep.Disagree != nil {
			t.Errorf("told %d times, after a minute", w.told)
		}
		for range 3 {
			w.sweep(t, "")
		}
		if d := w.record.Sweep.Disagree; w.told != 1 || d == nil || !d.At.Equal(at) || strings.Count(w.log.String(), "level=ERROR") != 1 ||
			!strings.Contains(w.log.String(), "events=\"[{ID:") {
			t.Fatalf("told %d times, %+v, and the log is\n%s", w.told, d, &w.log)
		}
		both := entry("c", "202", at)
		both.EventRequestMessage.Content.Target.Tag = to.Ptr("v2")
		w.regions["c"] = []replication.Region{"eastus", "westus"}
		w.shows([]*armcontainerregistry.Event{both}, []*armcontainerregistry.Event{both})
		if w.sweep(t, "c"); w.record.Sweep.Disagree != nil || w.told != 1 {
			t.Errorf("told %d times, %+v", w.told, w.record.Sweep.Disagree)
		}
	})
}

// What could not be given in is read again, however long that takes and whatever comes
// meanwhile.
func TestWhatCannotBeGivenInIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSwept(t)
		w.sweep(t, "")
		time.Sleep(30 * time.Minute)
		w.sweep(t, "")
		fired := time.Now()
		w.page = func(webhook string, page int) ([]*armcontainerregistry.Event, bool) {
			newer := time.Now().Add(-overlap - 90*time.Second) // than which a reading after a good one does not go back
			if webhook != "east" || page == 0 && newer.After(fired) {
				return []*armcontainerregistry.Event{entry("newer", "202", newer)}, webhook == "east"
			}
			return []*armcontainerregistry.Event{entry("lost", "503", fired)}, false
		}
		w.regions["newer"] = []replication.Region{"eastus", "westus"}
		for minute := range 20 {
			if w.err = errAway; minute > 15 {
				w.err = nil
			}
			time.Sleep(time.Minute)
			after, err := w.Sweep(t.Context(), w.record, time.Now())
			if after == nil || (err != nil) != (w.err != nil) {
				t.Fatalf("minute %d: %+v, %v", minute, after, err)
			}
			w.record.Sweep = *after
		}
		if found, at := w.record.Sweep.Found, w.record.Sweep.Logs["east"].At; found != 1 || time.Since(at) > time.Minute {
			t.Errorf("found %d, and the mark is of %v ago", found, time.Since(at))
		}
	})
}
