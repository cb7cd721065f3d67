package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"allregions/app/intake"
	"allregions/app/local/acr"
	"allregions/app/local/cosmos"
)

// The flow on the real Dapr, on each of its state stores.
func TestFlow(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		testFlow(t, Options{}, func(t *testing.T, s *Stack, id string) []byte {
			data, _, err := s.dapr.Records("images", "").Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return data
		})
	})
	t.Run("Cosmos", func(t *testing.T) {
		t.Parallel()
		testFlow(t, Options{Cosmos: true}, readCosmos)
	})
}

// readCosmos reads a record as anybody with access to the account would: not
// through Dapr.
func readCosmos(t *testing.T, s *Stack, id string) []byte {
	t.Helper()
	credential, err := azcosmos.NewKeyCredential(cosmos.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azcosmos.NewClientWithKey(s.Cosmos, credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	images, err := client.NewContainer(AppID, "images")
	if err != nil {
		t.Fatal(err)
	}
	item, err := images.ReadItem(t.Context(), azcosmos.NewPartitionKeyString(id), id, nil)
	if _, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return nil // not there
	}
	if err != nil {
		t.Fatal(err)
	}
	var wrapped struct {
		ID    string
		Value json.RawMessage
	}
	if err := json.Unmarshal(item.Value, &wrapped); err != nil || wrapped.ID != id {
		t.Fatalf("%s, %v", item.Value, err)
	}
	return wrapped.Value
}

// record is what the store has of a notification.
type record struct {
	Format                                      int
	ID, Action, LoginServer, Image, Tag, Digest string
	Status                                      string
	Timestamp, StartedAt, Deadline              time.Time
	ConcludedAt                                 *time.Time
	Regions                                     []struct{ Region string }
	Missing                                     []string
	Actor                                       struct {
		Due      time.Time
		Reminder string
		Outcomes []struct {
			Status    string
			Published bool
		}
	}
}

// checkImages checks that a container has one document for each notification, and no
// other.
func checkImages(t *testing.T, s *Stack) {
	t.Helper()
	code, body := request(t, http.MethodGet, s.Cosmos+"/dbs/"+AppID+"/colls/images/docs", "")
	var feed struct {
		Documents []struct {
			ID    string
			Value record
		}
	}
	if err := json.Unmarshal(body, &feed); err != nil || code != http.StatusOK || len(feed.Documents) < 10 {
		t.Fatalf("%d %s, %v", code, body, err)
	}
	for _, d := range feed.Documents {
		if d.Value.Format != 1 || d.Value.ID != d.ID {
			t.Errorf("document %s: %+v", d.ID, d.Value)
		}
	}
}

// testFlow runs the flow on one stack that the subtests share; each has
// notifications of its own. Stored reads the record of a notification.
func testFlow(t *testing.T, o Options, stored func(t *testing.T, s *Stack, id string) []byte) {
	timeout := 4 * time.Second
	if raceEnabled { // everything takes longer
		timeout *= 2
	}
	grace := timeout / 4
	sub := newSubscriber()
	o.Timeout, o.Events = timeout, sub.take
	s, acrOf := start(t, o)
	recordOf := func(t *testing.T, id string) (r record) {
		t.Helper()
		data := stored(t, s, id)
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatalf("record of %s: %s, %v", id, data, err)
		}
		return r
	}

	t.Run("all", func(t *testing.T) {
		t.Run("replicated", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/cart", "v1.4.2")
			for i, region := range regions {
				st := fire(t, acrOf, p, region, http.StatusAccepted)
				want := map[bool]string{false: "collecting", true: "replicated"}[i == 2]
				if st.Status != want || len(st.Regions) != i+1 || len(st.Missing) != 2-i {
					t.Errorf("after %s: %+v", region, st)
				}
				if i > 0 {
					continue
				}
				if st.Deadline.Sub(st.StartedAt) != timeout {
					t.Errorf("deadline %v after the start", st.Deadline.Sub(st.StartedAt))
				}
				if r := reminderOf(t, s, p.ID); r.Due != st.Deadline.Add(grace).Format(time.RFC3339Nano) || r.Schedule != "@every 30s" {
					t.Errorf("the deadline is %v, the reminder's %+v", st.Deadline, r)
				}
			}
			e := sub.wait(t, p.ID, 1, soon)
			if e.SpecVersion != "1.0" || e.ID != p.ID+"/replicated" || e.Type != "acr.replication.completed" ||
				e.Source != "https://contoso.azurecr.io" || e.Subject != "shop/cart:v1.4.2" || e.Time.IsZero() {
				t.Errorf("event %+v", e)
			}
			if d := e.Data; d.Status != "replicated" || d.Digest != p.Digest || len(d.Regions) != 3 || len(d.Missing) != 0 || d.ConcludedAt == nil || d.DurationMS == nil || d.Mismatch {
				t.Errorf("data %+v", d)
			}
			if st := get200(t, s, "/notifications/"+p.ID); st.Status != "replicated" || !st.ConcludedAt.Equal(*e.Data.ConcludedAt) {
				t.Errorf("status %+v", st)
			}
			eventually(t, soon, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
			// A later notification's deadline passes after this one's: nothing
			// more may have come of this one by then.
			later := acr.NewPush("shop/later", "v1")
			fire(t, acrOf, later, "eastus", http.StatusAccepted)
			sub.wait(t, later.ID, 1, timeout+soon)
			if got := sub.of(p.ID); len(got) != 1 {
				t.Errorf("%d events: %+v", len(got), got)
			}
		})
		t.Run("timedOut, then recovered", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/pay", "v2")
			deadline := fire(t, acrOf, p, "japaneast", http.StatusAccepted).Deadline
			if reminder(t, s, p.ID) == "" {
				t.Error("answered before the reminder is there")
			}
			fire(t, acrOf, p, "West Europe", http.StatusAccepted)
			e := sub.wait(t, p.ID, 1, timeout+soon)
			if e.Type != "acr.replication.timedout" || e.ID != p.ID+"/timedOut" || !slices.Equal(e.Data.Missing, []string{"eastus"}) || e.Data.Status != "timedOut" {
				t.Errorf("event %+v", e)
			}
			if !e.Data.Deadline.Equal(deadline) || e.Time.Before(deadline.Add(grace)) || !e.Time.Equal(*e.Data.ConcludedAt) {
				t.Errorf("timed out at %v, with the deadline at %v; the event's: %v", e.Time, deadline, e.Data.Deadline)
			}
			if st := get200(t, s, "/notifications/"+p.ID); st.Status != "timedOut" || !st.ConcludedAt.Equal(e.Time) {
				t.Errorf("status %+v", st)
			}
			eventually(t, soon, "the record knows that it is published, and the reminder is gone", func() bool {
				r := recordOf(t, p.ID)
				return len(r.Actor.Outcomes) == 1 && r.Actor.Outcomes[0].Published && reminder(t, s, p.ID) == ""
			})
			st := fire(t, acrOf, p, "eastus", http.StatusAccepted)
			if st.Status != "recovered" || len(st.Missing) != 0 {
				t.Errorf("status %+v", st)
			}
			if e = sub.wait(t, p.ID, 2, soon); e.Type != "acr.replication.recovered" || e.ID != p.ID+"/recovered" {
				t.Errorf("event %+v", e)
			}
			eventually(t, soon, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
		})
		t.Run("interleaved, repeated, mismatched", func(t *testing.T) {
			t.Parallel()
			a, b := acr.NewPush("shop/api", "v7"), acr.NewPush("shop/web", "v7")
			fire(t, acrOf, a, "eastus", http.StatusAccepted)
			fire(t, acrOf, b, "westeurope", http.StatusAccepted)
			fire(t, acrOf, a, "eastus", http.StatusOK)
			fire(t, acrOf, b, "eastus", http.StatusAccepted)
			fire(t, acrOf, a, "japaneast", http.StatusAccepted)
			other := b
			other.Digest = a.Digest
			fire(t, acrOf, other, "japaneast", http.StatusAccepted)
			fire(t, acrOf, a, "westeurope", http.StatusAccepted)
			if e := sub.wait(t, a.ID, 1, soon); e.Data.Mismatch || len(e.Data.Regions) != 3 {
				t.Errorf("%+v", e)
			}
			if e := sub.wait(t, b.ID, 1, soon); !e.Data.Mismatch {
				t.Errorf("regions disagree, and the event does not say so: %+v", e)
			}
		})
		t.Run("wait", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/wait", "v1")
			fire(t, acrOf, p, "eastus", http.StatusAccepted)
			type answer struct {
				st status
				at time.Time
			}
			done := make(chan answer, 1)
			go func() {
				st := get200(t, s, "/notifications/"+p.ID+"?wait=230s")
				done <- answer{st, time.Now()}
			}()
			fire(t, acrOf, p, "japaneast", http.StatusAccepted)
			fire(t, acrOf, p, "westeurope", http.StatusAccepted)
			concluded := time.Now()
			if a := <-done; a.st.Status != "replicated" || a.at.Sub(concluded) > soon {
				t.Errorf("%s, %v after the outcome", a.st.Status, a.at.Sub(concluded))
			}
			if code, _ := request(t, http.MethodGet, s.URL+"/notifications/none?wait=60s", s.Key); code != 404 {
				t.Errorf("unknown notification: %d", code)
			}
		})
		t.Run("record", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/doc", "v1")
			before := ""
			for i, region := range regions {
				st := fire(t, acrOf, p, region, http.StatusAccepted)
				want := map[bool]string{false: "collecting", true: "replicated"}[i == 2]
				r := recordOf(t, p.ID) // what has its answer is stored
				if r.Format != 1 || r.ID != p.ID || r.Action != "push" || r.Image != "shop/doc" || r.Tag != "v1" || r.Digest != p.Digest || r.LoginServer != "contoso.azurecr.io" || r.Timestamp.IsZero() ||
					r.Status != want || len(r.Regions) != i+1 || !slices.Equal(r.Missing, regions[i+1:]) || (r.ConcludedAt != nil) != (i == 2) {
					t.Errorf("%s", stored(t, s, p.ID))
				}
				if !r.StartedAt.Equal(st.StartedAt) || !r.Deadline.Equal(st.Deadline) || !r.Actor.Due.Equal(st.Deadline.Add(grace)) || r.Actor.Reminder == "" || i > 0 && r.Actor.Reminder != before {
					t.Errorf("status %+v, record %s", st, stored(t, s, p.ID))
				}
				before = r.Actor.Reminder
			}
		})
		t.Run("every payload", func(t *testing.T) {
			t.Parallel()
			files, err := filepath.Glob("../../api/testdata/payloads/*.json")
			if err != nil || len(files) != 7 {
				t.Fatalf("%v, %v", files, err)
			}
			for _, file := range files {
				body, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var p struct {
					ID, Action string
					Target     struct{ Repository, Tag, Digest string }
				}
				if err := json.Unmarshal(body, &p); err != nil {
					t.Fatal(err)
				}
				for _, region := range regions {
					want := map[bool]int{false: 202, true: 204}[p.Action == "ping"]
					// The samples' URLs, in turn with ours.
					path := map[string]string{regions[0]: "/api/ImagePush", regions[1]: "/images/push", regions[2]: "/webhooks/acr"}[region]
					if code, answer, err := acrOf.Post(t.Context(), path+"?code="+s.Key+"&region="+strings.ToUpper(region), body); code != want || err != nil {
						t.Errorf("%s to %s: %d, %v: %s", file, path, code, err, answer)
					}
				}
				if p.Action == "ping" {
					continue
				}
				subject := p.Target.Repository + ":" + p.Target.Tag
				if p.Target.Tag == "" {
					subject = p.Target.Repository + "@" + p.Target.Digest
				}
				if e := sub.wait(t, p.ID, 1, soon); e.Data.Action != p.Action || e.Subject != subject || e.Type != "acr.replication.completed" {
					t.Errorf("%s: %+v", file, e)
				}
				if r := recordOf(t, p.ID); r.Action != p.Action || r.Status != "replicated" || r.Digest != p.Target.Digest || r.Tag != p.Target.Tag || r.Image != p.Target.Repository {
					t.Errorf("%s: %+v", file, r)
				}
			}
		})
		t.Run("500 wait", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/many", "v1")
			fire(t, acrOf, p, "eastus", http.StatusAccepted)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			ends := make(chan time.Time, 500)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 500}}
			defer client.CloseIdleConnections()
			for range cap(ends) {
				wg.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/notifications/"+p.ID+"?wait=230s&require=replicated", nil)
					req.Header.Set("x-functions-key", s.Key)
					resp, err := client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						t.Errorf("%s", resp.Status)
					}
					ends <- time.Now()
				})
			}
			fire(t, acrOf, p, "westeurope", http.StatusAccepted)
			fire(t, acrOf, p, "japaneast", http.StatusAccepted)
			concluded := time.Now()
			wg.Wait()
			close(ends)
			for end := range ends {
				if late := end.Sub(concluded); late > soon {
					t.Fatalf("an answer came %v after the outcome", late)
				}
			}
		})
		t.Run("images", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/deep/er", "v3")
			byDigest, byTag := "/images/shop/deep/er?digest="+p.Digest, "/images/shop/deep/er?tag=v3"
			for _, path := range []string{byDigest, byTag} {
				if code, body := request(t, http.MethodGet, s.URL+path, s.Key); code != 404 {
					t.Errorf("before the push: %d %s", code, body)
				}
			}
			done := make(chan status, 1)
			go func() { done <- get200(t, s, byDigest+"&wait=230s&require=replicated") }()
			fire(t, acrOf, p, "eastus", http.StatusAccepted)
			eventually(t, timeout, "while it collects, it says who is missing", func() bool { // the index is behind the answer
				code, body := request(t, http.MethodGet, s.URL+byTag+"&require=replicated", s.Key)
				if code != 503 {
					t.Fatalf("while it collects: %d %s", code, body)
				}
				return strings.Contains(string(body), `"missing":["westeurope","japaneast"]`)
			})
			fire(t, acrOf, p, "westeurope", http.StatusAccepted)
			fire(t, acrOf, p, "japaneast", http.StatusAccepted)
			if st := <-done; st.ID != p.ID || st.Status != "replicated" {
				t.Errorf("%+v", st)
			}
			// The tag moves, and the new image does not reach every region.
			moved := acr.NewPush("shop/deep/er", "v3")
			fire(t, acrOf, moved, "eastus", http.StatusAccepted)
			eventually(t, soon, "the tag leads to the new image", func() bool { return get200(t, s, byTag).ID == moved.ID })
			if st := get200(t, s, byDigest); st.ID != p.ID {
				t.Errorf("the digest leads to %s", st.ID)
			}
			if code, body := request(t, http.MethodGet, s.URL+byTag+"&wait=60s&require=replicated", s.Key); code != 409 {
				t.Errorf("a region is missing: %d %s", code, body)
			}
			if code, body := request(t, http.MethodGet, s.URL+byTag+"&digest="+p.Digest, s.Key); code != 404 {
				t.Errorf("the tag is no longer of that digest: %d %s", code, body)
			}
		})
		t.Run("refused", func(t *testing.T) {
			t.Parallel()
			for _, body := range []string{"", "[]", "null", "hello", `{"id":"half`, `{"id":"half-1"}`, `{"id":"../x","action":"push"}`, `{"id":"a||b","action":"push"}`,
				`{"id":"` + strings.Repeat("a", 200) + `","action":"push"}`, `{"id":"a\u0001","action":"push"}`} {
				if code, answer, err := acrOf.Post(t.Context(), "/webhooks/acr?region=eastus", []byte(body)); code != 400 || err != nil {
					t.Errorf("%q: %d %s %v", body, code, answer, err)
				}
			}
			if code, _ := request(t, http.MethodGet, s.URL+"/notifications/half-1", s.Key); code != 404 {
				t.Errorf("a refused event was stored: %d", code)
			}
			for _, path := range []string{"/api/ImagePush", "/images/push"} {
				if code, _ := request(t, http.MethodGet, s.URL+path, s.Key); code != 405 {
					t.Errorf("GET %s: %d", path, code)
				}
			}
			p := acr.NewPush("shop/cart", "v1")
			code, body, err := acrOf.Fire(t.Context(), p, "mars")
			if err != nil || code != 400 || !strings.Contains(string(body), "westeurope, eastus, japaneast") {
				t.Errorf("unexpected region: %d %s %v", code, body, err)
			}
			if code, _ := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID, s.Key); code != 404 {
				t.Errorf("a refused event was stored: %d", code)
			}
			if r := reminder(t, s, p.ID); r != "" {
				t.Errorf("a refused event left a reminder: %s", r)
			}
			if code, _ := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID, ""); code != 401 {
				t.Errorf("without a key: %d", code)
			}
			if code, body, err := acrOf.Post(t.Context(), "/webhooks/acr?region=eastus", []byte(`{"action":"ping"}`)); code != 204 || err != nil {
				t.Errorf("ping: %d %s %v", code, body, err)
			}
		})
		t.Run("two listeners", func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/dapr/config", "/actors/Notification/n1/method/Add", "/actors/Notification/n1/method/remind/check"} {
				for _, method := range []string{http.MethodGet, http.MethodPut} {
					if code, _ := request(t, method, s.URL+path, s.Key); code != 404 {
						t.Errorf("%s %s on the public listener: %d", method, path, code)
					}
				}
			}
			if code, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/dapr/config", s.Replicas[0].Sidecar.AppPort), ""); code != 200 || !strings.Contains(string(body), `"Notification"`) {
				t.Errorf("the sidecar's listener: %d %s", code, body)
			}
			ip := otherAddress(t)
			if conn, err := net.Dial("tcp", net.JoinHostPort(ip, portOf(s.URL))); err != nil {
				t.Errorf("the public listener is not on %s: %v", ip, err)
			} else {
				conn.Close()
			}
			for name, port := range map[string]int{"sidecar's listener": s.Replicas[0].Sidecar.AppPort, "Dapr gRPC": s.Replicas[0].Sidecar.GRPCPort, "Dapr HTTP": s.Replicas[0].Sidecar.HTTPPort, "Dapr metrics": s.Replicas[0].Sidecar.MetricsPort} {
				if conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(port)), time.Second); err == nil {
					conn.Close()
					t.Errorf("%s is reachable on %s", name, ip)
				}
			}
		})
	})
	if o.Cosmos {
		checkImages(t, s)
	}
	refused := 0
	for _, e := range sub.all() {
		if strings.HasPrefix(e.Data.ID, "half") || strings.ContainsAny(e.Data.ID, "./|") {
			refused++
		}
	}
	if refused > 0 {
		t.Errorf("%d refused events were published", refused)
	}
	if log, err := os.ReadFile(s.LogPath(ServiceProcess)); err != nil || bytes.Contains(log, []byte(s.Key)) || bytes.Contains(log, []byte("DATA RACE")) {
		t.Errorf("the service's log shows the key, or a race: %v\n%s", err, tail(s.LogPath(ServiceProcess), 50))
	}
}

