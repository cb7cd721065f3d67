package stack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"allregions/app/local/dapr"
)

// BuildService builds the service as program. Root is the root of this
// repository.
func BuildService(ctx context.Context, root, program string, race bool) error {
	args := []string{"build", "-o", program}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./app")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the service: %s", dapr.LastLine(bytes.NewReader(out)))
	}
	return nil
}

// Service is one process of the service.
type Service struct {
	Port, AppPort, GRPCPort int

	Regions  []string
	Timeout  time.Duration // default: the service's
	Key      string
	Dir      string            // working directory
	Settings map[string]string // further ones, by name; they win over those above
}

// Command is the service's command line and environment.
func (s Service) Command(program string) *exec.Cmd {
	cmd := exec.Command(program)
	cmd.Dir = s.Dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "WEBHOOK_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env,
		"PORT="+strconv.Itoa(s.Port),
		"APP_PORT="+strconv.Itoa(s.AppPort),
		"DAPR_GRPC_PORT="+strconv.Itoa(s.GRPCPort),
		"WEBHOOK_REGIONS="+strings.Join(s.Regions, ","),
		"WEBHOOK_KEYS="+s.Key,
		"STATE_STORE=statestore", "IMAGE_STORE=images", "PUBSUB="+PubSub, "TOPIC="+Topic,
		"WEBHOOK_TOPIC=off", // the in-memory broker forgets
	)
	if s.Timeout > 0 {
		cmd.Env = append(cmd.Env, "WEBHOOK_TIMEOUT="+s.Timeout.String())
	}
	for name, value := range s.Settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}
