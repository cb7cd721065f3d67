package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/dapr"
)

var regions = []string{"westeurope", "eastus", "japaneast"}

// soon is how long something may take that takes no time: a bound for a busy
// machine, on which the reminder may have to do a turn's work.
const soon = 45 * time.Second

// cloudEvent is what consumers read.
type cloudEvent struct {
	SpecVersion, ID, Type, Source, Subject string
	Traceparent, TraceID                   string
	Time                                   time.Time
	Data                                   status

	body string // as it came
}

type status struct {
	ID, Action, Status, Registry, Repository, Tag, Digest string
	StartedAt, Deadline                                   time.Time
	ConcludedAt                                           *time.Time
	DurationMS                                            *int64
	Regions                                               []struct{ Region, Via string }
	Missing                                               []string
	Optional                                              []struct{ Region, ReceivedAt string }
	Replicas                                              map[string]string
	Mismatch                                              bool
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
	e.body = string(event)
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

func (s *subscriber) all() []cloudEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// wait returns the nth event of a notification, n from 1.
func (s *subscriber) wait(t *testing.T, id string, n int, within time.Duration) cloudEvent {
	t.Helper()
	deadline := time.After(within)
	for {
		if found := s.of(id); len(found) >= n {
			if e := found[n-1]; strings.HasPrefix(e.Type, "acr.replication.") {
				conforms(t, "OutcomeEvent", []byte(e.body))
			}
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
	if o.Regions == nil {
		o.Regions = regions
	}
	if o.Key == "" {
		o.Key = "test-key"
	}
	prepare(t)
	o.Program = program(t)
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{ServiceProcess, SidecarProcess} {
				t.Logf("end of %s's log:\n%s", name, tail(s.LogPath(name), 30))
			}
		}
		s.Stop()
	})
	return s, &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
}