// otherAddress is an IPv4 address of this machine that is not loopback.
func otherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok && !ipnet.IP.IsLoopback() && ipnet.IP.To4() != nil {
			return ipnet.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

// Open notifications keep the regions that they began with, whatever the
// settings say since.
func TestRegionsChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := acr.NewPush("shop/cart", "v1")
	s, r := start(t, Options{Dir: dir, Regions: []string{"eastus", "westeurope", "japaneast"}})
	fire(t, r, p, "eastus", http.StatusAccepted)
	s.Stop()

	sub := newSubscriber()
	var many []string
	for i := range 49 {
		many = append(many, fmt.Sprintf("region%d", i))
	}
	s, r = start(t, Options{Dir: dir, Regions: append(many, "westeurope"), Events: sub.take})
	if st := fire(t, r, p, "region7", http.StatusOK); len(st.Regions) != 1 { // expected today, not awaited by this one
		t.Errorf("%+v", st)
	}
	fire(t, r, p, "westeurope", http.StatusAccepted)
	fire(t, r, p, "japaneast", http.StatusAccepted) // no longer in the settings
	if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.completed" || len(e.Data.Regions) != 3 {
		t.Errorf("%+v", e)
	}

	// Fifty regions, at once.
	p = acr.NewPush("shop/cart", "v2")
	var wg sync.WaitGroup
	for _, region := range s.options.Regions {
		wg.Go(func() {
			if code, body, err := r.Fire(t.Context(), p, region); code != 202 || err != nil {
				t.Errorf("%s: %d %s %v", region, code, body, err)
			}
		})
	}
	wg.Wait()
	if e := sub.wait(t, p.ID, 1, soon); len(e.Data.Regions) != 50 {
		t.Errorf("%+v", e)
	}
	if code, body, err := r.Fire(t.Context(), acr.NewPush("shop/cart", "v3"), "eastus"); code != 400 || err != nil {
		t.Errorf("a region that is gone: %d %s %v", code, body, err)
	}
}

