package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"allregions/app/local/acr"
	"allregions/app/local/cosmos"
	"allregions/app/local/dapr"
)

// raceEnabled makes the service under test a race-detecting one, if the tests
// are.
var raceEnabled bool

var regions = []string{"westeurope", "eastus", "japaneast"}

// cloudEvent is what consumers read.
type cloudEvent struct {
	SpecVersion, ID, Type, Source, Subject string
	Time                                   time.Time
	Data                                   status
}

type status struct {
	ID, Status, Registry, Repository, Tag, Digest string
	StartedAt, Deadline                           time.Time
	ConcludedAt                                   *time.Time
	DurationMS                                    *int64
	Regions                                       []struct{ Region string }
	Missing                                       []string
	Mismatch                                      bool
}

// subscriber collects events.
type subscriber struct {
	mu     sync.Mutex
	events []cloudEvent
	more   chan struct{}
}

func newSubscriber() *subscriber { return &subscriber{more: make(chan struct{}, 1)} }

func (s *subscriber) take(event []byte) {
	var e cloudEvent
	if err := json.Unmarshal(event, &e); err != nil {
		panic(err)
	}
	s.mu.Lock()
	s.events = append(s.events, e)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// of returns the events of one notification.
func (s *subscriber) of(id string) (found []cloudEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Data.ID == id {
			found = append(found, e)
		}
	}
	return found
}

// wait returns the nth event of a notification, n from 1.
func (s *subscriber) wait(t *testing.T, id string, n int, within time.Duration) cloudEvent {
	t.Helper()
	deadline := time.After(within)
	for {
		if found := s.of(id); len(found) >= n {
			return found[n-1]
		}
		select {
		case <-s.more:
		case <-time.After(50 * time.Millisecond): // more has room for one, and several may wait
		case <-deadline:
			t.Fatalf("event %d of %s did not come within %v; came: %+v", n, id, within, s.of(id))
		}
	}
}

// start starts a stack that ends with the test.
func start(t *testing.T, o Options) (*Stack, *acr.Registry) {
	t.Helper()
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-20*time.Second))
		defer cancel()
	}
	if o.Regions == nil {
		o.Regions = regions
	}
	if o.Key == "" {
		o.Key = "test-key"
	}
	lookAtSources(t)
	o.Race = raceEnabled
	o.Progress = dapr.TestProgress()
	s, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{ServiceProcess, SidecarProcess} {
				t.Logf("end of %s's log:\n%s", name, tail(s.logPath(name), 30))
			}
		}
		s.Stop()
	})
	return s, &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
}

func lookAtSources(t *testing.T) {
	t.Helper()
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := LookAtSources(root); err != nil {
		t.Fatal(err)
	}
}

