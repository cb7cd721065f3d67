package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/registry"
	"allregions/app/replication"
	"allregions/app/target"
)

// backend is a Notifications and Statuses that answers what it is told to.
type backend struct {
	added  []replication.Event
	result intake.Result
	err    error
	status func(ctx context.Context, id string) (notification.Status, error)
	find   func(ctx context.Context, image catalog.Image) (notification.Status, error)
}

func (b *backend) Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		return intake.Result{}, errors.New("a call without a time limit")
	}
	b.added = append(b.added, e)
	return b.result, b.err
}

func (b *backend) Status(ctx context.Context, id string) (notification.Status, error) {
	if b.status == nil {
		return notification.Status{}, notification.ErrNotFound
	}
	return b.status(ctx, id)
}

func (b *backend) Find(ctx context.Context, image catalog.Image) (notification.Status, error) {
	if b.find == nil {
		return notification.Status{}, notification.ErrNotFound
	}
	return b.find(ctx, image)
}

type regions []replication.Region

func (r regions) Registry(_, host string) (string, error) { return host, nil }
func (r regions) Expected(context.Context, string) (replication.Awaited, error) {
	return replication.Awaited{Expected: r}, nil
}
func (r regions) Recheck(context.Context, string, replication.Region) bool { return false }
func (r regions) Registries() []registry.Status {
	return registry.Fixed{Awaited: replication.Awaited{Expected: r}}.Registries()
}

const key1, key2, readKey = "first-key", "second-key", "read-key"

// deliveries is what became of the notification "a" at the target "ops".
type deliveries struct{ again int }

func (d *deliveries) List(_ context.Context, id string) ([]delivery.Status, error) {
	if id != "a" {
		return nil, notification.ErrNotFound
	}
	return []delivery.Status{{Event: "a/replicated", Target: "ops", Phase: delivery.Delivered, Attempts: []delivery.Attempt{}}}, nil
}

func (d *deliveries) Again(_ context.Context, id, name string) (delivery.Status, error) {
	switch {
	case id == "broken":
		return delivery.Status{}, errors.New("no actor")
	case id != "a":
		return delivery.Status{}, notification.ErrNotFound
	case name != "ops":
		return delivery.Status{}, delivery.ErrNone
	}
	d.again++
	return delivery.Status{Event: "a/replicated", Target: "ops", Phase: delivery.Pending}, nil
}

func (d *deliveries) Health() []target.Health {
	return []target.Health{{Name: "ops", Type: "webhook"}}
}

func newHandler(b *backend, log io.Writer) *Handler {
	return New(Config{Intake: b, Statuses: b, Deliveries: &deliveries{}, Regions: regions{"westeurope", "eastus"},
		Version: "v1.2.3",
		Keys:    NewKeys([]string{key1, key2}), ReadKeys: NewKeys([]string{"other", readKey}),
		Ready: func(context.Context) error { return nil },
		Log:   slog.New(slog.NewTextHandler(log, nil))})
}

func call(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+key1)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func started() intake.Result {
	return intake.Result{Result: notification.Result{Reason: replication.Started, Status: notification.Status{ID: "a", Status: replication.Collecting,
		Regions: []notification.RegionStatus{}, Missing: []replication.Region{"eastus"}}}}
}

const push = `{"id":"a","action":"push"}`

