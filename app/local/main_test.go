package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

// command is a running `local`.
type command struct {
	*exec.Cmd
	stdout *bufio.Reader
	stderr *bytes.Buffer // complete once ready or ended
	ready  chan struct{} // closed when stderr has said so, or ended
	tmp    string        // where it keeps what it needs; part of its processes' command lines
}

// launch runs a command line whose last words are those of `local`.
func launch(t *testing.T, args ...string) *command {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	root, err := stack.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
	c := &command{Cmd: exec.Command(args[0], args[1:]...), stderr: &bytes.Buffer{}, ready: make(chan struct{}), tmp: t.TempDir()}
	c.Dir = root
	c.Env = append(os.Environ(), "TMPDIR="+c.tmp, "GOTMPDIR="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(stdout)
	stderr, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		c.Wait()
	})
	go func() {
		defer close(c.ready)
		scan := bufio.NewScanner(stderr)
		for scan.Scan() {
			c.stderr.WriteString(scan.Text() + "\n")
			if strings.Contains(scan.Text(), "Ctrl-C stops everything.") {
				break
			}
		}
		go io.Copy(io.Discard, stderr)
	}()
	return c
}

func (c *command) waitReady(t *testing.T) {
	t.Helper()
	select {
	case <-c.ready:
	case <-time.After(2 * time.Minute):
		t.Fatal("not ready after two minutes")
	}
	if !strings.Contains(c.stderr.String(), "Ready.") {
		t.Fatalf("it ended:\n%s", c.stderr)
	}
}

// processes lists what runs with this command's directory in its command line.
func (c *command) processes(t *testing.T) (found []string) {
	t.Helper()
	out, err := exec.Command("ps", "-eo", "stat=,pid=,args=").Output()
	if err != nil {
		t.Skip("no ps on this machine")
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, c.tmp) && !strings.HasPrefix(line, "Z") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func (c *command) noneLeft(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left := c.processes(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left running:\n%s", strings.Join(left, "\n"))
		}
	}
}

func buildLocal(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "local")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// What up prints can be pasted, and what comes out of the topic is all that it
// writes to stdout.
func TestUp(t *testing.T) {
	t.Parallel()
	c := launch(t, buildLocal(t), "up", "-port", "0", "-regions", "eastus")
	c.waitReady(t)
	if n := len(c.processes(t)); n != 4 {
		t.Errorf("%d processes: %v", n, c.processes(t))
	}

	url := regexp.MustCompile(`http://localhost:\d+/webhooks/acr\?region=eastus&code=[a-z0-9]{20,}`).FindString(c.stderr.String())
	curl := regexp.MustCompile(`(?s)curl -i .*?}'`).FindString(c.stderr.String())
	if url == "" || curl == "" {
		t.Fatalf("no URL, or no curl, in:\n%s", c.stderr)
	}
	body := regexp.MustCompile(`-d '(.*)'`).FindStringSubmatch(curl)[1]
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil || resp.StatusCode != 202 {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	line, err := c.stdout.ReadString('\n')
	var e struct{ Type, Subject string }
	if err != nil || json.Unmarshal([]byte(line), &e) != nil || e.Type != "acr.replication.completed" || e.Subject != "shop/cart:v1.4.2" {
		t.Errorf("stdout: %q, %v", line, err)
	}
	ask := regexp.MustCompile(`curl 'http.*`).FindString(c.stderr.String())
	if _, err := exec.LookPath("curl"); err == nil {
		out, err := exec.Command("sh", "-c", curl).Output()
		if err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 200") { // the same event again
			t.Errorf("pasted: %s, %v", out, err)
		}
		out, err = exec.Command("sh", "-c", ask).Output()
		if err != nil || !strings.Contains(string(out), `"status":"replicated"`) {
			t.Errorf("%s: %s, %v", ask, out, err)
		}
	}
	// Its key may only read.
	readKey := strings.TrimSuffix(ask[strings.LastIndex(ask, " ")+1:], "'")
	if resp, err := http.Post(regexp.MustCompile("code=.*").ReplaceAllString(url, "code="+readKey), "application/json", strings.NewReader(body)); err != nil || resp.StatusCode != 403 {
		t.Errorf("a webhook with the key %q: %v, %v; want 403", readKey, resp, err)
	}

	c.Process.Signal(syscall.SIGTERM)
	rest, _ := io.ReadAll(c.stdout)
	if err := c.Wait(); err != nil || len(rest) > 0 {
		t.Errorf("ended with %v; more on stdout: %q", err, rest)
	}
	if left := c.processes(t); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

func TestUpIsKilled(t *testing.T) {
	t.Parallel()
	c := launch(t, buildLocal(t), "up", "-port", "0")
	c.waitReady(t)
	c.Process.Kill()
	c.noneLeft(t)
}

// `go run` passes a Ctrl-C on, but dies of a SIGTERM without a word to what it
// runs.
func TestGoRunIsTerminated(t *testing.T) {
	t.Parallel()
	c := launch(t, "go", "run", "./app/local", "up", "-port", "0")
	c.waitReady(t)
	c.Process.Signal(syscall.SIGTERM)
	c.noneLeft(t)
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "usage: go run ./app/local COMMAND"},
		{[]string{"help"}, 0, "usage: go run ./app/local COMMAND"},
		{[]string{"down"}, 2, "usage: go run ./app/local COMMAND"},
		{[]string{"up", "-h"}, 0, "-data"},
		{[]string{"up", "-what"}, 2, "-what"},
		{[]string{"up", "now"}, 1, `local: up takes no argument "now"`},
		{[]string{"up", "-regions", ""}, 2, "-regions: no regions"},
		{[]string{"up", "-regions", "a,a"}, 2, "-regions: region a is there twice"},
		{[]string{"up", "-timeout", "1ms"}, 1, "local: -timeout: 1ms is not between 1s and 30 days"},
		{[]string{"up", "-port", "99999"}, 1, "local: listen tcp: address 99999: invalid port; choose another -port"},
		{[]string{"up", "-key", "a,b"}, 2, "-key: one key"},
		{[]string{"up", "-targets", "nowhere.yaml"}, 2, "-targets: stat nowhere.yaml"},
		{[]string{"up", "-receiver", "7"}, 2, "-receiver: not an HTTP status"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			stderr := capture(t, func() {
				if code := run(tt.args); code != tt.code {
					t.Errorf("exit code: got %d, want %d", code, tt.code)
				}
			})
			if !strings.Contains(stderr, tt.want) {
				t.Errorf("got %q, want %q", stderr, tt.want)
			}
		})
	}
}