// While the store of the records is away, nothing is promised, and nothing is told to
// be missing. When it is back, nothing is left of what was refused.
func TestImageStoreAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sub := newSubscriber()
	p := acr.NewPush("shop/cart", "v1")
	s, r := start(t, Options{Dir: dir, Events: sub.take, Settings: map[string]string{"IMAGE_STORE": "nowhere"}})
	for _, region := range regions {
		if code, body, err := r.Fire(t.Context(), p, region); err != nil || code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s %v", region, code, body, err)
		}
	}
	if code, body := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID, s.Key); code != http.StatusServiceUnavailable {
		t.Errorf("what cannot be read: %d %s", code, body)
	}
	s.Stop()

	s, r = start(t, Options{Dir: dir, Events: sub.take})
	if code, body := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID, s.Key); code != http.StatusNotFound {
		t.Errorf("what was refused: %d %s", code, body)
	}
	for i, region := range regions {
		if st := fire(t, r, p, region, http.StatusAccepted); len(st.Regions) != i+1 {
			t.Errorf("%+v", st)
		}
	}
	if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.completed" {
		t.Errorf("%+v", e)
	}
}

// While the store of the index is away, no webhook and no notification waits for it,
// and the reminder stays until the image leads to its notification.
func TestStateStoreAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sub := newSubscriber()
	p := acr.NewPush("shop/cart", "v1")
	const timeout = 20 * time.Second
	s, r := start(t, Options{Dir: dir, Timeout: timeout, Events: sub.take, Settings: map[string]string{"STATE_STORE": "nowhere"}})
	for _, region := range regions {
		fire(t, r, p, region, http.StatusAccepted)
	}
	if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.completed" {
		t.Errorf("%+v", e)
	}
	if code, body := request(t, http.MethodGet, s.URL+"/images/shop/cart?tag=v1", s.Key); code != http.StatusServiceUnavailable {
		t.Errorf("what cannot be read: %d %s", code, body)
	}
	eventually(t, soon, "the rest is left", func() bool { return strings.Contains(tail(s.LogPath(ServiceProcess), 1000), "left for the reminder") })
	if reminder(t, s, p.ID) == "" {
		t.Error("nobody will write the index")
	}
	s.Stop()

	s, _ = start(t, Options{Dir: dir, Timeout: timeout})
	eventually(t, timeout+soon, "the image leads to its notification", func() bool {
		code, body := request(t, http.MethodGet, s.URL+"/images/shop/cart?tag=v1", s.Key)
		return code == http.StatusOK && strings.Contains(string(body), p.ID)
	})
	eventually(t, soon, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
}

