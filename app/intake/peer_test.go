package intake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reply is what the peer of a test answers.
type reply struct {
	status            int
	contentType, body string
}

var (
	taken   = reply{202, "application/json", `{"id":"n1","status":"collecting"}`}
	stopped = reply{503, "application/problem+json", `{"detail":"stopping"}`}
)

// RoundTrip makes a reply a peer without a network.
func (r reply) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: r.status, Header: http.Header{"Content-Type": {r.contentType}}, Body: io.NopCloser(strings.NewReader(r.body))}, nil
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// once makes one try over the network, and calls end at the second.
func once(end func()) transport {
	tries := 0
	return func(r *http.Request) (*http.Response, error) {
		if tries++; tries > 1 {
			end()
			return nil, r.Context().Err()
		}
		return newConnections.RoundTrip(r)
	}
}

func webhook() Webhook {
	return Webhook{ID: "n1", Region: "West Europe", Body: []byte(`{"id":"n1"}`), Header: http.Header{"Authorization": {"Bearer s3cr3t"}}}
}

// peerAt is the peer at address, and the results that it reports.
func peerAt(t *testing.T, address string) (*Peer, *[]string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	results := &[]string{}
	return &Peer{URL: u, Handed: func(result string) { *results = append(*results, result) }, Log: slog.New(slog.DiscardHandler)}, results
}

// What a replica says for good is the answer. All else is repeated: what another
// replica may do, and what a balancer or a stranger says.
func TestWhatIsFinal(t *testing.T) {
	for name, tt := range map[string]struct {
		first  reply
		tries  int
		result string
	}{
		"news":              {taken, 1, HopAccepted},
		"a repeat":          {reply{200, "application/json", `{"id":"n1"}`}, 1, HopAccepted},
		"queued":            {reply{202, "application/json; charset=utf-8", `{"id":"n1","queued":true}`}, 1, HopAccepted},
		"a bad region":      {reply{400, "application/problem+json", `{"detail":"region"}`}, 1, HopRefused},
		"other keys":        {reply{401, "application/problem+json", `{}`}, 1, HopRefused},
		"it stops, too":     {stopped, 2, HopAccepted},
		"no replica":        {reply{404, "text/html", "this app is stopped"}, 2, HopAccepted},
		"no replica, JSON":  {reply{404, "application/json", `{"id":"n1","detail":"stopped"}`}, 2, HopAccepted},
		"a page":            {reply{200, "text/html", "<p>welcome"}, 2, HopAccepted},
		"not JSON":          {reply{202, "application/json", `{"id":"n1"`}, 2, HopAccepted},
		"another's status":  {reply{202, "application/json", `{"id":"n2"}`}, 2, HopAccepted},
		"no status":         {reply{202, "application/json", `{}`}, 2, HopAccepted},
		"something with id": {reply{203, "application/json", `{"id":"n1"}`}, 2, HopAccepted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, tries := time.Now(), 0
				p, results := peerAt(t, "https://peer.example")
				p.transport = transport(func(r *http.Request) (*http.Response, error) {
					if tries++; tries == 1 {
						return tt.first.RoundTrip(r)
					}
					return taken.RoundTrip(r)
				})
				a, err := p.HandOver(t.Context(), webhook())
				want := tt.first
				if tt.tries > 1 {
					want = taken
				}
				if err != nil || a.Status != want.status || string(a.Body) != want.body || tries != tt.tries || !slices.Equal(*results, []string{tt.result}) {
					t.Errorf("got %d %s, %v after %d tries, told %q; want %d %s after %d, %q", a.Status, a.Body, err, tries, *results, want.status, want.body, tt.tries, tt.result)
				}
				if took, want := time.Since(begin), time.Duration(tt.tries-1)*hopPause; took != want {
					t.Errorf("took %v, want %v", took, want)
				}
			})
		})
	}
}

