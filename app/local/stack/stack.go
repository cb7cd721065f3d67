// Package stack runs the service and the real Dapr around it on one machine:
// scheduler, placement, sidecar and service, with components/local, no server
// and no container. People use it through `go run ./app/local`, and the tests
// use it as it is.
package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"allregions/app/local/cosmos"
	"allregions/app/local/dapr"
	"allregions/app/local/process"
	"allregions/app/sidecar"
)

// What the local stack and components/local agree on.
const (
	AppID  = "allregions"
	PubSub = "pubsub"
	Topic  = "acr-notifications"
)

// Options say what to run. The zero value of a field that has a default means
// the default.
type Options struct {
	Regions []string
	Timeout time.Duration // default: the service's
	Key     string
	Port    int    // public; 0 for any free one
	Dir     string // for state and reminders, kept; default: a temporary directory, removed by Stop

	// Events is called with every CloudEvent that comes out of the topic, one
	// at a time.
	Events func(event []byte)

	ServiceLog io.Writer // default: a file in Dir
	Progress   dapr.Progress
	Race       bool // build the service with the race detector

	// Settings are further settings of the service, by name; they win over
	// those above.
	Settings map[string]string

	// Cosmos puts all that lasts into an emulator of Azure Cosmos DB, through the
	// components for Azure, instead of into SQLite. It forgets everything when it
	// ends.
	Cosmos bool
}

// Stack is a running stack.
type Stack struct {
	URL string // of the public listener
	Key string
	Dir string

	// GRPCPort is the sidecar's API, HTTPPort its other one, AppPort the
	// service's private listener, MetricsPort the sidecar's metrics.
	GRPCPort, HTTPPort, AppPort, MetricsPort int

	// With Options.Cosmos: the emulator as its proxy serves it, and that proxy.
	Cosmos      cosmos.Emulator
	CosmosProxy *cosmos.Proxy

	options   Options
	group     *process.Group
	processes map[string]*process.Process
	dapr      *sidecar.Client
	scheduler dapr.Scheduler
	server    *http.Server // of the proxy
	temporary bool
	unlock    func()

	cancel   context.CancelFunc // of the subscription
	failed   chan struct{}      // closed when a process ended by itself
	err      error              // set before failed is closed
	failOnce sync.Once
	stopOnce sync.Once
}

// The names of the processes.
const (
	SchedulerProcess = "scheduler"
	PlacementProcess = "placement"
	SidecarProcess   = "daprd"
	ServiceProcess   = "service"
	CosmosProcess    = "cosmos"
)

// startTimeout is how long the stack may take to be ready. After a kill -9 of
// everything, placement takes up to half a minute to forget the old sidecar.
const startTimeout = 90 * time.Second

// Root returns the root directory of the repository that the working directory
// is in.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", errors.New("cannot run the go tool; is Go on the PATH?")
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(root, "app", "local", "runtime", "go.mod")); err != nil {
		return "", errors.New("this is not the repository; run it from the directory that holds dapr.yaml")
	}
	return root, nil
}

// testTime is what a test needs behind a build of Dapr.
const testTime = 3 * time.Minute

// PrepareTest is for tests that start a stack, or a program that does. It builds
// Dapr if need be, as long as that leaves time for the tests; deadline is theirs.
func PrepareTest(ctx context.Context, deadline func() (time.Time, bool)) error {
	root, err := Root(ctx)
	if err != nil {
		return err
	}
	if err := lookAtSources(root); err != nil {
		return err
	}
	if end, ok := deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-testTime))
		defer cancel()
	}
	_, err = dapr.Find(ctx, root, dapr.TestProgress())
	return err
}

// lookAtSources stats every file that a stack is made of. `go test` keeps a
// result for as long as the files that the test itself has looked at stay the
// same; without this it would answer "(cached)" after a change of the service,
// which the go tool and daprd read in processes of their own.
func lookAtSources(root string) error {
	for _, dir := range []string{"app", "components"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look at the sources: %w", err)
		}
	}
	return nil
}

// Start starts a stack. It returns when webhooks can be posted, or with an
// error and nothing left running.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	if o.Progress == nil {
		o.Progress = func(string, bool) {}
	}
	root, err := Root(ctx)
	if err != nil {
		return nil, err
	}
	if err := publicPort(&o.Port); err != nil {
		return nil, err
	}
	s := &Stack{Key: o.Key, URL: "http://localhost:" + strconv.Itoa(o.Port), options: o,
		processes: map[string]*process.Process{}, failed: make(chan struct{}), cancel: func() {}, unlock: func() {}}
	if err := s.directory(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop(err)
		}
	}()
	programs, err := dapr.Find(ctx, root, o.Progress)
	if err != nil {
		return nil, err
	}
	if s.group, err = process.NewGroup(); err != nil {
		return nil, err
	}
	if err := BuildService(ctx, root, s.service(), s.options.Race); err != nil {
		return nil, err
	}
	if err := s.start(ctx, root, programs); err != nil {
		return nil, err
	}
	return s, nil
}

