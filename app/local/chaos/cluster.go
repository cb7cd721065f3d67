package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"allregions/app/local/cosmos"
	"allregions/app/local/dapr"
	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// replicas is how many there are of the service and its sidecar.
const replicas = 3

// key opens the service to the run's own webhooks.
const key = "chaos"

// restartDelay is how long a process that ended by itself stays away. Sidecars
// end at start when the store or the broker is away, as they do on Azure.
const restartDelay = 500 * time.Millisecond

// startTimeout is how long everything may take to be ready, at the begin and
// after the faults.
const startTimeout = 2 * time.Minute

// replica is where one replica is reached.
type replica struct {
	port, daprPort int // the service's public port, and the HTTP port of its sidecar
}

func (r replica) url(path string) string { return "http://127.0.0.1:" + strconv.Itoa(r.port) + path }

// aReminder is a URL under which the sidecar answers what the scheduler knows.
func (r replica) aReminder() string {
	return fmt.Sprintf("http://127.0.0.1:%d/v1.0/actors/Notification/none/reminders/none", r.daprPort)
}

// cluster is replicas of the service that share everything else, each process
// kept running until its fault, and after it.
type cluster struct {
	dir       string
	replicas  []replica
	broker    broker
	store     *store
	target    *target
	scheduler dapr.Scheduler

	group   *process.Group
	members map[string]*member
	server  *http.Server // of the store
	log     *log

	keepers sync.WaitGroup
	mu      sync.Mutex
	ended   map[string]int // how often a process ended by itself, by name
}

// member is a process that is started again when it ends, but while it is held
// down.
type member struct {
	name    string
	command func() *exec.Cmd

	mu      sync.Mutex
	up      chan struct{} // closed while it is to run
	running *process.Process
}

// startCluster starts everything. It returns when webhooks can be posted, or
// with an error and nothing left running.
func startCluster(ctx context.Context, dir string, o Options, log *log) (_ *cluster, err error) {
	root, err := stack.Root(ctx)
	if err != nil {
		return nil, err
	}
	redis, err := LookForRedis()
	if err != nil {
		return nil, err
	}
	programs, err := dapr.Find(ctx, root, o.Progress)
	if err != nil {
		return nil, err
	}
	service, emulator := filepath.Join(dir, "service"), filepath.Join(dir, "cosmium")
	if err := stack.BuildService(ctx, root, service, false); err != nil {
		return nil, err
	}
	if err := cosmos.Build(ctx, root, emulator); err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, members: map[string]*member{}, log: log, ended: map[string]int{}}
	if c.group, err = process.NewGroup(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.kill()
		}
	}()

	scheduler, placement := &c.scheduler, dapr.Placement{Dir: dir}
	scheduler.Dir = dir
	var real, proxied cosmos.Emulator
	c.broker = broker{program: redis, dir: filepath.Join(dir, brokerName)}
	if err := stack.FreePorts(&real.Port, &proxied.Port, &c.broker.port,
		&scheduler.Port, &scheduler.HealthPort, &scheduler.EtcdClientPort, &scheduler.EtcdPeerPort,
		&placement.Port, &placement.HealthPort, &placement.RaftPort); err != nil {
		return nil, err
	}
	for _, sub := range []string{"logs", brokerName} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	c.store = newStore(cosmos.NewProxy(real, proxied), source(o.Seed, storeStream))
	if c.server, err = proxied.Serve(c.store); err != nil {
		return nil, err
	}
	if c.target, err = newTarget(); err != nil {
		return nil, err
	}
	c.start(ctx, brokerName, c.broker.command)
	c.start(ctx, storeName, func() *exec.Cmd { return real.Command(emulator) })

	components := filepath.Join(dir, "components")
	containers, err := proxied.Components(root, components)
	if err != nil {
		return nil, err
	}
	if err := c.broker.writeComponent(components, stack.PubSub, stack.AppID); err != nil {
		return nil, err
	}
	ctxStart, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := until(ctxStart, "the store and the broker are not ready", func() error {
		for _, container := range containers {
			if err := real.Create(ctxStart, container.Database, container.Name); err != nil {
				return err
			}
		}
		_, err := c.broker.do(ctxStart, "PING")
		return err
	}); err != nil {
		return nil, err
	}
	c.start(ctx, schedulerName, func() *exec.Cmd { return scheduler.Command(programs) })
	c.start(ctx, placementName, func() *exec.Cmd { return placement.Command(programs) })
	for i := range replicas {
		d := dapr.Sidecar{AppID: stack.AppID, Dir: dir, Components: components, PlacementPort: placement.Port, SchedulerPort: scheduler.Port}
		s := stack.Service{Regions: o.Regions, Timeout: o.Timeout, Key: key, Dir: dir, Settings: map[string]string{"WEBHOOK_TOPIC": "acr-webhooks", "SHUTDOWN_DELAY": "1s", "NOTIFY_TARGETS": c.target.settings()}}
		if err := stack.FreePorts(&d.AppPort, &d.HTTPPort, &d.GRPCPort, &d.InternalPort, &d.MetricsPort, &s.Port); err != nil {
			return nil, err
		}
		s.AppPort, s.GRPCPort = d.AppPort, d.GRPCPort
		c.replicas = append(c.replicas, replica{s.Port, d.HTTPPort})
		c.start(ctx, numbered(daprdName, i), func() *exec.Cmd { return d.Command(programs) })
		c.start(ctx, numbered(serviceName, i), func() *exec.Cmd { return s.Command(service) })
	}
	return c, c.ready(ctxStart)
}

