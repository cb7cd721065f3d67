// Package stack runs the service and the real Dapr around it on one machine:
// scheduler, placement, and for each replica a sidecar and the service. The store
// is SQLite or an emulator of Cosmos DB, the broker is in the sidecar's memory or a
// Redis. `go run ./app/local` and the tests use it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"allregions/app/local/acr"
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

// The names of the processes. With several replicas those of service and sidecar
// have a number: see Numbered.
const (
	SchedulerProcess = "scheduler"
	PlacementProcess = "placement"
	SidecarProcess   = "daprd"
	ServiceProcess   = "service"
	CosmosProcess    = "cosmos"
	RedisProcess     = "redis"
)

// Numbered is the name of a replica's process, if there are several replicas.
func Numbered(name string, replica int) string { return name + "-" + strconv.Itoa(replica+1) }

// Options say what to run. The zero value of a field that has a default means
// the default.
type Options struct {
	Regions  []string
	Timeout  time.Duration // default: the service's
	Key      string
	ReadKey  string // which may only read; "" for none
	Port     int    // of the first replica's public listener; 0 for any free one
	Dir      string // for state and reminders, kept; default: a temporary directory, removed by Stop
	Replicas int    // default: 1

	// Events is called with every CloudEvent that comes out of the topic, one
	// at a time.
	Events func(event []byte)

	ServiceLog io.Writer // default: a file in Dir
	Program    string    // the service; default: it is built

	// Settings are further settings of the service, by name; they win over
	// those above. A service reads them when it starts.
	Settings map[string]string

	// Cosmos puts all that lasts into an emulator of Azure Cosmos DB, through the
	// components for Azure, instead of into SQLite. It forgets everything when it
	// ends.
	Cosmos bool
	// Front answers the requests for Cosmos DB; default: its proxy.
	Front func(*cosmos.Proxy) http.Handler

	// Redis is the broker that keeps messages, instead of the sidecar's memory.
	Redis bool

	// Azure has the registry of the service; nil for none.
	Azure *acr.Azure

	// Ended is called when a process has ended by itself. It is then started again.
	// Without Ended the stack fails instead.
	Ended func(name, state string)
}

// Stack is a running stack.
type Stack struct {
	URL string // of the first replica's public listener
	Key string
	Dir string

	Replicas  []Replica
	Scheduler dapr.Scheduler
	Redis     Redis  // with Options.Redis
	Cosmos    string // with Options.Cosmos: the URL of the proxy of the emulator

	options   Options
	group     *process.Group
	members   map[string]*member
	dapr      *sidecar.Client // of the first replica's sidecar
	server    *http.Server    // of Cosmos DB
	temporary bool
	unlock    func()

	// The context ends when the stack stops or fails. Its cause is why.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	stopping atomic.Bool
	stopOnce sync.Once
}

// Replica is one replica of the service, with its sidecar.
type Replica struct {
	URL     string // of the public listener
	Port    int    // of the public listener
	Sidecar dapr.Sidecar
}

// startTimeout is how long the stack may take to be ready. After a kill -9 of
// everything, placement takes up to half a minute to forget the old sidecar.
const startTimeout = 90 * time.Second

// Start starts a stack. It returns when webhooks can be posted, or with an
// error and nothing left running.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	o.Replicas = max(1, o.Replicas)
	root, err := Root(ctx)
	if err != nil {
		return nil, err
	}
	if err := publicPort(&o.Port); err != nil {
		return nil, err
	}
	s := &Stack{Key: o.Key, options: o, members: map[string]*member{}, unlock: func() {}}
	if err := s.directory(); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	defer context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })()
	defer func() {
		if err != nil {
			s.stop(err)
		}
	}()
	programs, err := dapr.Find(ctx, root, os.Stderr)
	if err != nil {
		return nil, err
	}
	if s.group, err = process.NewGroup(); err != nil {
		return nil, err
	}
	if err := s.install(ctx, root); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, startTimeout)
	defer cancel()
	if err := s.start(ctx, root, programs); err != nil {
		return nil, err
	}
	return s, nil
}

// publicPort checks the port that people chose, or chooses one for 0.
func publicPort(port *int) error {
	if *port == 0 {
		return process.FreePorts(port)
	}
	if err := process.CheckPort("", *port); err != nil {
		return fmt.Errorf("%w; choose another -port, or 0 for any", err)
	}
	return nil
}

// directory makes the stack's directory, and locks it against other stacks.
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
	if err := os.MkdirAll(s.logs(), 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	s.unlock, err = process.Lock(filepath.Join(s.Dir, "lock"))
	if errors.Is(err, process.ErrLocked) {
		return fmt.Errorf("another stack uses %s; stop it, or choose another -data", s.Dir)
	}
	return err
}

