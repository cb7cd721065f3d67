package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// LookForRedis returns the path of redis-server, the one program that this
// package neither builds nor finds in this repository.
func LookForRedis() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("no redis-server on the PATH, which is the broker here; Debian has it in the package redis-server")
	}
	return path, nil
}

// broker is a Redis on 127.0.0.1. What it has acknowledged survives its kill -9
// in dir.
type broker struct {
	program, dir string
	port         int
}

func (b broker) address() string { return "127.0.0.1:" + strconv.Itoa(b.port) }

func (b broker) command() *exec.Cmd {
	return exec.Command(b.program, "--bind", "127.0.0.1", "--port", strconv.Itoa(b.port), "--dir", b.dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "")
}

// writeComponent writes the component that makes this the broker, in place of
// the one that is in the directory.
func (b broker) writeComponent(components, name, scope string) error {
	data := fmt.Sprintf(redisComponent, name, b.address(), 10_000, 5_000, scope)
	if err := os.WriteFile(filepath.Join(components, "pubsub.yaml"), []byte(data), 0o644); err != nil {
		return fmt.Errorf("write the broker's component: %w", err)
	}
	return nil
}

// redisComponent wants a name, an address, two times in milliseconds, and an app's id.
// Dapr overlooks a redeliverInterval in any other unit.
const redisComponent = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: %s
spec:
  type: pubsub.redis
  version: v1
  metadata:
    - name: redisHost
      value: %q
    - name: processingTimeout
      value: "%d"
    - name: redeliverInterval
      value: "%d"
scopes:
  - %s
`

// entry is one entry of a stream.
type entry struct {
	id     string
	fields map[string]string
}

// stored is when Redis took the entry: the milliseconds that its id begins with.
func (e entry) stored() (time.Time, error) {
	ms, _, _ := strings.Cut(e.id, "-")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("entry %q: %w", e.id, err)
	}
	return time.UnixMilli(n), nil
}

// entries returns what is on a stream after the entry with that id; "" is the
// begin.
func (b broker) entries(ctx context.Context, stream, after string) ([]entry, error) {
	begin := "-"
	if after != "" {
		begin = "(" + after
	}
	reply, err := b.do(ctx, "XRANGE", stream, begin, "+")
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	list, _ := reply.([]any)
	var all []entry
	for _, item := range list {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("read stream %s: an entry with %d parts", stream, len(pair))
		}
		e := entry{fields: map[string]string{}}
		e.id, _ = pair[0].(string)
		values, _ := pair[1].([]any)
		for i := 0; i+1 < len(values); i += 2 {
			name, _ := values[i].(string)
			e.fields[name], _ = values[i+1].(string)
		}
		all = append(all, e)
	}
	return all, nil
}

// do sends one command on a connection of its own.
func (b broker) do(ctx context.Context, args ...string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", b.address())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(conn, request.String()); err != nil {
		return nil, err
	}
	return readReply(bufio.NewReader(conn))
}

// readReply reads one value of Redis' protocol, RESP 2: a string, an int64, a
// []any, or nil. An error of Redis is an error.
func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, errors.New("redis: an empty line")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return nil, errors.New("redis: " + rest)
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("redis: %q: %w", line, err)
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		data := make([]byte, n+2)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil, err
		}
		return string(data[:n]), nil
	case kind == '*':
		list := make([]any, 0, min(n, 1024))
		for range n {
			item, err := readReply(r)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	}
	return nil, fmt.Errorf("redis: %q", line)
}