// start keeps a process running until ctx ends or the cluster is killed.
func (c *cluster) start(ctx context.Context, name string, command func() *exec.Cmd) {
	m := &member{name: name, command: command, up: make(chan struct{})}
	close(m.up)
	c.members[name] = m
	c.keepers.Go(func() {
		for {
			err := c.once(ctx, m)
			select {
			case <-ctx.Done():
				return
			default:
			}
			if errors.Is(err, errHeld) {
				continue
			}
			if errors.Is(err, errStopped) {
				return
			}
			c.log.line("%s ended by itself (%v)", name, err)
			c.mu.Lock()
			c.ended[name]++
			c.mu.Unlock()
			select {
			case <-ctx.Done():
				return
			case <-time.After(restartDelay):
			}
		}
	})
}

var (
	errHeld    = errors.New("held down")
	errStopped = errors.New("stopped")
)

// once runs the process once, as soon as it may.
func (c *cluster) once(ctx context.Context, m *member) error {
	m.mu.Lock()
	up := m.up
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-up:
	}
	p, err := c.spawn(m)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held() {
		return errHeld
	}
	return p.Err()
}

// spawn starts the process, unless it is held down by now.
func (c *cluster) spawn(m *member) (*process.Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held() {
		return nil, errHeld
	}
	f, err := os.OpenFile(c.logPath(m.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", m.name, err)
	}
	defer f.Close() // the child has its own
	cmd := m.command()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Args[0] = filepath.Join(c.dir, m.name) // so that ps tells whose it is
	if m.running, err = c.group.Start(m.name, cmd); err != nil {
		return nil, errors.Join(errStopped, err)
	}
	return m.running, nil
}

// held tells whether the process is not to run; the caller holds m.mu.
func (m *member) held() bool {
	select {
	case <-m.up:
		return false
	default:
		return true
	}
}

// hold ends the process by a signal, and keeps it down until release.
func (m *member) hold(sig syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.up = make(chan struct{})
	return m.signal(sig)
}

// terminateTimeout is when Container Apps kills what has not ended after SIGTERM.
const terminateTimeout = 30 * time.Second

// awaitEnd returns when the process has ended, by itself or by a SIGKILL.
func (m *member) awaitEnd(timeout time.Duration) error {
	m.mu.Lock()
	p := m.running
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.Done():
		return nil
	case <-time.After(timeout):
		return m.locked(syscall.SIGKILL)
	}
}

func (m *member) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.up)
}

// stop freezes the process, goOn thaws it.
func (m *member) stop() error { return m.locked(syscall.SIGSTOP) }
func (m *member) goOn() error { return m.locked(syscall.SIGCONT) }

func (m *member) locked(sig syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.signal(sig)
}

func (m *member) signal(sig syscall.Signal) error {
	if m.running == nil {
		return nil
	}
	return m.running.Signal(sig)
}

func (c *cluster) logPath(name string) string { return filepath.Join(c.dir, "logs", name+".log") }