func TestWebhookAnswers(t *testing.T) {
	duplicate := started()
	duplicate.Reason = replication.Duplicate
	for _, tt := range []struct {
		name, method, target, body string
		result                     intake.Result
		err                        error
		want                       int
		detail                     string // of the problem
		added                      int
	}{
		{"news", "POST", "/webhooks/acr?region=West-Europe", push, started(), nil, 202, "", 1},
		{"repeat", "POST", "/webhooks/acr?region=westeurope", push, duplicate, nil, 200, "", 1},
		{"ping", "POST", "/webhooks/acr?region=westeurope", `{"action":"PING"}`, started(), nil, 204, "", 0},
		{"ping without region", "POST", "/webhooks/acr", `{"action":"ping"}`, started(), nil, 204, "", 0},
		{"first sample's URL", "POST", "/api/ImagePush?region=eastus", push, started(), nil, 202, "", 1},
		{"second sample's URL", "POST", "/images/push?region=eastus", push, started(), nil, 202, "", 1},
		{"no region", "POST", "/webhooks/acr", push, started(), nil, 400, "[westeurope eastus]", 0},
		{"unexpected region", "POST", "/webhooks/acr?region=mars", push, intake.Result{},
			&notification.RefusedError{Region: "mars", Expected: []replication.Region{"westeurope", "eastus"}}, 400, "expected: westeurope, eastus", 1},
		{"bad id", "POST", "/webhooks/acr?region=eastus", `{"id":"../x","action":"push"}`, started(), nil, 400, `field "id"`, 0},
		{"long id", "POST", "/webhooks/acr?region=eastus", `{"id":"` + strings.Repeat("a", 101) + `","action":"push"}`, started(), nil, 400, `field "id"`, 0},
		{"bad host", "POST", "/webhooks/acr?region=eastus", `{"id":"a","action":"push","request":{"host":"contoso azurecr io"}}`, started(), nil, 400, `field "request.host"`, 0},
		{"not JSON", "POST", "/webhooks/acr?region=eastus", `hello`, started(), nil, 400, "not JSON", 0},
		{"too large", "POST", "/webhooks/acr?region=eastus", `{"id":"a","action":"` + strings.Repeat("x", maxBody) + `"}`, started(), nil, 413, "64 KiB", 0},
		{"store away", "POST", "/webhooks/acr?region=eastus", push, intake.Result{}, errors.New("secret host refused"), 503, "could not be reached", 1},
		{"wrong method", "GET", "/webhooks/acr", "", started(), nil, 405, "does not answer", 0},
		{"wrong method on a sample's URL", "GET", "/api/ImagePush", "", started(), nil, 405, "does not answer", 0},
		{"wrong path", "POST", "/webhooks", push, started(), nil, 404, "nothing at this path", 0},
		{"unknown notification", "GET", "/notifications/a", "", started(), nil, 404, "no such notification", 0},
		{"impossible notification", "GET", "/notifications/a%7C%7Cb", "", started(), nil, 404, "no such notification", 0},
		{"impossible notification that must be", "GET", "/notifications/a%7C%7Cb?require=replicated&wait=1s", "", started(), nil, 404, "no such notification", 0},
		{"bad wait", "GET", "/notifications/a?wait=231s", "", started(), nil, 400, "from 0s to 230s", 0},
		{"unknown requirement", "GET", "/notifications/a?require=perfect", "", started(), nil, 400, "require can be replicated", 0},
		{"unknown image", "GET", "/images/shop/cart?tag=v1", "", started(), nil, 404, "no such notification", 0},
		{"image without a name", "GET", "/images/shop/cart", "", started(), nil, 400, "?digest=sha256:... or ?tag=...", 0},
		{"image, bad wait", "GET", "/images/shop/cart?tag=v1&wait=-1s", "", started(), nil, 400, "from 0s to 230s", 0},
		{"wrong method on an image", "POST", "/images/shop/cart?tag=v1", "", started(), nil, 405, "does not answer", 0},
		{"wrong method on a sample's URL", "GET", "/images/push?tag=v1", "", started(), nil, 405, "does not answer", 0},
		{"huge wait in seconds", "GET", "/notifications/a?wait=231", "", started(), nil, 400, "from 0s to 230s", 0},
		{"worse wait", "GET", "/notifications/a?wait=soon", "", started(), nil, 400, "from 0s to 230s", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &backend{result: tt.result, err: tt.err}
			w := call(newHandler(b, io.Discard), tt.method, tt.target, tt.body)
			if w.Code != tt.want || len(b.added) != tt.added {
				t.Fatalf("%d, %d events; want %d, %d: %s", w.Code, len(b.added), tt.want, tt.added, w.Body)
			}
			if w.Code < 400 {
				if w.Code < 204 && w.Header().Get("Location") != "/notifications/a" {
					t.Errorf("Location %q", w.Header().Get("Location"))
				}
				return
			}
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != tt.want || p.Title == "" || !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("problem %s, %v", w.Body, err)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type %q", ct)
			}
			if strings.Contains(w.Body.String(), "secret host") {
				t.Errorf("the answer shows what went wrong inside: %s", w.Body)
			}
			if (w.Code == 503) != (w.Header().Get("Retry-After") != "") || (w.Code == 405) != (w.Header().Get("Allow") != "") {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}

func TestWebhookBodyIsTheStatus(t *testing.T) {
	b := &backend{result: started()}
	w := call(newHandler(b, io.Discard), "POST", "/webhooks/acr?region=eastus", push)
	var st notification.Status
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || st.ID != "a" || st.Status != replication.Collecting {
		t.Errorf("%s, %v", w.Body, err)
	}
	if b.added[0].Region != "eastus" || b.added[0].ID != "a" {
		t.Errorf("%+v", b.added[0])
	}
}

func TestOneRegionNeedsNotBeNamed(t *testing.T) {
	b := &backend{result: started()}
	h := newHandler(b, io.Discard)
	h.config.Regions = regions{"eastus"}
	if w := call(h, "POST", "/images/push", push); w.Code != 202 || b.added[0].Region != "eastus" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAllow(t *testing.T) {
	h := newHandler(&backend{}, io.Discard)
	for target, want := range map[string]string{"/webhooks/acr": "POST", "/api/ImagePush": "POST", "/notifications/a": "GET, HEAD", "/healthz": "GET, HEAD"} {
		t.Run(target, func(t *testing.T) {
			if w := call(h, "PATCH", target, ""); w.Code != 405 || w.Header().Get("Allow") != want {
				t.Errorf("%s: %d, Allow %q, want %q", target, w.Code, w.Header().Get("Allow"), want)
			}
		})
	}
}

// The paths of the sidecar's listener do not exist on this one, key or no key.
func TestSidecarPathsAreNotPublic(t *testing.T) {
	h := newHandler(&backend{}, io.Discard)
	for _, target := range []string{"/dapr/config", "/dapr/subscribe", "/actors/Notification/a", "/actors/Notification/a/method/Add",
		"/actors/Notification/a/method/remind/check"} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
			if w := call(h, method, target, "{}"); w.Code != 404 {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		header       []string
		want         int
	}{
		{"bearer", "/notifications/a", []string{"Authorization", "Bearer " + key1}, 404},
		{"bearer, other case", "/notifications/a", []string{"Authorization", "bearer " + key1}, 404},
		{"the other key", "/notifications/a", []string{"Authorization", "Bearer " + key2}, 404},
		{"functions key", "/notifications/a", []string{"Authorization", "", "x-functions-key", key2}, 404},
		{"query", "/notifications/a?code=" + key1, []string{"Authorization", ""}, 404},
		{"read key", "/notifications/a", []string{"Authorization", "Bearer " + readKey}, 404},
		{"read key, query", "/notifications/a?code=" + readKey, []string{"Authorization", ""}, 404},
		{"none", "/notifications/a", []string{"Authorization", ""}, 401},
		{"wrong", "/notifications/a", []string{"Authorization", "Bearer wrong"}, 401},
		{"prefix", "/notifications/a", []string{"Authorization", "Bearer first"}, 401},
		{"basic", "/notifications/a", []string{"Authorization", "Basic " + key1}, 401},
		{"wrong query", "/notifications/a?code=wrong", []string{"Authorization", ""}, 401},
		{"webhook without", "/webhooks/acr", []string{"Authorization", ""}, 405}, // GET
		{"health without", "/healthz", []string{"Authorization", ""}, 200},
		{"ready without", "/readyz", []string{"Authorization", ""}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			w := call(newHandler(&backend{}, &log), "GET", tt.target, "", tt.header...)
			if w.Code != tt.want {
				t.Errorf("%s: %d, want %d", tt.name, w.Code, tt.want)
			}
			if w.Code == 401 && (w.Header().Get("WWW-Authenticate") == "" || strings.Contains(w.Body.String(), "detail")) {
				t.Errorf("%s: %v %s", tt.name, w.Header(), w.Body)
			}
			for _, secret := range []string{key1, key2, readKey, "wrong"} {
				if strings.Contains(log.String(), secret) || strings.Contains(w.Body.String(), secret) {
					t.Errorf("%s: %q is shown:\n%s\n%s", tt.name, secret, &log, w.Body)
				}
			}
		})
	}
	b := &backend{result: started()}
	if w := call(newHandler(b, io.Discard), "POST", "/webhooks/acr?region=eastus", push, "Authorization", ""); w.Code != 401 || len(b.added) != 0 {
		t.Errorf("webhook without a key: %d, %d events", w.Code, len(b.added))
	}
	h := newHandler(&backend{result: started()}, io.Discard)
	h.config.Keys = NewKeys(nil)
	if w := call(h, "POST", "/webhooks/acr?region=eastus", push, "Authorization", ""); w.Code != 202 {
		t.Errorf("without keys: %d", w.Code)
	}
}

// A read key allows what reads, and nothing else: no body is read, and nothing happens.
func TestReadKeys(t *testing.T) {
	b, d := &backend{result: started()}, &deliveries{}
	h := newHandler(b, io.Discard)
	h.config.Deliveries = d
	for target, code := range map[string]int{"/notifications/a/deliveries": 200, "/targets": 200, "/notifications/a": 404, "/images/shop/cart?tag=v1": 404} {
		for _, method := range []string{"GET", "HEAD"} {
			if w := call(h, method, target, "", "Authorization", "Bearer "+readKey); w.Code != code {
				t.Errorf("%s %s: got %d, want %d", method, target, w.Code, code)
			}
		}
	}
	for _, target := range []string{"/webhooks/acr?region=eastus", "/api/ImagePush?region=eastus", "/images/push?region=eastus", "/notifications/a/deliveries/ops"} {
		for name, header := range map[string][]string{"bearer": {"Authorization", "Bearer " + readKey}, "x-functions-key": {"x-functions-key", readKey}} {
			r := httptest.NewRequest("POST", target, unreadable{t})
			r.Header.Set(header[0], header[1])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 403 || p.Status != 403 || p.Title != "Forbidden" || p.Detail != "this key may only read" ||
				w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("POST %s with a read key as %s: got %d %s, want 403", target, name, w.Code, w.Body)
			}
		}
		if w := call(h, "POST", target, push, "x-functions-key", readKey); w.Code != 202 {
			t.Errorf("POST %s with both keys: got %d, want 202", target, w.Code)
		}
	}
	if len(b.added) != 3 || d.again != 1 {
		t.Errorf("%d events and %d deliveries, want those of the other key: 3 and 1", len(b.added), d.again)
	}
	// Without read keys, nobody has one.
	h.config.ReadKeys = NewKeys(nil)
	for _, key := range []string{readKey, ""} {
		if w := call(h, "GET", "/targets", "", "Authorization", "Bearer "+key); w.Code != 401 {
			t.Errorf("without read keys: got %d for %q, want 401", w.Code, key)
		}
	}
}

// Everything but health needs a key, and a body that has none is not read.
func TestEverythingNeedsAKey(t *testing.T) {
	h := newHandler(&backend{result: started()}, io.Discard)
	for target, method := range map[string]string{
		"/webhooks/acr?region=eastus": "POST", "/api/ImagePush?region=eastus": "POST", "/images/push?region=eastus": "POST",
		"/version": "GET", "/notifications": "GET", "/notifications/a": "GET", "/notifications/a?wait=1s": "GET", "/images/shop/cart?tag=v1": "GET", "/images/push?tag=v1": "GET",
	} {
		t.Run(method+" "+target, func(t *testing.T) {
			r := httptest.NewRequest(method, target, unreadable{t})
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code != 401 && w.Code != 405 {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		})
	}
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body of a caller without a key was read")
	return 0, io.EOF
}

// Guessing keys as fast as one can fills no log.
func TestGuessingKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := newHandler(&backend{}, &log)
		for second := range 3 {
			for range 1000 {
				call(h, "POST", "/webhooks/acr", push, "Authorization", "Bearer wrong")
				call(h, "POST", "/nowhere", push, "Authorization", "")
			}
			if lines := strings.Count(log.String(), "\n"); lines != second+1 {
				t.Errorf("%d lines after %d seconds", lines, second+1)
			}
			time.Sleep(time.Second)
		}
		if !strings.Contains(log.String(), "unlogged=1999") {
			t.Errorf("the log does not say how many it leaves out:\n%s", &log)
		}
		// Who has a key has each of his faults logged.
		log.Reset()
		for range 5 {
			call(h, "POST", "/webhooks/acr?region=eastus", "")
		}
		if lines := strings.Count(log.String(), "\n"); lines != 5 {
			t.Errorf("%d lines", lines)
		}
	})
}