func (s *Stack) caFile() string { return filepath.Join(s.Dir, "azure.pem") }

func (s *Stack) program() string { return filepath.Join(s.Dir, "service") }

// install builds the service, or links to the one of the options.
func (s *Stack) install(ctx context.Context, root string) error {
	if s.options.Program == "" {
		return process.GoBuild(ctx, root, s.program(), "./app")
	}
	if err := os.Symlink(s.options.Program, s.program()); !errors.Is(err, fs.ErrExist) { // of an earlier start
		return err
	}
	return nil
}

func (s *Stack) start(ctx context.Context, root string, programs dapr.Programs) error {
	scheduler, placement := &s.Scheduler, dapr.Placement{Dir: s.Dir}
	scheduler.Dir = s.Dir
	if err := process.FreePorts(
		&scheduler.Port, &scheduler.HealthPort, &scheduler.EtcdClientPort, &scheduler.EtcdPeerPort,
		&placement.Port, &placement.HealthPort, &placement.RaftPort,
	); err != nil {
		return err
	}
	components, err := s.components(ctx, root)
	if err != nil {
		return err
	}
	if err := errors.Join(
		s.run(SchedulerProcess, nil, func() *exec.Cmd { return scheduler.Command(programs) }),
		s.run(PlacementProcess, nil, func() *exec.Cmd { return placement.Command(programs) }),
	); err != nil {
		return err
	}
	s.Replicas = make([]Replica, s.options.Replicas)
	s.Replicas[0].Port = s.options.Port
	for i := range s.Replicas {
		s.Replicas[i].Sidecar = dapr.Sidecar{AppID: AppID, Dir: s.Dir, Components: components, PlacementPort: placement.Port, SchedulerPort: scheduler.Port}
		if err := s.startReplica(ctx, i, programs); err != nil {
			return err
		}
	}
	return s.Ready(ctx)
}

// startReplica starts a replica on free ports.
func (s *Stack) startReplica(ctx context.Context, index int, programs dapr.Programs) error {
	r := &s.Replicas[index]
	d := &r.Sidecar
	if err := errors.Join(publicPort(&r.Port), process.FreePorts(&d.AppPort, &d.HTTPPort, &d.GRPCPort, &d.InternalPort, &d.MetricsPort)); err != nil {
		return err
	}
	r.URL = "http://localhost:" + strconv.Itoa(r.Port)
	s.URL = s.Replicas[0].URL
	if azure := s.options.Azure; azure != nil && index == 0 {
		azure.ServiceURL = s.URL
		if err := os.WriteFile(s.caFile(), azure.CA, 0o644); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	if err := s.run(s.Name(SidecarProcess, index), nil, func() *exec.Cmd { return d.Command(programs) }); err != nil {
		return err
	}
	if index == 0 {
		// Before the service starts: the topic in memory keeps nothing for later, and
		// a reminder may be due the moment that the actors are there.
		if err := s.subscribe(ctx); err != nil {
			return err
		}
	}
	return s.run(s.Name(ServiceProcess, index), s.options.ServiceLog, func() *exec.Cmd { return s.service(*r) })
}

// Name is the name of a replica's process.
func (s *Stack) Name(kind string, replica int) string {
	if s.options.Replicas == 1 {
		return kind
	}
	return Numbered(kind, replica)
}

// service is a replica's command line and environment.
func (s *Stack) service(r Replica) *exec.Cmd {
	cmd := exec.Command(s.program())
	cmd.Dir = s.Dir
	settings := map[string]string{
		"PORT": strconv.Itoa(r.Port), "APP_PORT": strconv.Itoa(r.Sidecar.AppPort), "DAPR_GRPC_PORT": strconv.Itoa(r.Sidecar.GRPCPort),
		"WEBHOOK_REGIONS": strings.Join(s.options.Regions, ","), "WEBHOOK_KEYS": s.Key, "READ_KEYS": s.options.ReadKey,
		"STATE_STORE": "statestore", "IMAGE_STORE": "images", "PUBSUB": PubSub, "TOPIC": Topic,
		"WEBHOOK_TOPIC": "off", // the broker in memory forgets
	}
	if s.options.Timeout > 0 {
		settings["WEBHOOK_TIMEOUT"] = s.options.Timeout.String()
	}
	if s.options.Azure != nil {
		maps.Copy(settings, s.options.Azure.Settings(s.caFile()))
	}
	maps.Copy(settings, s.options.Settings)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "WEBHOOK_") })
	for name, value := range settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// components starts the store and the broker that are not the sidecar's. It returns
