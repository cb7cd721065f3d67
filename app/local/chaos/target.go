package chaos

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// targetTrouble is what the target does to deliveries.
type targetTrouble string

const (
	targetSlow targetTrouble = "slow target" // answers after the service has given up
	targetDead targetTrouble = "dead target" // closes the connection without an answer
)

// targetPause is how long a slow target takes: an attempt may take 10 s.
const targetPause = 12 * time.Second

// target is a receiver of notifications, as users have them: it takes each event
// that it can answer to.
type target struct {
	server *http.Server
	url    string

	mu   sync.Mutex
	now  targetTrouble       // "" for none
	got  map[string][]string // bodies, by the event's id
	hits map[string]int      // requests that were hit, by trouble
}

// newTarget returns a target that listens on this machine.
func newTarget() (*target, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	t := &target{url: "http://" + l.Addr().String() + "/", got: map[string][]string{}, hits: map[string]int{}}
	t.server = &http.Server{Handler: t, ReadHeaderTimeout: 10 * time.Second}
	go t.server.Serve(l)
	return t, nil
}

// settings are the service's NOTIFY_TARGETS.
func (t *target) settings() string {
	return fmt.Sprintf(`[{"name": "chaos", "type": "webhook", "url": %q, "secret": "whsec_%s"}]`, t.url,
		base64.StdEncoding.EncodeToString([]byte("the secret of the target of chaos")))
}

// set begins trouble, or ends it with "".
func (t *target) set(trouble targetTrouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = trouble
}

func (t *target) trouble() targetTrouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != "" {
		t.hits[string(t.now)]++
	}
	return t.now
}

func (t *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch t.trouble() {
	case targetDead:
		panic(http.ErrAbortHandler) // closes the connection without an answer
	case targetSlow:
		select {
		case <-time.After(targetPause):
		case <-r.Context().Done():
			return
		}
	}
	id := r.Header.Get("webhook-id")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got[id] = append(t.got[id], string(body))
}

// received is what came, by the event's id, each as often as it came.
func (t *target) received() map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.got)
}

// counts says how many requests each trouble has hit.
func (t *target) counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.hits)
}

func (t *target) close() { t.server.Close() }