// A key costs the same to check whichever it is, in work: time is not tested.
func BenchmarkKeys(b *testing.B) {
	k := NewKeys([]string{key1, key2})
	for name, key := range map[string]string{"first": key1, "second": key2, "wrong": "wrong", "long": strings.Repeat("x", 10_000)} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Authorization", "Bearer "+key)
			b.ReportAllocs()
			for b.Loop() {
				k.admit(r)
			}
		})
	}
}

// A caller that hangs up after its body has arrived does not take the event
// with it.
func TestCallerGoesAway(t *testing.T) {
	b := &backend{result: started()}
	h := newHandler(b, io.Discard)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "POST", "/webhooks/acr?region=eastus&code="+key1, strings.NewReader(push))
	seen := make(chan error, 1)
	h.config.Intake = addFunc(func(ctx context.Context, e replication.Event, _ replication.Awaited) (intake.Result, error) {
		seen <- ctx.Err()
		return started(), nil
	})
	h.ServeHTTP(httptest.NewRecorder(), r)
	if err := <-seen; err != nil {
		t.Errorf("the event was added with a context that has ended: %v", err)
	}
	body := " " + push + "\n"
	h.config.Intake = b
	if call(h, "POST", "/webhooks/acr?region=eastus", body); len(b.added) != 1 || b.added[0].Original != body {
		t.Errorf("the original is %+v", b.added)
	}
}