// the directory of the components that use them.
func (s *Stack) components(ctx context.Context, root string) (dir string, err error) {
	dir = filepath.Join(s.Dir, "components")
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(root, "components", "local")))); err != nil {
		return "", fmt.Errorf("components: %w", err)
	}
	if s.options.Redis {
		if err := s.startRedis(ctx, dir); err != nil {
			return "", err
		}
	}
	if s.options.Cosmos {
		if err := s.startCosmos(ctx, root, dir); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (s *Stack) startCosmos(ctx context.Context, root, components string) error {
	var emulator cosmos.Emulator
	if err := process.FreePorts(&emulator.Port); err != nil {
		return err
	}
	proxy := cosmos.NewProxy(emulator)
	var front http.Handler = proxy
	if s.options.Front != nil {
		front = s.options.Front(proxy)
	}
	var err error
	if s.server, err = process.Serve(front); err != nil {
		return err
	}
	s.Cosmos = "http://" + s.server.Addr
	program := filepath.Join(s.Dir, "cosmium")
	if err := cosmos.Build(ctx, root, program); err != nil {
		return err
	}
	if err := s.run(CosmosProcess, nil, func() *exec.Cmd { return emulator.Command(program) }); err != nil {
		return err
	}
	containers, err := cosmos.WriteComponents(root, components, s.Cosmos)
	if err != nil {
		return err
	}
	return process.Until(ctx, "the Cosmos DB emulator is not ready", func() error { return emulator.Create(containers...) })
}

// subscribe dials the first sidecar, and calls Options.Events until the stack stops.
func (s *Stack) subscribe(ctx context.Context) (err error) {
	if s.dapr, err = sidecar.Dial(s.Replicas[0].Sidecar.GRPCPort, nil); err != nil || s.options.Events == nil {
		return err
	}
	return process.Until(ctx, "cannot subscribe to the topic", func() error {
		first := make(chan error, 2) // nil when it is subscribed, or why it is not
		go func() {
			subscribed := false
			err := s.Replicas[0].Sidecar.Subscribe(s.ctx, PubSub, Topic, func() { subscribed = true; first <- nil }, s.options.Events)
			if subscribed && err != nil {
				s.cancel(err)
			}
			first <- err
		}()
		return <-first
	})
}

// Ready returns when every replica takes webhooks and reaches the scheduler.
func (s *Stack) Ready(ctx context.Context) error {
	return process.Until(ctx, "the stack is not ready; logs: "+s.logs(), func() error {
		for i, r := range s.Replicas {
			if err := Get(ctx, r.URL+"/readyz", "", nil); err != nil {
				return fmt.Errorf("%s: %w", s.Name(ServiceProcess, i), err)
			}
			// After a kill -9 the scheduler does not answer until its old lease is over,
			// 20 s or so. New notifications need it.
			if err := Get(ctx, fmt.Sprintf("http://127.0.0.1:%d/v1.0/actors/Notification/none/reminders/none", r.Sidecar.HTTPPort), "", nil); err != nil {
				return fmt.Errorf("%s: %w", s.Name(SidecarProcess, i), err)
			}
		}
		return nil
	})
}

// Failed is closed when the stack has stopped, or a process has ended that should not
// have; Err says which.
func (s *Stack) Failed() <-chan struct{} { return s.ctx.Done() }

// Err is why Failed is closed.
func (s *Stack) Err() error { return context.Cause(s.ctx) }

// Dapr is a client of the first replica's sidecar.
func (s *Stack) Dapr() *sidecar.Client { return s.dapr }

// Stop stops every process in order: the service first, which may need the
// others to end what it has under way.
func (s *Stack) Stop() { s.stop(nil) }

// Kill ends every process at once, as a power failure would. State in Dir stays.
func (s *Stack) Kill() { s.end(nil, (*process.Group).Kill) }

func (s *Stack) stop(cause error) {
	s.end(cause, func(g *process.Group) { g.Stop(12 * time.Second) })
}

// end ends the processes. It leaves the logs to somebody who wants to know why the
// stack failed.
func (s *Stack) end(cause error, stop func(*process.Group)) {
	s.stopOnce.Do(func() {
		s.stopping.Store(true)
		if s.group != nil {
			stop(s.group)
		}
		s.cancel(nil)
		if s.dapr != nil {
			s.dapr.Close()
		}
		if s.server != nil {
			s.server.Close()
		}
		s.unlock()
		if s.temporary && (cause == nil || len(s.members) == 0) {
			os.RemoveAll(s.Dir)
		}
	})
}