// A read decides nothing, repairs nothing and takes no turn: what is due waits for its
// reminder, whoever asks meanwhile.
func TestReadsDecideNothing(t *testing.T) {
	t.Parallel()
	sub := newSubscriber()
	const timeout, grace = 4 * time.Second, time.Second
	s, r := start(t, Options{Timeout: timeout, Events: sub.take})
	p := acr.NewPush("shop/cart", "v1")
	deadline := fire(t, r, p, "eastus", http.StatusAccepted).Deadline
	var before counts
	eventually(t, soon, "the turn is over, and so is what follows it", func() bool {
		before = scrape(t, s).apart()
		return before["InvokeActor"] == 2 && before["SaveState"] == 4
	})
	if err := s.Process(SchedulerProcess).Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "it is due", func() bool { return time.Now().After(deadline.Add(grace + time.Second)) })
	for path, want := range map[string]int{
		"/notifications/" + p.ID: 200, "/notifications/" + p.ID + "?wait=1s": 200, "/notifications/" + p.ID + "?require=replicated": 503,
		"/images/shop/cart?tag=v1": 200, "/images/shop/cart?tag=v1&wait=1s&require=replicated": 503, "/notifications/" + p.ID + "/deliveries": 200,
	} {
		code, body := request(t, http.MethodGet, s.URL+path, s.Key)
		if code != want || strings.Contains(string(body), "timedOut") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	eventually(t, soon, "the reads are counted", func() bool { return scrape(t, s).apart().since(before)["GetState"] > 5 })
	if got := scrape(t, s).apart().since(before); got["InvokeActor"]+got["SaveState"]+got["RegisterActorReminder"]+got["UnregisterActorReminder"]+got["PublishEvent"] != 0 {
		t.Errorf("reads cost %v", got)
	}
	asked := time.Now()
	if err := s.Process(SchedulerProcess).Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.timedout" || e.Time.Before(asked) {
		t.Errorf("asked at %v: %+v", asked, e)
	}
}