func TestDeliveries(t *testing.T) {
	d := &deliveries{}
	h := newHandler(&backend{}, io.Discard)
	h.config.Deliveries = d
	for _, tt := range []struct {
		method, target string
		code           int
		body           string
	}{
		{"GET", "/notifications/a/deliveries", 200, `{"deliveries":[{"event":"a/replicated","target":"ops","status":"delivered","attemptsMade":0,"attempts":[]}]}`},
		{"GET", "/notifications/b/deliveries", 404, "no such notification"},
		{"GET", "/notifications/b%7Cc/deliveries", 404, "no such notification"},
		{"POST", "/notifications/a/deliveries", 405, ""},
		{"POST", "/notifications/a/deliveries/ops", 202, `"status":"pending"`},
		{"POST", "/notifications/a/deliveries/other", 404, "no such delivery"},
		{"POST", "/notifications/b/deliveries/ops", 404, "no such notification"},
		{"POST", "/notifications/b%7Cc/deliveries/ops", 404, "no such notification"},
		{"POST", "/notifications/broken/deliveries/ops", 503, ""},
		{"GET", "/notifications/a/deliveries/ops", 405, ""},
		{"GET", "/targets", 200, `{"targets":[{"name":"ops","type":"webhook","disabled":false,"failuresInARow":0}]}`},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			if w := call(h, tt.method, tt.target, ""); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("%s %s: %d %s", tt.method, tt.target, w.Code, w.Body)
			}
			if w := call(h, tt.method, tt.target, "", "Authorization", ""); w.Code != 401 && w.Code != 405 {
				t.Errorf("%s %s without a key: %d", tt.method, tt.target, w.Code)
			}
		})
	}
	if d.again != 1 {
		t.Errorf("sent again %d times", d.again)
	}
}