// directory makes the stack's directory its own.
func (s *Stack) directory() (err error) {
	dir := s.options.Dir
	if dir == "" {
		s.temporary = true
		if dir, err = os.MkdirTemp("", AppID+"-"); err != nil {
			return fmt.Errorf("temporary directory: %w", err)
		}
	}
	if s.Dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, "logs"), 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("another stack uses %s; stop it, or choose another -data", s.Dir)
	}
	s.unlock = func() { lock.Close() }
	return nil
}

func (s *Stack) service() string { return filepath.Join(s.Dir, "service") }

func (s *Stack) start(ctx context.Context, root string, programs dapr.Programs) error {
	scheduler, placement := &s.scheduler, dapr.Placement{Dir: s.Dir}
	scheduler.Dir = s.Dir
	daprd := dapr.Sidecar{AppID: AppID, Dir: s.Dir, Components: filepath.Join(root, "components", "local")}
	if err := FreePorts(
		&scheduler.Port, &scheduler.HealthPort, &scheduler.EtcdClientPort, &scheduler.EtcdPeerPort,
		&placement.Port, &placement.HealthPort, &placement.RaftPort,
		&daprd.AppPort, &daprd.HTTPPort, &daprd.GRPCPort, &daprd.InternalPort, &daprd.MetricsPort,
	); err != nil {
		return err
	}
	if s.options.Cosmos {
		var err error
		if daprd.Components, err = s.startCosmos(ctx, root); err != nil {
			return err
		}
	}
	daprd.PlacementPort, daprd.SchedulerPort = placement.Port, scheduler.Port
	s.AppPort, s.GRPCPort, s.HTTPPort, s.MetricsPort = daprd.AppPort, daprd.GRPCPort, daprd.HTTPPort, daprd.MetricsPort

	for _, c := range []struct {
		name string
		cmd  *exec.Cmd
	}{
		{SchedulerProcess, scheduler.Command(programs)},
		{PlacementProcess, placement.Command(programs)},
		{SidecarProcess, daprd.Command(programs)},
	} {
		if err := s.run(c.name, c.cmd, nil); err != nil {
			return err
		}
	}

	// Subscribed before the service starts: the in-memory topic keeps nothing
	// for later, and a reminder may be due the moment that the actors are there.
	var err error
	if s.dapr, err = sidecar.Dial(s.GRPCPort, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.subscribe(ctx); err != nil {
		return err
	}
	if err := s.run(ServiceProcess, s.serviceCommand(), s.options.ServiceLog); err != nil {
		return err
	}
	return s.until(ctx, "the stack is not ready", func() error {
		if err := get(s.URL + "/readyz"); err != nil {
			return err
		}
		// After a kill -9 the scheduler is deaf until its old self's lease is
		// over, 20 s or so. New notifications need it.
		err := get(fmt.Sprintf("http://127.0.0.1:%d/v1.0/actors/Notification/none/reminders/none", s.HTTPPort))
		if err != nil {
			s.options.Progress("The service is ready; waiting for Dapr's scheduler, which takes up to half a minute after a kill -9.", true)
		}
		return err
	})
}

// startCosmos returns the directory of the components that use the emulator.
func (s *Stack) startCosmos(ctx context.Context, root string) (components string, err error) {
	var emulator cosmos.Emulator
	if err := FreePorts(&emulator.Port, &s.Cosmos.Port); err != nil {
		return "", err
	}
	s.CosmosProxy = cosmos.NewProxy(emulator, s.Cosmos)
	if s.server, err = s.Cosmos.Serve(s.CosmosProxy); err != nil {
		return "", err
	}
	program := filepath.Join(s.Dir, "cosmium")
	if err := cosmos.Build(ctx, root, program); err != nil {
		return "", err
	}
	if err := s.run(CosmosProcess, emulator.Command(program), nil); err != nil {
		return "", err
	}
	components = filepath.Join(s.Dir, "components")
	containers, err := s.Cosmos.Components(root, components)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return components, s.until(ctx, "the Cosmos DB emulator is not ready", func() error {
		for _, c := range containers {
			if err := emulator.Create(ctx, c.Database, c.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Stack) serviceCommand() *exec.Cmd {
	return Service{
		Port: s.options.Port, AppPort: s.AppPort, GRPCPort: s.GRPCPort,
		Regions: s.options.Regions, Timeout: s.options.Timeout, Key: s.Key,
		Dir: s.Dir, Settings: s.options.Settings,
	}.Command(s.service())
}

// run starts a process, and ends the stack when that ends.
func (s *Stack) run(name string, cmd *exec.Cmd, log io.Writer) error {
	if log == nil {
		f, err := os.OpenFile(s.logPath(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("log of %s: %w", name, err)
		}
		defer f.Close() // the child has its own
		log = f
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Args[0] = filepath.Join(s.Dir, name) // so that ps tells whose it is
	p, err := s.group.Start(name, cmd)
	if err != nil {
		return err
	}
	s.processes[name] = p
	go func() {
		<-p.Done()
		s.fail(fmt.Errorf("%s ended (%s)%s", name, exitOf(p.Err()), s.lastWords(name)))
	}()
	return nil
}

func exitOf(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (s *Stack) logPath(name string) string { return filepath.Join(s.Dir, "logs", name+".log") }

// fatal finds what a process says of its own end: Dapr's or the service's log
// line, or a panic.
var fatal = regexp.MustCompile(`level=fatal msg="((?:[^"\\]|\\.)*)"|"msg":"stopped","err":"((?:[^"\\]|\\.)*)"|(?:^|\n)(panic: [^\n]*)`)

func (s *Stack) lastWords(name string) string {
	data, err := os.ReadFile(s.logPath(name))
	if err != nil {
		return "" // it goes elsewhere, where somebody sees it
	}
	words := "; its log: " + s.logPath(name)
	if all := fatal.FindAllSubmatch(data, -1); len(all) > 0 {
		words = ": " + string(bytes.Join(all[len(all)-1][1:], nil)) + words
	}
	return words
}

func (s *Stack) fail(err error) {
	s.failOnce.Do(func() {
		s.err = err
		close(s.failed)
	})
}

// subscribe hands events to Options.Events until the stack stops.
func (s *Stack) subscribe(ctx context.Context) error {
	if s.options.Events == nil {
		return nil
	}
	streamCtx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	topic := s.dapr.Topic(PubSub, Topic)
	return s.until(ctx, "cannot subscribe to the topic", func() error {
		subscribed := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			err := topic.Subscribe(streamCtx, func() { close(subscribed) }, s.options.Events)
			ended <- err
			select {
			case <-subscribed:
				if err != nil {
					s.fail(err)
				}
			default:
			}
		}()
		select {
		case <-subscribed:
			return nil
		case err := <-ended:
			return err
		}
	})
}

// until repeats try until it succeeds, ctx ends, or a process dies.
func (s *Stack) until(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-s.failed:
			return s.err
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w; logs: %s", what, err, filepath.Join(s.Dir, "logs"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var problem struct{ Detail string }
	json.NewDecoder(resp.Body).Decode(&problem)
	return fmt.Errorf("%s: %s", resp.Status, problem.Detail)
}

// Failed is closed when a process ended that should not have; Err says which.
func (s *Stack) Failed() <-chan struct{} { return s.failed }

// Err is why Failed is closed.
func (s *Stack) Err() error { return s.err }

// Process returns the process with one of the names above.
func (s *Stack) Process(name string) *process.Process { return s.processes[name] }

// Dapr is a client of the stack's sidecar.
func (s *Stack) Dapr() *sidecar.Client { return s.dapr }

// Reminders lists the reminders of all actors of a type, as the scheduler keeps them.
func (s *Stack) Reminders(ctx context.Context, actorType string) ([]dapr.Reminder, error) {
	return s.scheduler.Reminders(ctx, actorType)
}

// Stop stops every process in order: the service first, which may need the
// others to end what it has under way.
func (s *Stack) Stop() { s.stop(nil) }

func (s *Stack) stop(cause error) {
	s.stopOnce.Do(func() {
		if s.group != nil {
			s.group.Stop(12 * time.Second)
		}
		s.end(cause)
	})
}

// Kill ends every process at once, as a power failure would. State in Dir stays.
func (s *Stack) Kill() {
	s.stopOnce.Do(func() {
		s.group.Kill()
		s.end(nil)
	})
}

// end leaves the logs to somebody who wants to know why the stack failed.
func (s *Stack) end(cause error) {
	s.cancel()
	if s.dapr != nil {
		s.dapr.Close()
	}
	if s.server != nil {
		s.server.Close()
	}
	s.unlock()
	if s.temporary && (cause == nil || len(s.processes) == 0) {
		os.RemoveAll(s.Dir)
	}
}
