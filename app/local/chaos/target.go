package chaos

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"allregions/app/local/process"
)

// The troubles of the target.
const (
	targetSlow trouble = "slow target" // answers after the service has given up
	targetDead trouble = "dead target" // closes the connection without an answer
)

// targetPause is how long a slow target takes: an attempt may take 10 s.
const targetPause = 12 * time.Second

// target is a receiver of notifications, as users have them: it takes each event
// that it can answer to.
type target struct {
	troubled
	server *http.Server

	gotMu sync.Mutex
	got   map[string][]string // bodies, by the event's id
}

// newTarget returns a target that listens on this machine.
func newTarget() (t *target, err error) {
	t = &target{got: map[string][]string{}}
	t.server, err = process.Serve(t)
	return t, err
}

// settings are the service's NOTIFY_TARGETS.
func (t *target) settings() string {
	return fmt.Sprintf(`[{"name": "chaos", "type": "webhook", "url": "http://%s/", "secret": "whsec_%s"}]`, t.server.Addr,
		base64.StdEncoding.EncodeToString([]byte("the secret of the target of chaos")))
}

func (t *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch t.hit(func(trouble) bool { return true }) {
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
	t.gotMu.Lock()
	defer t.gotMu.Unlock()
	t.got[id] = append(t.got[id], string(body))
}

// received is what came, by the event's id, each as often as it came.
func (t *target) received() map[string][]string {
	t.gotMu.Lock()
	defer t.gotMu.Unlock()
	return maps.Clone(t.got)
}