// An event on its way to its notification is accepted, and nothing is said of it.
func TestQueued(t *testing.T) {
	w := call(newHandler(&backend{result: intake.Result{Queued: true}}, io.Discard), "POST", "/webhooks/acr?region=eastus", push)
	if body := strings.TrimSpace(w.Body.String()); w.Code != 202 || body != `{"id":"a","queued":true}` || w.Header().Get("Location") != "/notifications/a" {
		t.Errorf("%d %s %v", w.Code, body, w.Header())
	}
}

type addFunc func(ctx context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error)

func (f addFunc) Add(ctx context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error) {
	return f(ctx, e, awaited)
}

// learning expects a new region once it has looked again.
type learning struct {
	regions
	known  regions
	looked []replication.Region
	news   replication.Region
}

func (l *learning) Expected(context.Context, string) (replication.Awaited, error) {
	if len(l.known) == 0 {
		return replication.Awaited{}, errors.New("nobody knows")
	}
	return replication.Awaited{Expected: l.known}, nil
}

func (l *learning) Recheck(_ context.Context, _ string, region replication.Region) bool {
	l.looked = append(l.looked, region)
	if region != l.news {
		return false
	}
	l.known = append(l.known, region)
	return true
}

// A new replica's first webhook is the first news of it, and comes once.
func TestNewReplica(t *testing.T) {
	join := addFunc(func(_ context.Context, e replication.Event, awaited replication.Awaited) (intake.Result, error) {
		if !slices.Contains(awaited.All(), e.Region) {
			return intake.Result{}, &notification.RefusedError{Region: e.Region, Expected: awaited.All()}
		}
		return started(), nil
	})
	l := &learning{known: regions{"westeurope", "eastus"}, news: "japaneast"}
	h := newHandler(&backend{}, io.Discard)
	h.config.Intake, h.config.Regions = join, l
	for _, tt := range []struct {
		region string
		want   int
		looked int
	}{{"eastus", 202, 0}, {"mars", 400, 1}, {"japaneast", 202, 2}, {"japaneast", 202, 2}} {
		if w := call(h, "POST", "/webhooks/acr?region="+tt.region, push); w.Code != tt.want || len(l.looked) != tt.looked {
			t.Errorf("%s: %d after %d looks: %s", tt.region, w.Code, len(l.looked), w.Body)
		}
	}
}

// starting knows the regions after a while.
type starting struct {
	regions
	until time.Time
}

func (r starting) Expected(ctx context.Context, registry string) (replication.Awaited, error) {
	if time.Now().Before(r.until) {
		return replication.Awaited{}, errors.New("not known yet")
	}
	return r.regions.Expected(ctx, registry)
}

// A replica that has just started has not read the regions yet: a webhook waits for them.
func TestRegionsAreNotKnownYet(t *testing.T) {
	for known, want := range map[time.Duration]int{time.Second: 202, regionsTimeout - regionsPause: 202, time.Hour: 503} {
		synctest.Test(t, func(t *testing.T) {
			h := newHandler(&backend{result: started()}, io.Discard)
			h.config.Regions = starting{regions{"eastus"}, time.Now().Add(known)}
			begin := time.Now()
			if w := call(h, "POST", "/webhooks/acr?region=eastus", push); w.Code != want || time.Since(begin) != min(known, regionsTimeout) {
				t.Errorf("known after %v: got %d after %v, want %d", known, w.Code, time.Since(begin), want)
			}
		})
	}
}

// several are two registries, of which one is called contoso.
type several struct{ regions }

func (several) Registry(named, host string) (string, error) {
	if named == "contoso" || named == "" && host == "contoso.azurecr.io" {
		return "contoso.azurecr.io", nil
	}
	return "", fmt.Errorf("%q %q is none of contoso, fabrikam", named, host)
}

func (several) Registries() []registry.Status {
	return []registry.Status{{Name: "contoso"}, {Name: "fabrikam"}}
}

// A webhook is of the registry that its URL or else its body names. One of a foreign
// registry changes nothing.
func TestRegistryOfAWebhook(t *testing.T) {
	const of = `{"id":"a","action":"push","request":{"host":"%s"}}`
	for _, tt := range []struct {
		query, host string
		want        int
	}{{"", "contoso.azurecr.io", 202}, {"&registry=contoso", "any.azurecr.io", 202}, {"", "evil.azurecr.io", 400}, {"&registry=evil", "contoso.azurecr.io", 400}} {
		b := &backend{result: started()}
		h := newHandler(b, io.Discard)
		h.config.Regions = several{regions{"eastus"}}
		w := call(h, "POST", "/webhooks/acr?region=eastus"+tt.query, fmt.Sprintf(of, tt.host))
		if w.Code != tt.want || (len(b.added) == 1) != (tt.want == 202) || tt.want == 400 && !strings.Contains(w.Body.String(), "none of contoso, fabrikam") {
			t.Errorf("%q, %s: got %d, %d events: %s", tt.query, tt.host, w.Code, len(b.added), w.Body)
		}
		if len(b.added) == 1 && b.added[0].Registry != "contoso.azurecr.io" {
			t.Errorf("%q, %s: of %s", tt.query, tt.host, b.added[0].Registry)
		}
	}
}

