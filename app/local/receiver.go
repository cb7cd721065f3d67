package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver is a target on this machine: it prints what it gets.
func receiver(ctx context.Context, args []string) error {
	r := receiverHandler{out: os.Stdout}
	var port int
	flags := flag.NewFlagSet("receiver", flag.ContinueOnError)
	flags.IntVar(&port, "port", 9090, "port, on 127.0.0.1; 0 for any free one")
	flags.StringVar(&r.secret, "secret", "", "secret with which signatures are verified (default: a new one)")
	flags.IntVar(&r.status, "status", http.StatusNoContent, "HTTP status to answer with; 503 shows retries, 410 ends the target")
	if err := parse(flags, args); err != nil {
		return err
	}
	if r.status < 200 || r.status > 599 {
		return fmt.Errorf("-status: %d is not an HTTP status from 200 to 599", r.status)
	}
	if r.secret == "" {
		key := make([]byte, 24)
		rand.Read(key)
		r.secret = "whsec_" + base64.StdEncoding.EncodeToString(key)
	}
	if _, err := standardwebhooks.NewWebhook(r.secret); err != nil {
		return errors.New("-secret: not whsec_ and base64 behind it")
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("-port: %w", err)
	}
	fmt.Fprintf(os.Stderr, `A file for -targets of go run ./app/local up:

- name: receiver
  type: webhook
  url: http://%s/
  secret: %s
- name: as-acr
  type: acr
  url: http://%s/acr

What comes is printed. Ctrl-C stops it.
`, listener.Addr(), r.secret, listener.Addr())

	server := &http.Server{Handler: &r, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// receiverHandler prints requests, one at a time.
type receiverHandler struct {
	secret string
	status int

	mu  sync.Mutex
	out io.Writer
}

func (h *receiverHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status := h.status
	signature := "not signed"
	if r.Header.Get("webhook-signature") != "" {
		signature = "signature verified"
		wh, err := standardwebhooks.NewWebhook(h.secret)
		if err == nil {
			err = wh.Verify(body, r.Header)
		}
		if err != nil {
			signature, status = "SIGNATURE WRONG: "+err.Error(), http.StatusUnauthorized
		}
	}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "  ", "  ") != nil {
		indented.Reset()
		indented.Write(body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(h.out, "%s %s %s, %s, answered %d\n", time.Now().Format(time.TimeOnly), r.Method, r.URL.Path, signature, status)
	for _, name := range []string{"webhook-id", "user-agent", "content-type"} {
		if value := r.Header.Get(name); value != "" {
			fmt.Fprintf(h.out, "  %s: %s\n", name, value)
		}
	}
	fmt.Fprintf(h.out, "  %s\n", &indented)
	w.WriteHeader(status)
}
