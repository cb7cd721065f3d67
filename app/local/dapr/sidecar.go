package dapr

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// Dapr 1.16 ignores the addresses that scheduler and placement are told for
// health and metrics, and opens those ports on every interface: hence no
// metrics of these two, and a health port that nobody knows.

// Scheduler keeps reminders. Its data survives a kill -9 in Dir.
type Scheduler struct {
	Port, HealthPort, EtcdClientPort, EtcdPeerPort int
	Dir                                            string
}

// Command is the scheduler's command line.
func (s Scheduler) Command(p Programs) *exec.Cmd {
	const id = "dapr-scheduler-server-0"
	cmd := exec.Command(p.Scheduler,
		"--id", id,
		"--listen-address", loopback, "--port", strconv.Itoa(s.Port),
		// Without it the scheduler tells sidecars to find it under the host's name.
		"--override-broadcast-host-port", hostPort(s.Port),
		"--healthz-listen-address", loopback, "--healthz-port", strconv.Itoa(s.HealthPort), "--enable-metrics=false",
		"--etcd-client-listen-address", loopback, "--etcd-client-port", strconv.Itoa(s.EtcdClientPort),
		"--etcd-initial-cluster", id+"=http://"+hostPort(s.EtcdPeerPort),
		"--etcd-data-dir", filepath.Join(s.Dir, "scheduler"),
		"--identity-directory-write", filepath.Join(s.Dir, "scheduler-identity"),
	)
	cmd.Dir = s.Dir
	return cmd
}

// Placement knows which sidecar hosts which actor.
type Placement struct {
	Port, HealthPort, RaftPort int
	Dir                        string
}

// Command is the placement service's command line.
func (s Placement) Command(p Programs) *exec.Cmd {
	const id = "dapr-placement-0"
	cmd := exec.Command(p.Placement,
		"--id", id,
		"--listen-address", loopback, "--port", strconv.Itoa(s.Port),
		"--initial-cluster", id+"="+hostPort(s.RaftPort),
		"--healthz-listen-address", loopback, "--healthz-port", strconv.Itoa(s.HealthPort), "--enable-metrics=false",
	)
	cmd.Dir = s.Dir
	return cmd
}

// Sidecar is one daprd.
type Sidecar struct {
	AppID                                                  string
	AppPort, HTTPPort, GRPCPort, InternalPort, MetricsPort int
	PlacementPort, SchedulerPort                           int
	Components                                             string // directory with components and config.yaml
	Dir                                                    string // where relative paths in components begin
}

// Command is the sidecar's command line.
func (s Sidecar) Command(p Programs) *exec.Cmd {
	cmd := exec.Command(p.Daprd,
		"--app-id", s.AppID,
		"--app-port", strconv.Itoa(s.AppPort), "--app-protocol", "http", "--app-channel-address", loopback,
		"--dapr-listen-addresses", loopback,
		"--dapr-http-port", strconv.Itoa(s.HTTPPort),
		"--dapr-grpc-port", strconv.Itoa(s.GRPCPort),
		"--dapr-internal-grpc-listen-address", loopback,
		"--dapr-internal-grpc-port", strconv.Itoa(s.InternalPort),
		"--metrics-listen-address", loopback, "--metrics-port", strconv.Itoa(s.MetricsPort),
		"--placement-host-address", hostPort(s.PlacementPort),
		"--scheduler-host-address", hostPort(s.SchedulerPort),
		"--resources-path", s.Components,
		"--config", filepath.Join(s.Components, "config.yaml"),
		"--dapr-graceful-shutdown-seconds", "3",
	)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "DAPR_HOST_IP="+loopback)
	return cmd
}

const loopback = "127.0.0.1"

func hostPort(port int) string { return loopback + ":" + strconv.Itoa(port) }