func tail(path string, n int) string {
	data, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func fire(t *testing.T, r *acr.Registry, p acr.Push, region string, want int) status {
	t.Helper()
	code, body, err := r.Fire(t.Context(), p, region)
	if err != nil || code != want {
		t.Fatalf("webhook of %s: %d, %v; want %d: %s", region, code, err, want, body)
	}
	var st status
	if err := json.Unmarshal(body, &st); err != nil {
		t.Fatalf("webhook of %s: %s: %v", region, body, err)
	}
	return st
}

func get200(t *testing.T, s *Stack, path string) status {
	t.Helper()
	code, body := request(t, http.MethodGet, s.URL+path, s.Key)
	var st status
	if err := json.Unmarshal(body, &st); err != nil || code != http.StatusOK {
		t.Fatalf("GET %s: %d, %v: %s", path, code, err, body)
	}
	return st
}

func request(t *testing.T, method, url, key string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// reminders returns what Dapr knows of the reminder of a notification; "" is
// nothing.
func reminder(t *testing.T, s *Stack, id string) string {
	t.Helper()
	code, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/v1.0/actors/Notification/%s/reminders/check", s.HTTPPort, id), "")
	var r struct{ Period, DueTime string }
	if code >= 400 || json.Unmarshal(body, &r) != nil || r.Period == "" {
		return ""
	}
	return r.DueTime + " " + r.Period
}

// eventually waits for a condition.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// The flow on the real Dapr, on each of its state stores.
func TestFlow(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		testFlow(t, Options{}, func(t *testing.T, s *Stack, id string) []byte {
			data, err := s.Dapr().Documents("images").Get(t.Context(), id)
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

// readCosmos reads a document as anybody with access to the account would: not
// through Dapr.
func readCosmos(t *testing.T, s *Stack, id string) []byte {
	t.Helper()
	credential, err := azcosmos.NewKeyCredential(cosmos.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azcosmos.NewClientWithKey(s.Cosmos.URL(), credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	images, err := client.NewContainer(AppID, "images")
	if err != nil {
		t.Fatal(err)
	}
	item, err := images.ReadItem(t.Context(), azcosmos.NewPartitionKeyString(id), id, nil)
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

// testFlow runs the flow on one stack that the subtests share; each has
// notifications of its own. Document reads the document of a notification.
func testFlow(t *testing.T, o Options, document func(t *testing.T, s *Stack, id string) []byte) {
	const timeout = 4 * time.Second
	sub := newSubscriber()
	o.Timeout, o.Events = timeout, sub.take
	s, acrOf := start(t, o)

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
				if i == 0 && st.Deadline.Sub(st.StartedAt) != timeout {
					t.Errorf("deadline %v after the start", st.Deadline.Sub(st.StartedAt))
				}
			}
			e := sub.wait(t, p.ID, 1, 5*time.Second)
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
			eventually(t, 5*time.Second, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
			// A later notification's deadline passes after this one's: nothing
			// more may have come of this one by then.
			later := acr.NewPush("shop/later", "v1")
			fire(t, acrOf, later, "eastus", http.StatusAccepted)
			sub.wait(t, later.ID, 1, timeout+5*time.Second)
			if got := sub.of(p.ID); len(got) != 1 {
				t.Errorf("%d events: %+v", len(got), got)
			}
		})
		t.Run("timedOut, then recovered", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/pay", "v2")
			began := time.Now()
			fire(t, acrOf, p, "japaneast", http.StatusAccepted)
			if reminder(t, s, p.ID) == "" {
				t.Error("answered before the reminder is there")
			}
			fire(t, acrOf, p, "West Europe", http.StatusAccepted)
			e := sub.wait(t, p.ID, 1, timeout+5*time.Second)
			if e.Type != "acr.replication.timedout" || e.ID != p.ID+"/timedOut" || !slices.Equal(e.Data.Missing, []string{"eastus"}) || e.Data.Status != "timedOut" {
				t.Errorf("event %+v", e)
			}
			if after := time.Since(began); after < timeout {
				t.Errorf("timed out after %v, before the deadline", after)
			}
			st := fire(t, acrOf, p, "eastus", http.StatusAccepted)
			if st.Status != "recovered" || len(st.Missing) != 0 {
				t.Errorf("status %+v", st)
			}
			if e = sub.wait(t, p.ID, 2, 5*time.Second); e.Type != "acr.replication.recovered" || e.ID != p.ID+"/recovered" {
				t.Errorf("event %+v", e)
			}
			eventually(t, 5*time.Second, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
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
			if e := sub.wait(t, a.ID, 1, 5*time.Second); e.Data.Mismatch || len(e.Data.Regions) != 3 {
				t.Errorf("%+v", e)
			}
			if e := sub.wait(t, b.ID, 1, 5*time.Second); !e.Data.Mismatch {
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
				st := get200(t, s, "/notifications/"+p.ID+"?wait=60s")
				done <- answer{st, time.Now()}
			}()
			fire(t, acrOf, p, "japaneast", http.StatusAccepted)
			fire(t, acrOf, p, "westeurope", http.StatusAccepted)
			concluded := time.Now()
			if a := <-done; a.st.Status != "replicated" || a.at.Sub(concluded) > time.Second {
				t.Errorf("%s, %v after the outcome", a.st.Status, a.at.Sub(concluded))
			}
			if code, _ := request(t, http.MethodGet, s.URL+"/notifications/none?wait=60s", s.Key); code != 404 {
				t.Errorf("unknown notification: %d", code)
			}
		})
		t.Run("document", func(t *testing.T) {
			t.Parallel()
			p := acr.NewPush("shop/doc", "v1")
			for i, region := range regions {
				fire(t, acrOf, p, region, http.StatusAccepted)
				if i == 1 {
					continue
				}
				data := document(t, s, p.ID)
				var doc map[string]any
				if err := json.Unmarshal(data, &doc); err != nil {
					t.Fatalf("%q, %v", data, err)
				}
				want := map[int]string{0: "collecting", 2: "replicated"}[i]
				if doc["id"] != p.ID || doc["status"] != want || doc["image"] != "shop/doc" || doc["loginServer"] != "contoso.azurecr.io" {
					t.Errorf("%s", data)
				}
			}
		})
		t.Run("refused", func(t *testing.T) {
			t.Parallel()
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
			if code, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/dapr/config", s.AppPort), ""); code != 200 || !strings.Contains(string(body), `"Notification"`) {
				t.Errorf("the sidecar's listener: %d %s", code, body)
			}
			ip := otherAddress(t)
			if conn, err := net.Dial("tcp", net.JoinHostPort(ip, portOf(s.URL))); err != nil {
				t.Errorf("the public listener is not on %s: %v", ip, err)
			} else {
				conn.Close()
			}
			for name, port := range map[string]int{"sidecar's listener": s.AppPort, "Dapr gRPC": s.GRPCPort, "Dapr HTTP": s.HTTPPort, "Dapr metrics": s.MetricsPort} {
				if conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(port)), time.Second); err == nil {
					conn.Close()
					t.Errorf("%s is reachable on %s", name, ip)
				}
			}
		})
	})
	if log, err := os.ReadFile(s.logPath(ServiceProcess)); err != nil || bytes.Contains(log, []byte(s.Key)) || bytes.Contains(log, []byte("DATA RACE")) {
		t.Errorf("the service's log shows the key, or a race: %v\n%s", err, tail(s.logPath(ServiceProcess), 50))
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

// A 2xx survives a kill -9 of everything: the state, and the reminder. The
// timeout leaves room for the 20 s that the scheduler takes after a kill.
func TestSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const timeout = 40 * time.Second
	complete, incomplete := acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/pay", "v1")

	s, r := start(t, Options{Timeout: timeout, Dir: dir})
	fire(t, r, complete, "westeurope", http.StatusAccepted)
	fire(t, r, complete, "eastus", http.StatusAccepted)
	fire(t, r, incomplete, "eastus", http.StatusAccepted)
	s.Kill()

	sub := newSubscriber()
	_, r = start(t, Options{Timeout: timeout, Dir: dir, Events: sub.take})
	st := fire(t, r, complete, "japaneast", http.StatusAccepted)
	if len(st.Missing) != 0 || len(st.Regions) != 3 {
		t.Errorf("after the kill: %+v", st)
	}
	e := sub.wait(t, complete.ID, 1, 10*time.Second)
	if e.Type != "acr.replication.completed" {
		t.Errorf("%+v", e)
	}
	// Nobody asks for it: the reminder alone decides.
	e = sub.wait(t, incomplete.ID, 1, 60*time.Second)
	if e.Type != "acr.replication.timedout" || !slices.Equal(e.Data.Missing, []string{"westeurope", "japaneast"}) {
		t.Errorf("%+v", e)
	}
}

// When one process dies the stack says which, and nothing is left.
func TestAProcessDies(t *testing.T) {
	t.Parallel()
	s, _ := start(t, Options{})
	var pids []int
	for _, name := range []string{SchedulerProcess, PlacementProcess, SidecarProcess, ServiceProcess} {
		pids = append(pids, s.Process(name).PID)
	}
	s.Process(SidecarProcess).Signal(syscall.SIGKILL)
	select {
	case <-s.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	if err := s.Err(); err == nil || !strings.HasPrefix(err.Error(), "daprd ended (signal: killed)") {
		t.Errorf("%v", err)
	}
	s.Stop()
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is left", pid)
		}
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", s.Dir, err)
	}
}

// Two stacks do not disturb each other, and neither can be started in the
// other's place.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	sub1, sub2 := newSubscriber(), newSubscriber()
	s1, r1 := start(t, Options{Events: sub1.take, Regions: regions[:1], Dir: t.TempDir()})
	s2, r2 := start(t, Options{Events: sub2.take, Regions: regions[:1]})
	p := acr.NewPush("shop/cart", "v1")
	fire(t, r1, p, regions[0], http.StatusAccepted)
	sub1.wait(t, p.ID, 1, 10*time.Second)
	if code, _ := request(t, http.MethodGet, s2.URL+"/notifications/"+p.ID, s2.Key); code != 404 {
		t.Errorf("the second stack knows the first one's notification: %d", code)
	}
	fire(t, r2, p, regions[0], http.StatusAccepted)
	sub2.wait(t, p.ID, 1, 10*time.Second)
	if n := len(sub1.of(p.ID)); n != 1 {
		t.Errorf("the first stack published %d", n)
	}

	port, _ := strconv.Atoi(portOf(s1.URL))
	for want, o := range map[string]Options{
		fmt.Sprintf("port %d is taken; choose another one with -port", port): {Port: port, Regions: regions},
		"another stack uses " + s1.Dir:                                       {Dir: s1.Dir, Regions: regions},
	} {
		if s, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want one line with %q", err, want)
			if err == nil {
				s.Stop()
			}
		}
	}
}

// A service that cannot start ends the start, with its own words and nothing
// left running.
func TestTheServiceCannotStart(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{Regions: []string{"eastus", "eastus"}, Key: "k"})
	if err == nil || !strings.Contains(err.Error(), "service ended (exit status 1)") || strings.Contains(err.Error(), "\n") {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(err.Error(), "its log: ")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(filepath.Dir(path))) })
	if log := tail(path, 5); !strings.Contains(log, "WEBHOOK_REGIONS: region eastus is there twice") {
		t.Errorf("log: %s", log)
	}
	if left := processesIn(t, filepath.Dir(filepath.Dir(path))); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// processesIn lists the processes whose command line mentions dir.
func processesIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	out, err := exec.Command("ps", "-eo", "stat=,pid=,args=").Output()
	if err != nil {
		t.Skip("no ps")
	}
	scan := bufio.NewScanner(bytes.NewReader(out))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if line := scan.Text(); strings.Contains(line, dir) && !strings.HasPrefix(line, "Z") {
			found = append(found, line)
		}
	}
	return found
}
