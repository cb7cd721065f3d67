package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/local/process"
)

// receiver is a target on this machine: it prints requests, one at a time.
type receiver struct {
	verifier *standardwebhooks.Webhook
	status   int // of its answers

	mu  sync.Mutex
	out io.Writer
}

// startReceiver starts a receiver that runs until this process ends, and returns the
// NOTIFY_TARGETS that lead to it.
func startReceiver(status int, out io.Writer) (targets string, err error) {
	var key [24]byte
	rand.Read(key[:])
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key[:])
	r := &receiver{status: status, out: out}
	if r.verifier, err = standardwebhooks.NewWebhook(secret); err != nil {
		return "", err
	}
	server, err := process.Serve(r)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`[{"name": "receiver", "type": "webhook", "url": "http://%[1]s/", "secret": %[2]q},
		{"name": "as-acr", "type": "acr", "url": "http://%[1]s/acr"}]`, server.Addr, secret), nil
}

func (h *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status, signature := h.status, "not signed"
	if r.Header.Get("webhook-signature") != "" {
		signature = "signature verified"
		if err := h.verifier.Verify(body, r.Header); err != nil {
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
	fmt.Fprintf(h.out, "%s %s %s, %s, answered %d\n  webhook-id: %s\n  %s\n",
		time.Now().Format(time.TimeOnly), r.Method, r.URL.Path, signature, status, r.Header.Get("webhook-id"), &indented)
	w.WriteHeader(status)
}
