package stack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"allregions/app/local/process"
)

// Redis is a broker on 127.0.0.1. What it has acknowledged survives its kill -9 in
// Dir.
type Redis struct {
	Port int
	Dir  string
}

// FindRedis returns an error without redis-server and redis-cli, the programs that
// this repository neither builds nor brings.
func FindRedis() error {
	_, server := exec.LookPath("redis-server")
	_, client := exec.LookPath("redis-cli")
	if server != nil || client != nil {
		return errors.New("no redis-server and redis-cli on the PATH, which are the broker here; Debian has both in the package redis-server")
	}
	return nil
}

// Command is the broker's command line.
func (r Redis) Command() *exec.Cmd {
	return exec.Command("redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(r.Port), "--dir", r.Dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "")
}

// startRedis starts the broker, and writes its component in place of the one in the
// directory.
func (s *Stack) startRedis(ctx context.Context, components string) error {
	s.Redis.Dir = filepath.Join(s.Dir, RedisProcess)
	if err := errors.Join(FindRedis(), os.MkdirAll(s.Redis.Dir, 0o755), process.FreePorts(&s.Redis.Port)); err != nil {
		return err
	}
	if err := s.Redis.WriteComponent(components, AppID, 10*time.Second, 5*time.Second); err != nil {
		return err
	}
	if err := s.run(RedisProcess, nil, s.Redis.Command); err != nil {
		return err
	}
	return process.Until(ctx, "Redis is not ready", func() error { return s.Redis.Do(ctx, nil, "PING") })
}

// WriteComponent writes the component that makes this the broker of an app. A message
// that is not acknowledged within the timeout comes again at the next interval.
func (r Redis) WriteComponent(dir, app string, timeout, interval time.Duration) error {
	// Dapr overlooks a redeliverInterval in any unit but milliseconds.
	data := fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: %s
spec:
  type: pubsub.redis
  version: v1
  metadata:
    - {name: redisHost, value: "127.0.0.1:%d"}
    - {name: processingTimeout, value: "%d"}
    - {name: redeliverInterval, value: "%d"}
scopes: [%s]
`, PubSub, r.Port, timeout.Milliseconds(), interval.Milliseconds(), app)
	if err := os.WriteFile(filepath.Join(dir, "pubsub.yaml"), []byte(data), 0o644); err != nil {
		return fmt.Errorf("write the broker's component: %w", err)
	}
	return nil
}

// Message is one message of a topic.
type Message struct {
	ID   string
	Data string
}

// messagesAtATime is how many messages one command reads: redis-cli has 10 s.
const messagesAtATime = "10000"

// Messages returns what is on a topic after the message with that id, up to some number
// of them; "" is the begin.
func (r Redis) Messages(ctx context.Context, topic, after string) ([]Message, error) {
	var entries [][2]json.RawMessage // id, and a list of names and values
	if err := r.Do(ctx, &entries, "XRANGE", topic, "("+cmp.Or(after, "0-0"), "+", "COUNT", messagesAtATime); err != nil {
		return nil, err
	}
	var messages []Message
	for _, e := range entries {
		var m Message
		var fields []string
		if err := errors.Join(json.Unmarshal(e[0], &m.ID), json.Unmarshal(e[1], &fields)); err != nil {
			return nil, fmt.Errorf("read topic %s: %w", topic, err)
		}
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "data" {
				m.Data = fields[i+1]
			}
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// Do sends one command, and decodes the answer into reply, unless that is nil.
func (r Redis) Do(ctx context.Context, reply any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-p", strconv.Itoa(r.Port), "-e", "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("redis: %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(out, reply); err != nil {
		return fmt.Errorf("redis: %s: %w", args[0], err)
	}
	return nil
}