// The sender goes on for as long as its context, and then says why.
func TestHandOverEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		peer  transport
		tries int
		want  string
	}{
		"all are stopping": {stopped.RoundTrip, 45, "in 45 tries: answered 503"},
		"none answers": {func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, 2, "in 2 tries"},
		"none is there": {func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") }, 45, "no route"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const patience = 4450 * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				begin, tries := time.Now(), 0
				p, results := peerAt(t, "https://peer.example")
				p.transport = transport(func(r *http.Request) (*http.Response, error) {
					tries++
					left := min(hopTimeout, patience-time.Since(begin))
					if got, want := r.Header.Get(HopHeader), max(0, left-hopMargin).String(); got != want {
						t.Errorf("try %d has %q left, want %q", tries, got, want)
					}
					return tt.peer(r)
				})
				_, err := p.HandOver(ctx, webhook())
				if err == nil || !strings.Contains(err.Error(), tt.want) || tries != tt.tries || !slices.Equal(*results, []string{HopFailed}) {
					t.Errorf("%v after %d tries, told %q; want %q after %d", err, tries, *results, tt.want, tt.tries)
				}
				if took := time.Since(begin); took != patience {
					t.Errorf("took %v, want %v", took, patience)
				}
			})
		})
	}
}

// The key goes in a header, to the peer alone, and nowhere else: not into the URL, an
// error or the log.
func TestHandOverKeepsTheKey(t *testing.T) {
	var got *http.Request
	var body []byte
	strangers := 0
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strangers++ }))
	defer stranger.Close()
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		http.Redirect(w, r, stranger.URL, http.StatusTemporaryRedirect)
	}))
	defer peer.Close()
	p, _ := peerAt(t, peer.URL+"/gateway")
	var log bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.transport = once(cancel)
	w := webhook()
	w.Registry = "contoso"
	_, err := p.HandOver(ctx, w)
	if err == nil || strangers != 0 || !strings.Contains(err.Error(), "answered 307") {
		t.Errorf("a redirect: %v, followed %d times", err, strangers)
	}
	if got == nil {
		t.Fatal("no request came")
	}
	if got.Method != "POST" || got.URL.String() != "/gateway/webhooks/acr?region=West+Europe&registry=contoso" || got.Header.Get("Authorization") != "Bearer s3cr3t" || got.Header.Get(HopHeader) == "" || !bytes.Equal(body, w.Body) {
		t.Errorf("got %s %s %v %s", got.Method, got.URL, got.Header, body)
	}
	if said := fmt.Sprint(err, &log); strings.Contains(said, "s3cr3t") {
		t.Errorf("the key shows: %s", said)
	}
	if w.Header.Get(HopHeader) != "" {
		t.Error("the caller's header was changed")
	}
}

// Nobody gets the key who cannot show a certificate.
func TestHandOverVerifiesTheCertificate(t *testing.T) {
	asked := 0
	peer := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++ }))
	peer.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	peer.StartTLS()
	defer peer.Close()
	p, results := peerAt(t, peer.URL)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.transport = once(cancel)
	if _, err := p.HandOver(ctx, webhook()); err == nil || !strings.Contains(err.Error(), "certificate") || asked != 0 || !slices.Equal(*results, []string{HopFailed}) {
		t.Errorf("got %v, asked %d times, told %q", err, asked, *results)
	}
}

// dapr is a Sidecar that counts how often it is asked.
type dapr struct {
	connected, refuses bool
	asked              int
}

func (d *dapr) Connected() bool { return d.connected }
func (d *dapr) Refuses() bool   { d.asked++; return d.refuses }

// A sidecar that is connected is not asked for every webhook, only for one that failed.
func TestWhenAPeerIsNeeded(t *testing.T) {
	failed := errors.New("away")
	for _, tt := range []struct {
		name   string
		dapr   dapr
		err    error
		needed bool
		asked  int
	}{
		{"all is well", dapr{connected: true}, nil, false, 0},
		{"it has just gone", dapr{connected: true, refuses: true}, nil, false, 0},
		{"it had just gone", dapr{connected: true, refuses: true}, failed, true, 1},
		{"it is away", dapr{refuses: true}, nil, true, 1},
		{"it has just come", dapr{}, nil, false, 1},
		{"something else is away", dapr{connected: true}, failed, false, 1},
		{"it is silent", dapr{}, failed, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Peer{Sidecar: &tt.dapr}
			if needed := p.NeededFor(tt.err); needed != tt.needed || tt.dapr.asked != tt.asked {
				t.Errorf("got %v, asked %d times; want %v, %d", needed, tt.dapr.asked, tt.needed, tt.asked)
			}
		})
	}
}
