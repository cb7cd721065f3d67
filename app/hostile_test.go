package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a network of its own, whose clock is synctest's.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p <- server
	return client
}

// A connection is held as long as the limits say, and no longer.
func TestSlowCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := make(pipes)
		server := newPublicServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				http.Error(w, "half a body", http.StatusBadRequest)
			}
		}), slog.New(slog.DiscardHandler))
		go server.Serve(listener)
		defer server.Close()

		const head = "POST /webhooks/acr HTTP/1.1\r\nHost: h\r\n"
		for name, tt := range map[string]struct {
			send  string
			drip  string // every second
			after time.Duration
		}{
			"nothing":      {"", "", 5 * time.Second},
			"half a line":  {"POST /webho", "", 5 * time.Second},
			"slow headers": {head, "X-A: b\r\n", 5 * time.Second},
			"slow body":    {head + "Content-Length: 100\r\n\r\n", "x", 10 * time.Second},
			"no body":      {head + "Content-Length: 100\r\n\r\n", "", 10 * time.Second},
			"idle":         {head + "Content-Length: 0\r\n\r\n", "", time.Minute},
		} {
			c, begin := listener.dial(), time.Now()
			var sender sync.WaitGroup
			sender.Go(func() {
				if _, err := io.WriteString(c, tt.send); err != nil {
					return
				}
				for tt.drip != "" {
					time.Sleep(time.Second)
					if _, err := io.WriteString(c, tt.drip); err != nil {
						return
					}
				}
			})
			io.Copy(io.Discard, c) // until the server closes it
			// A server that answers 4xx gives the caller half a second to read it.
			if took := time.Since(begin); took < tt.after || took > tt.after+time.Second {
				t.Errorf("%s: held for %v, want %v", name, took, tt.after)
			}
			c.Close()
			sender.Wait()
		}
	})
}

// Requests that two servers could read in two ways are refused, or read in the
// way of RFC 9112, and what is behind them is never taken for a request unless
// it is one by that.
func TestSmuggling(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	server := newPublicServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Method+" "+r.URL.Path+" "+string(body))
	}), slog.New(slog.DiscardHandler))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Close()

	const evil = "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, tt := range map[string]struct {
		headers, body string
		status        string
		seen          string
	}{
		"two lengths":             {"Content-Length: 3\r\nContent-Length: 40\r\n", "abc" + evil, "400", ""},
		"length and a list":       {"Content-Length: 3, 40\r\n", "abc" + evil, "400", ""},
		"signed length":           {"Content-Length: +3\r\n", "abc" + evil, "400", ""},
		"chunked twice":           {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "501", ""},
		"length and chunked":      {"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + evil, "200", "POST /webhooks/acr "},
		"chunked in disguise":     {"Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + evil, "501", ""},
		"chunked and identity":    {"Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n" + evil, "501", ""},
		"space before the colon":  {"Transfer-Encoding : chunked\r\n", "0\r\n\r\n" + evil, "400", ""},
		"folded header":           {"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "abc", "200", "POST /webhooks/acr abc"}, // part of X
		"no host":                 {"Host: other\r\n", "", "400", ""},
		"a chunk that is no size": {"Transfer-Encoding: chunked\r\n", "-1\r\nabc\r\n0\r\n\r\n", "400", ""},
		"line feed in a header":   {"X: a\nContent-Length: 3\r\n", "abc", "200", "POST /webhooks/acr abc"}, // a bare LF ends a line, in RFC 9112 too
		"plain":                   {"Content-Length: 3\r\n", "abc", "200", "POST /webhooks/acr abc"},
	} {
		mu.Lock()
		seen = nil
		mu.Unlock()
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST /webhooks/acr HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n%s\r\n%s", tt.headers, tt.body)
		c.(*net.TCPConn).CloseWrite()
		answers, _ := io.ReadAll(c)
		c.Close()
		mu.Lock()
		if got := strings.Join(seen, "; "); !strings.HasPrefix(string(answers), "HTTP/1.1 "+tt.status+" ") || got != tt.seen {
			t.Errorf("%s: handled %q, answered\n%s", name, got, answers)
		}
		mu.Unlock()
	}
}

// ten thousand connections that say nothing, or nothing more, cost neither the
// others their answers nor the container its memory.
func TestTenThousandConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	const want = 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	connections := want
	if room := int(limit.Cur) - 500; room < want { // the Go runtime has raised it as far as it goes
		connections = room
		t.Logf("this machine allows %d open files: only %d connections", limit.Cur, connections)
	}

	program := filepath.Join(t.TempDir(), "service")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	port, l1 := freePort(t)
	appPort, l2 := freePort(t)
	l1.Close()
	l2.Close()
	service := exec.Command(program)
	service.Env = []string{"PORT=" + strconv.Itoa(int(port)), "APP_PORT=" + strconv.Itoa(int(appPort)), "DAPR_GRPC_PORT=1", "WEBHOOK_REGIONS=eastus", "WEBHOOK_KEYS=k", "WEBHOOK_TOPIC=off", "GOMEMLIMIT=200MiB"}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { service.Process.Kill(); service.Wait() }()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	code(t, "http://"+address+"/healthz")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var opened, idle sync.WaitGroup
	failed := make(chan error, connections)
	for range 50 {
		opened.Add(1)
		idle.Go(func() {
			var held []net.Conn
			defer func() {
				for _, c := range held {
					c.Close()
				}
			}()
			for i := range connections / 50 {
				c, err := net.Dial("tcp", address)
				if err != nil {
					failed <- err
					break
				}
				held = append(held, c)
				if i%2 == 0 { // half of them have had an answer, and stay
					fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
					if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
						failed <- err
						break
					}
				}
			}
			opened.Done()
			<-ctx.Done()
		})
	}
	opened.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}

	// Meanwhile, others are served: on connections of their own, with and
	// without a key.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range 100 {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/webhooks/acr", strings.NewReader(`{"action":"ping"}`))
		want := http.StatusNoContent
		if i%2 == 0 {
			want = http.StatusUnauthorized
		} else {
			req.Header.Set("Authorization", "Bearer k")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("%s, want %d", resp.Status, want)
		}
	}
	if rss, err := residentMiB(service.Process.Pid); err != nil {
		t.Log(err)
	} else if rss > 300 {
		t.Errorf("the service takes %d MiB with %d connections", rss, connections)
	} else {
		t.Logf("%d MiB with %d connections", rss, connections)
	}
	cancel()
	idle.Wait()
}

// residentMiB is what a process has in memory, where /proc says so.
func residentMiB(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0, errors.New("no VmRSS")
	}
	kib, err := strconv.Atoi(string(m[1]))
	return kib / 1024, err
}