// capture returns what f writes to stderr.
func capture(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	old := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = old }()
	f()
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func testPlay(ctx context.Context, t *testing.T, answer int, happens func(p *push, facts chan fact)) (string, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k" {
			answer = 401
		}
		w.WriteHeader(answer)
	}))
	defer server.Close()
	p := newPush("a", "v1", []float64{0, 0, 0.01}, "completed")
	facts := make(chan fact, 10)
	happens(p, facts)
	var out strings.Builder
	err := play(ctx, &acr.Registry{LoginServer: "l", ServiceURL: server.URL, Key: "k"}, []*push{p}, facts, &out, 500*time.Millisecond)
	return out.String(), err
}

// The demo succeeds only if what was due came out of the topic, and nothing
// else.
func TestDemoFails(t *testing.T) {
	completed := func(p *push, facts chan fact) { facts <- fact{id: p.ID, outcome: "completed"} }
	shown, err := testPlay(t.Context(), t, 202, completed)
	if err != nil || !strings.Contains(shown, "NOTIFICATION acr.replication.completed") || !strings.Contains(shown, "1 pushes, 3 webhooks: each notification that was due") {
		t.Errorf("a good play: %v\n%s", err, shown)
	}
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("the stack failed"))
	for _, tt := range []struct {
		name    string
		answer  int
		happens func(*push, chan fact)
		ctx     context.Context
		want    string
	}{
		{"no notification", 202, func(*push, chan fact) {}, t.Context(), "a:v1 expected [completed], got []"},
		{"the wrong one", 202, func(p *push, facts chan fact) { facts <- fact{id: p.ID, outcome: "timedout"} }, t.Context(), "got [timedout]"},
		{"one too many", 202, func(p *push, facts chan fact) { completed(p, facts); completed(p, facts) }, t.Context(), "got [completed completed]"},
		{"an unknown one", 202, func(_ *push, facts chan fact) { facts <- fact{id: "unknown"} }, t.Context(), "nobody expected"},
		{"one that is no JSON", 202, func(p *push, facts chan fact) { facts <- fact{id: p.ID, err: errors.New("no JSON")} }, t.Context(), "no JSON"},
		{"a webhook refused", 503, completed, t.Context(), "was answered with 503"},
		{"the stack failed", 202, func(*push, chan fact) {}, stopped, "the stack failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := testPlay(tt.ctx, t, tt.answer, tt.happens); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