// An image that is in several registries is a conflict that names them; a question can
// name one, and with one registry it need not.
func TestImageInSeveralRegistries(t *testing.T) {
	for query, want := range map[string]string{"": "", "&registry=Fabrikam": "Fabrikam", "&registry=fabrikam.azurecr.io": "fabrikam.azurecr.io"} {
		b := &backend{find: func(_ context.Context, image catalog.Image) (notification.Status, error) {
			if image.Registry != want {
				t.Errorf("%q: asked about %q, want %q", query, image.Registry, want)
			}
			return notification.Status{}, &catalog.AmbiguousError{Registries: []string{"contoso.azurecr.io", "fabrikam.azurecr.io"}}
		}}
		h := newHandler(b, io.Discard)
		h.config.Regions = several{}
		for _, wait := range []string{"", "&wait=1s", "&require=replicated"} {
			w := call(h, "GET", "/images/shop/cart?tag=v1"+query+wait, "")
			if body := w.Body.String(); w.Code != 409 || !strings.Contains(body, `"registries":["contoso.azurecr.io","fabrikam.azurecr.io"]`) || !strings.Contains(body, typeAmbiguous) {
				t.Errorf("%q: got %d %s", query+wait, w.Code, body)
			}
		}
	}
	b := &backend{find: func(_ context.Context, image catalog.Image) (notification.Status, error) {
		if image.Registry != "contoso" {
			t.Errorf("asked about %q, want the only one", image.Registry)
		}
		return notification.Status{}, notification.ErrNotFound
	}}
	h := newHandler(b, io.Discard)
	h.config.Regions = known{status: registry.Status{Name: "contoso"}}
	call(h, "GET", "/images/shop/cart?tag=v1", "")
}

func TestTruncatedBody(t *testing.T) {
	b := &backend{result: started()}
	server := httptest.NewServer(newHandler(b, io.Discard))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A whole event, but fewer bytes than announced.
	fmt.Fprintf(conn, "POST /webhooks/acr?region=eastus HTTP/1.1\r\nHost: x\r\nx-functions-key: %s\r\nContent-Length: %d\r\n\r\n%s", key1, len(push)+1, push)
	conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400") || !strings.Contains(string(answer), "could not be read to its end") || len(b.added) != 0 {
		t.Errorf("%v, %d events: %s", err, len(b.added), answer)
	}
}

func TestContentTypeDoesNotMatter(t *testing.T) {
	for _, contentType := range []string{"", "application/json", "application/json; charset=utf-8", "text/plain"} {
		b := &backend{result: started()}
		if w := call(newHandler(b, io.Discard), "POST", "/webhooks/acr?region=eastus", push, "Content-Type", contentType); w.Code != 202 {
			t.Errorf("%q: %d", contentType, w.Code)
		}
	}
}

func TestReadyz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := newHandler(&backend{}, &log)
		if w := call(h, "GET", "/readyz", ""); w.Code != 200 || log.Len() != 0 {
			t.Errorf("%d %s\n%s", w.Code, w.Body, &log)
		}
		h.config.Ready = func(context.Context) error { return errors.New("no sidecar of subscription 4711") }
		for second := range 3 {
			call(h, "GET", "/notifications/a", "", "Authorization", "") // who guesses keys hides nothing
			for range 100 {
				w := call(h, "GET", "/readyz", "", "Authorization", "")
				if w.Code != 503 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "webhooks cannot be taken now") {
					t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
				}
				if strings.Contains(w.Body.String(), "sidecar of") || strings.Contains(w.Body.String(), "4711") {
					t.Errorf("strangers are told why: %s", w.Body)
				}
			}
			if lines := strings.Count(log.String(), `level=WARN msg="not ready"`); lines != second+1 || !strings.Contains(log.String(), "no sidecar of subscription 4711") {
				t.Errorf("%d lines after %d seconds:\n%s", lines, second+1, &log)
			}
			time.Sleep(time.Second)
		}
		if !strings.Contains(log.String(), "unlogged=99") {
			t.Errorf("the log does not say how many it leaves out:\n%s", &log)
		}
		if w := call(h, "GET", "/healthz", ""); w.Code != 200 {
			t.Errorf("healthz depends on the sidecar: %d", w.Code)
		}
	})
}