// While no notification can begin, because the scheduler is deaf, an event goes
// into the queue, and comes back. One event only: the in-memory broker takes a
// second message when the first is delivered.
func TestQueue(t *testing.T) {
	t.Parallel()
	sub, dead := newSubscriber(), make(chan string, 10)
	s, r := start(t, Options{Timeout: 2 * soon, Events: sub.take, Settings: map[string]string{"WEBHOOK_TOPIC": "acr-webhooks"}})
	go s.Replicas[0].Sidecar.Subscribe(t.Context(), PubSub, "acr-webhooks-dead", nil, func(event []byte) { dead <- string(event) })

	if err := s.Process(SchedulerProcess).Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// What cannot be delivered for a day is dead, and counted.
	yesterday := acr.NewPush("shop/cart", "v0")
	if err := s.dapr.Topic(PubSub, "acr-webhooks").Publish(t.Context(), "yesterday", queuedEvent(t, yesterday, 25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	letters := &intake.DeadLetters{Records: s.dapr.Records("statestore", "")}
	counted := func(n int, event, reason string) {
		eventually(t, soon, "the dead letter is counted", func() bool {
			sum, err := letters.Summary(t.Context())
			return err == nil && sum.Count == n && sum.Last.Event == event && strings.HasPrefix(sum.Last.Reason, reason+": ")
		})
	}
	counted(1, yesterday.ID+"/eastus", "givenUp")
	if event := <-dead; !strings.Contains(event, yesterday.ID) {
		t.Errorf("dead is %s", event)
	}

	p := acr.NewPush("shop/cart", "v1")
	code, body, err := r.Fire(t.Context(), p, regions[0])
	if code != http.StatusAccepted || err != nil || !strings.Contains(string(body), `"queued":true`) {
		t.Errorf("%d %s %v", code, body, err)
	}
	eventually(t, soon, "its turn ends, which goes on behind the answer", func() bool {
		log, err := os.ReadFile(s.LogPath(ServiceProcess))
		return err == nil && strings.Contains(string(log), `"msg":"actor turn failed","notification":"`+p.ID)
	})
	if err := s.Process(SchedulerProcess).Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the event comes back", func() bool {
		code, body := request(t, http.MethodGet, s.URL+"/notifications/"+p.ID, s.Key)
		return code == http.StatusOK && strings.Contains(string(body), `"via":"queue"`)
	})
	for _, region := range regions[1:] {
		fire(t, r, p, region, http.StatusAccepted)
	}
	if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.completed" || e.Data.Regions[0].Via != "queue" || e.Data.Regions[1].Via != "" {
		t.Errorf("%+v", e)
	}

	// What is not ours ends among the dead, and does not come again.
	if err := s.dapr.Topic(PubSub, "acr-webhooks").Publish(t.Context(), "x", []byte(`{"specversion":"1.0","id":"x","type":"y","source":"z"}`)); err != nil {
		t.Fatal(err)
	}
	select {
	case event := <-dead:
		if !strings.Contains(event, `"type":"acr.webhook.dead"`) || !strings.Contains(event, `not an acr.webhook.received`) {
			t.Errorf("%s", event)
		}
	case <-time.After(soon):
		t.Error("nothing is dead")
	}
	counted(2, "x", "notOurs")
}