func prepare(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	if err := PrepareTest(t.Context(), t.Deadline); err != nil {
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
	conforms(t, "Status", body)
	return st
}

func get200(t *testing.T, s *Stack, path string) status {
	t.Helper()
	code, body := request(t, http.MethodGet, s.URL+path, s.Key)
	var st status
	if err := json.Unmarshal(body, &st); err != nil || code != http.StatusOK {
		t.Fatalf("GET %s: %d, %v: %s", path, code, err, body)
	}
	conforms(t, "Status", body)
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

func portOf(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }

// reminder returns when the one reminder of a notification is due; "" is no
// reminder.
func reminder(t *testing.T, s *Stack, id string) (due string) {
	t.Helper()
	return reminderOf(t, s, id).Due
}

// reminderOf returns the one reminder of a notification; the zero Reminder is none.
func reminderOf(t *testing.T, s *Stack, id string) (found dapr.Reminder) {
	t.Helper()
	reminders, err := s.Scheduler.Reminders(t.Context(), "Notification")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reminders {
		if r.ActorID == id {
			if found.ActorID != "" {
				t.Errorf("%s has two reminders", id)
			}
			found = r
		}
	}
	return found
}

// ready tells why the service is not.
func ready(s *Stack) error {
	return Get(context.Background(), s.URL+"/readyz", "", nil)
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
	e := sub.wait(t, complete.ID, 1, soon)
	if e.Type != "acr.replication.completed" {
		t.Errorf("%+v", e)
	}
	// The reminder alone decides.
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
	case <-time.After(soon):
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
	sub1.wait(t, p.ID, 1, soon)
	if code, _ := request(t, http.MethodGet, s2.URL+"/notifications/"+p.ID, s2.Key); code != 404 {
		t.Errorf("the second stack knows the first one's notification: %d", code)
	}
	fire(t, r2, p, regions[0], http.StatusAccepted)
	sub2.wait(t, p.ID, 1, soon)
	if n := len(sub1.of(p.ID)); n != 1 {
		t.Errorf("the first stack published %d", n)
	}

	port, _ := strconv.Atoi(portOf(s1.URL))
	for want, o := range map[string]Options{
		fmt.Sprintf("listen tcp :%d: bind: address already in use; choose another -port", port): {Port: port, Regions: regions},
		"another stack uses " + s1.Dir: {Dir: s1.Dir, Regions: regions},
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
	prepare(t)
	_, err := Start(t.Context(), Options{Regions: []string{"eastus", "eastus"}, Key: "k", Program: program(t)})
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

// A replica that is told to stop answers whatever reaches it, as long as a load
// balancer that looks at /readyz sends it anything; what it has accepted is there
// afterwards.
func TestDrain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, r := start(t, Options{Dir: dir, Timeout: 2 * soon, Settings: map[string]string{"SHUTDOWN_DELAY": "1s"}})

	var up atomic.Bool // what the load balancer knows
	up.Store(true)
	go func() {
		for ; up.Load(); time.Sleep(50 * time.Millisecond) {
			if ready(s) != nil {
				up.Store(false)
			}
		}
	}()
	var mu sync.Mutex
	var accepted []string
	waiting := acr.NewPush("shop/wait", "v1")
	fire(t, r, waiting, "eastus", http.StatusAccepted)
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for up.Load() {
				p := acr.NewPush("shop/cart", "v1")
				code, body, err := r.Fire(t.Context(), p, "eastus")
				switch {
				case err != nil || code != http.StatusAccepted && code != http.StatusServiceUnavailable:
					t.Errorf("%d %s %v", code, body, err)
				case code == http.StatusAccepted:
					mu.Lock()
					accepted = append(accepted, p.ID)
					mu.Unlock()
				}
			}
		})
	}
	senders.Go(func() { // what waits is told to wait elsewhere
		if code, body := request(t, http.MethodGet, s.URL+"/notifications/"+waiting.ID+"?wait=1m", s.Key); code != http.StatusServiceUnavailable {
			t.Errorf("the wait ended with %d: %s", code, body)
		}
	})
	eventually(t, soon, "webhooks are accepted", func() bool { mu.Lock(); defer mu.Unlock(); return len(accepted) >= 50 })
	if err := s.Process(ServiceProcess).Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	senders.Wait()
	select {
	case <-s.Process(ServiceProcess).Done():
		if got := s.Process(ServiceProcess).State(); got != "exit status 0" {
			t.Errorf("the service ended with %s", got)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the service does not end")
	}
	s.Stop()

	s, _ = start(t, Options{Dir: dir, Timeout: 2 * soon})
	for _, id := range accepted {
		if st := get200(t, s, "/notifications/"+id); len(st.Regions) != 1 {
			t.Errorf("%s: %+v", id, st)
		}
	}
}

// The shortest timeout that there is, and a deadline that passes while nothing
// runs. The reminder decides both.
func TestDeadlinePassesWhileDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sub := newSubscriber()
	up, down := acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/cart", "v2")
	s, r := start(t, Options{Dir: dir, Timeout: time.Second, Events: sub.take})
	fire(t, r, up, "eastus", http.StatusAccepted)
	if e := sub.wait(t, up.ID, 1, soon); e.Type != "acr.replication.timedout" || e.Data.Deadline.Sub(e.Data.StartedAt) != time.Second || e.Time.Sub(e.Data.Deadline) < time.Second/4 {
		t.Errorf("%+v", e)
	}
	s.Stop()

	s, r = start(t, Options{Dir: dir, Timeout: 5 * time.Second})
	deadline := fire(t, r, down, "eastus", http.StatusAccepted).Deadline
	s.Kill()
	eventually(t, soon, "the deadline passes", func() bool { return time.Now().After(deadline) })
	start(t, Options{Dir: dir, Timeout: time.Second, Events: sub.take})
	e := sub.wait(t, down.ID, 1, 75*time.Second)
	if e.Type != "acr.replication.timedout" || !e.Data.Deadline.Equal(deadline) || len(e.Data.Missing) != 2 {
		t.Errorf("%+v", e)
	}
}