func TestRequireReplicated(t *testing.T) {
	for _, tt := range []struct {
		status  replication.Status
		action  string
		want    int
		missing string // of the problem that it is undecided
	}{
		{replication.Collecting, "push", 503, `["eastus","japaneast"]`}, {replication.Collecting, "levitate", 503, `["eastus","japaneast"]`},
		{"", "no notification yet", 503, `[]`},
		{replication.Replicated, "push", 200, ""}, {replication.Recovered, "push", 200, ""},
		{replication.Replicated, "levitate", 200, ""}, {replication.Replicated, "chart_push", 200, ""},
		// What cannot become true.
		{replication.TimedOut, "push", 409, ""}, {replication.Replicated, "delete", 409, ""}, {replication.Replicated, "chart_delete", 409, ""},
		{replication.Replicated, "quarantine", 409, ""}, {replication.Collecting, "delete", 409, ""}, {replication.Collecting, "quarantine", 409, ""},
	} {
		for _, wait := range []string{"", "&wait=5s"} {
			t.Run(fmt.Sprintf("%s %s%s", tt.status, tt.action, wait), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testRequire(t, tt.status, tt.action, wait, tt.want, tt.missing) })
			})
		}
	}
}

// A question about some of the regions is decided when these are in. What another
// region does changes nothing.
func TestRequireSomeRegions(t *testing.T) {
	const west, east, japan = "westeurope", "eastus", "japaneast"
	for _, tt := range []struct {
		name, regions string
		status        replication.Status
		in            []replication.Region
		action        string
		require       bool
		want          int
		shows         string
		waits         bool
	}{
		{"they are in", west, replication.Collecting, []replication.Region{west}, "push", true, 200, `"status":"collecting"`, false},
		{"notation", "East+US,West-Europe", replication.Collecting, []replication.Region{west, east}, "push", true, 200, `"status":"collecting"`, false},
		{"one is not in", west + "," + east, replication.Collecting, []replication.Region{west}, "push", true, 503, `"missing":["eastus"]`, true},
		{"another one timed out", west, replication.TimedOut, []replication.Region{west, east}, "push", true, 200, `"status":"timedOut"`, false},
		{"it timed out", japan, replication.TimedOut, []replication.Region{west, east}, "push", true, 409, `"status":"timedOut"`, false},
		{"all are in", japan, replication.Recovered, []replication.Region{west, east, japan}, "push", true, 200, `"status":"recovered"`, false},
		{"a delete", west, replication.Collecting, []replication.Region{west}, "delete", true, 409, `"action":"delete"`, false},
		{"without a requirement", west, replication.Collecting, []replication.Region{west}, "push", false, 200, `"status":"collecting"`, false},
		{"without a requirement, not in", japan, replication.Collecting, []replication.Region{west}, "push", false, 200, `"status":"collecting"`, true},
		{"one that is not expected", "mars," + west, replication.Collecting, []replication.Region{west}, "push", true, 400, `region \"mars\" is not expected; expected: westeurope, eastus, japaneast`, false},
		{"one that is not expected, another one is not in", "mars," + east, replication.Collecting, []replication.Region{west}, "push", true, 400, `region \"mars\" is not expected`, false},
		{"one that is not expected, decided", west + ",mars", replication.Replicated, []replication.Region{west, east, japan}, "push", true, 400, `region \"mars\" is not expected`, false},
		{"none", ",", replication.Collecting, nil, "push", true, 400, "regions must be names of regions, comma separated: region 1 of 2 is empty", false},
		{"one twice", west + "," + west, replication.Collecting, nil, "push", true, 400, "region westeurope is there twice", false},
		{"before the first webhook", west, "", nil, "push", true, 503, `"missing":[]`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := notification.Status{ID: "a", Action: tt.action, Status: tt.status}
				for _, region := range tt.in {
					st.Regions = append(st.Regions, notification.RegionStatus{Region: region})
				}
				for _, region := range []replication.Region{west, east, japan} {
					if !slices.Contains(tt.in, region) {
						st.Missing = append(st.Missing, region)
					}
				}
				var err error
				if tt.status == "" {
					err = notification.ErrNotFound
				}
				h := newHandler(&backend{
					status: func(context.Context, string) (notification.Status, error) { return st, err },
					find:   func(context.Context, catalog.Image) (notification.Status, error) { return st, err },
				}, io.Discard)
				require := ""
				if tt.require {
					require = "&require=replicated"
				}
				for _, target := range []string{"/notifications/a?", "/images/shop/cart?tag=v1&"} {
					begin := time.Now()
					w := call(h, "GET", target+"wait=5s&regions="+tt.regions+require, "")
					if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.shows) || (time.Since(begin) > 0) != tt.waits {
						t.Errorf("%s: got %d after %s: %s; want %d with %s, after a wait: %t", target, w.Code, time.Since(begin), w.Body, tt.want, tt.shows, tt.waits)
					}
				}
			})
		})
	}
}