// logs are the paths of the services' logs.
func (c *cluster) logs() (paths []string) {
	for i := range c.replicas {
		paths = append(paths, c.logPath(numbered(serviceName, i)))
	}
	return paths
}

// begin makes f happen, end ends it.
func (c *cluster) begin(f fault) (err error) {
	for _, name := range f.targets {
		switch f.verb {
		case kill:
			err = errors.Join(err, c.members[name].hold(syscall.SIGKILL))
		case pause:
			err = errors.Join(err, c.members[name].stop())
		case terminate:
			err = errors.Join(err, c.members[name].hold(syscall.SIGTERM))
		case hinder:
			c.store.set(trouble(name))
		case disturb:
			c.target.set(targetTrouble(name))
		}
	}
	return err
}

func (c *cluster) end(f fault) (err error) {
	for _, name := range f.targets {
		switch f.verb {
		case kill:
			c.members[name].release()
		case pause:
			err = errors.Join(err, c.members[name].goOn())
		case terminate:
			err = errors.Join(err, c.members[name].awaitEnd(terminateTimeout))
			c.members[name].release()
		case hinder:
			c.store.set("")
		case disturb:
			c.target.set("")
		}
	}
	return err
}

// ready returns when every replica takes webhooks, and reaches the scheduler.
func (c *cluster) ready(ctx context.Context) error {
	return until(ctx, "not every replica is ready", func() error {
		for i, r := range c.replicas {
			if _, err := get(ctx, r.url("/readyz")); err != nil {
				return fmt.Errorf("%s: %w", numbered(serviceName, i), err)
			}
			if _, err := get(ctx, r.aReminder()); err != nil {
				return fmt.Errorf("%s: %w", numbered(daprdName, i), err)
			}
		}
		return nil
	})
}

// kill ends every process at once. What is in dir stays.
func (c *cluster) kill() {
	c.group.Kill()
	c.keepers.Wait()
	if c.server != nil {
		c.server.Close()
	}
	if c.target != nil {
		c.target.close()
	}
}

// events returns what came to the topic after last, and the new last.
func (c *cluster) events(ctx context.Context, last string) ([]Event, string, error) {
	entries, err := c.broker.entries(ctx, stack.Topic, last)
	if err != nil {
		return nil, last, err
	}
	var events []Event
	for _, e := range entries {
		at, err := e.stored()
		if err != nil {
			return nil, last, err
		}
		events = append(events, Event{Stored: at, Data: []byte(e.fields["data"])})
		last = e.id
	}
	return events, last, nil
}

// reminded lists the notifications that the scheduler has a reminder for.
func (c *cluster) reminded(ctx context.Context) ([]string, error) {
	reminders, err := c.scheduler.Reminders(ctx, "Notification")
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range reminders {
		ids = append(ids, r.ActorID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// status asks a replica for a notification. Without one, ok is false.
func (c *cluster) status(ctx context.Context, replica int, id string) (st Status, ok bool, err error) {
	body, err := get(ctx, c.replicas[replica].url("/notifications/"+id))
	if answer, is := errors.AsType[*answerError](err); is && answer.status == http.StatusNotFound {
		return Status{}, false, nil
	}
	if err != nil {
		return Status{}, false, err
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return Status{}, false, fmt.Errorf("status of %s: %s: %w", id, body, err)
	}
	return st, true, nil
}

// deliveries says what the service knows of the deliveries of a notification's
// outcomes: the state of each, by the event's id.
func (c *cluster) deliveries(ctx context.Context, replica int, id string) (map[string]string, error) {
	body, err := get(ctx, c.replicas[replica].url("/notifications/"+id+"/deliveries"))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Deliveries []struct{ Event, Status string }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("deliveries of %s: %s: %w", id, body, err)
	}
	states := map[string]string{}
	for _, d := range answer.Deliveries {
		states[d.Event] = d.Status
	}
	return states, nil
}

// restarts says how often processes ended by themselves, by name.
func (c *cluster) restarts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.ended)
}

// answerError is an answer that is not 2xx.
type answerError struct {
	status int
	body   string
}

func (e *answerError) Error() string { return fmt.Sprintf("%d %s", e.status, e.body) }

// get returns the body of a 2xx.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, &answerError{resp.StatusCode, string(body)}
	}
	return body, nil
}

// until repeats try until it succeeds or ctx ends.
func until(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