// An optional region that is asked about has the time of the others: no outcome waits for
// it, and the notification may be over before.
func TestRequireAnOptionalRegion(t *testing.T) {
	for _, tt := range []struct {
		name, regions string
		in            bool // the optional one
		left          time.Duration
		require       string
		want          int
		took          time.Duration
	}{
		{"it is in", "eastus", true, time.Minute, "&require=replicated", 200, 0},
		{"it has time", "eastus", false, time.Minute, "&require=replicated", 503, 5 * time.Second},
		{"its time ends", "eastus", false, 2 * time.Second, "&require=replicated", 409, 2 * time.Second},
		{"it had its time", "eastus", false, 0, "&require=replicated", 409, 0},
		{"nobody requires it", "eastus", false, 0, "", 200, 0},
		{"it is not asked about", "westeurope", false, time.Minute, "&require=replicated", 200, 0},
		{"of nobody", "mars", false, time.Minute, "&require=replicated", 400, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				optional := notification.RegionStatus{Region: "eastus"}
				if tt.in {
					optional.ReceivedAt = begin
				}
				st := notification.Status{ID: "a", Action: "push", Status: replication.Replicated, Deadline: begin.Add(tt.left),
					Regions: []notification.RegionStatus{{Region: "westeurope", ReceivedAt: begin}}, Optional: []notification.RegionStatus{optional}}
				h := newHandler(&backend{status: func(context.Context, string) (notification.Status, error) { return st, nil }}, io.Discard)
				w := call(h, "GET", "/notifications/a?wait=5s&regions="+tt.regions+tt.require, "")
				if took := time.Since(begin); w.Code != tt.want || took < tt.took || took > tt.took+time.Second {
					t.Errorf("got %d after %v, want %d after %v: %s", w.Code, took, tt.want, tt.took, w.Body)
				}
			})
		})
	}
}

func testRequire(t *testing.T, status replication.Status, action, wait string, want int, missing string) {
	st := notification.Status{ID: "a", Action: action, Status: status, Missing: []replication.Region{"eastus", "japaneast"}}
	var err error
	if status == "" {
		st, err = notification.Status{}, notification.ErrNotFound
	}
	b := &backend{
		status: func(context.Context, string) (notification.Status, error) { return st, err },
		find: func(_ context.Context, image catalog.Image) (notification.Status, error) {
			if image != (catalog.Image{Repository: "shop/cart", Digest: "sha256:aa", Tag: "v1"}) {
				return st, errors.New("another image")
			}
			return st, err
		},
	}
	var log bytes.Buffer
	h := newHandler(b, &log)
	for _, target := range []string{"/notifications/a?", "/images/shop/cart?digest=sha256:aa&tag=v1&"} {
		begin := time.Now()
		w := call(h, "GET", target+"require=replicated"+wait, "")
		if w.Code != want {
			t.Errorf("%s, %s %s%s: %d, want %d: %s", target, status, action, wait, w.Code, want, w.Body)
		}
		if waited := time.Since(begin); waited != 0 && waited != 5*time.Second || (waited > 0) != (want == 503 && wait != "") {
			t.Errorf("%s, %s %s%s: waited %v", target, status, action, wait, waited)
		}
		if want != 503 {
			if !strings.Contains(w.Body.String(), `"id":"a"`) || w.Header().Get("Retry-After") != "" {
				t.Errorf("%s, %s %s%s: %v %s", target, status, action, wait, w.Header(), w.Body)
			}
			continue
		}
		var p struct {
			Type, Detail string
			Missing      json.RawMessage
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Type != "urn:allregions:problem:undecided" || string(p.Missing) != missing ||
			w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Retry-After") != "1" {
			t.Errorf("%s, %s %s%s: %v %s, %v", target, status, action, wait, w.Header(), w.Body, err)
		}
		if said := "missing: eastus, japaneast"; missing != "[]" && !strings.Contains(p.Detail, said) || missing == "[]" && !strings.Contains(p.Detail, "no region has reported") {
			t.Errorf("%s, %s %s%s: %q", target, status, action, wait, p.Detail)
		}
	}
	if log.Len() != 0 {
		t.Errorf("%s %s%s: what is no failure is in the log:\n%s", status, action, wait, &log)
	}
	// Without a requirement there is no such answer.
	w := call(h, "GET", "/notifications/a", "")
	if want := map[bool]int{false: 200, true: 404}[status == ""]; w.Code != want || strings.Contains(w.Body.String(), "undecided") {
		t.Errorf("%s %s without a requirement: %d %s", status, action, w.Code, w.Body)
	}
}

func TestStatusAnswersAtOnce(t *testing.T) {
	b := &backend{status: func(context.Context, string) (notification.Status, error) {
		return notification.Status{ID: "a", Status: replication.Collecting, Deadline: time.Now().Add(time.Hour)}, nil
	}}
	w := call(newHandler(b, io.Discard), "GET", "/notifications/a", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"collecting"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestVersion(t *testing.T) {
	w := call(newHandler(&backend{}, io.Discard), "GET", "/version", "")
	if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != `{"version":"v1.2.3"}` {
		t.Errorf("%d %s", w.Code, got)
	}
}
