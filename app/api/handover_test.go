package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/replication"
)

// peer is a Peer that answers what it is told to.
type peer struct {
	away, gone bool // the sidecar refuses connections: before, or after the event was added
	answer     intake.Answer
	err        error

	handed []intake.Webhook
	within time.Duration
}

func (p *peer) NeededFor(err error) bool { return p.away || p.gone && err != nil }

func (p *peer) HandOver(ctx context.Context, w intake.Webhook) (intake.Answer, error) {
	deadline, _ := ctx.Deadline()
	p.handed, p.within = append(p.handed, w), time.Until(deadline)
	return p.answer, p.err
}

// A webhook goes to another replica if the sidecar of this one refuses connections, and
// for no other reason.
func TestWhatIsHandedOver(t *testing.T) {
	news := intake.Answer{Status: 202, Body: []byte(`{"id":"a","status":"collecting"}`)}
	const hopped = "2s"
	for _, tt := range []struct {
		name, target, body, hop string
		peer                    peer
		regions                 Regions
		err                     error // of adding it here
		want                    int
		said                    string // in the answer
		handed, added           int
		received                string
	}{
		{"the sidecar is there", "?region=eastus", push, "", peer{answer: news}, nil, nil, 202, `"id":"a"`, 0, 1, "eastus started"},
		{"it is away", "?region=eastus", push, "", peer{away: true, answer: news}, nil, nil, 202, string(news.Body), 1, 0, ""},
		{"a repeat", "?region=eastus", push, "", peer{away: true, answer: intake.Answer{Status: 200, Body: news.Body}}, nil, nil, 200, string(news.Body), 1, 0, ""},
		{"no region is judged", "", push, "", peer{away: true, answer: news}, nil, nil, 202, string(news.Body), 1, 0, ""},
		{"no region is known", "?region=eastus", push, "", peer{away: true, answer: news}, noRegions{}, nil, 202, string(news.Body), 1, 0, ""},
		{"it goes meanwhile", "?region=eastus", push, "", peer{gone: true, answer: news}, nil, errors.New("EOF"), 202, string(news.Body), 1, 1, ""},
		{"something else fails", "?region=eastus", push, "", peer{answer: news}, nil, errors.New("slow"), 503, "could not be reached", 0, 1, "eastus failed"},
		{"the webhook is wrong", "?region=mars", push, "", peer{gone: true, answer: news}, nil, &notification.RefusedError{Region: "mars"}, 400, "mars", 0, 1, " refused"},
		{"the peer says that it is wrong", "?region=mars", push, "", peer{away: true, answer: intake.Answer{Status: 400, Detail: "not mars"}}, nil, nil, 400, "not mars", 1, 0, ""},
		{"the peer has other keys", "?region=eastus", push, "", peer{away: true, answer: intake.Answer{Status: 401}}, nil, nil, 401, "Unauthorized", 1, 0, ""},
		{"nobody takes it", "?region=eastus", push, "", peer{away: true, err: errors.New("none")}, nil, nil, 503, "could not be reached", 1, 0, "eastus failed"},
		{"nobody takes it, and its region is made up", "?region=mars", push, "", peer{away: true, err: errors.New("none")}, nil, nil, 503, "could not be reached", 1, 0, " failed"},
		{"it has hopped", "?region=eastus", push, hopped, peer{away: true, answer: news}, nil, nil, 503, "another replica", 0, 0, ""},
		{"it has hopped, and the sidecar goes", "?region=eastus", push, hopped, peer{gone: true, answer: news}, nil, errors.New("EOF"), 503, "another replica", 0, 1, ""},
		{"it has hopped, and is taken", "?region=eastus", push, hopped, peer{answer: news}, nil, nil, 202, `"id":"a"`, 0, 1, "eastus started"},
		{"it has hopped, and fails", "?region=eastus", push, hopped, peer{answer: news}, nil, errors.New("slow"), 503, "could not be reached", 0, 1, ""},
		{"it has hopped, and is wrong", "?region=mars", push, hopped, peer{answer: news}, nil, &notification.RefusedError{Region: "mars"}, 400, "mars", 0, 1, " refused"},
		{"a ping", "?region=eastus", `{"action":"ping"}`, "", peer{away: true, answer: news}, nil, nil, 204, "", 0, 0, ""},
		{"not JSON", "?region=eastus", `{`, "", peer{away: true, answer: news}, nil, nil, 400, "JSON", 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, received := &backend{result: started(), err: tt.err}, ""
			h := newHandler(b, io.Discard)
			h.config.Peer = &tt.peer
			if tt.regions != nil {
				h.config.Regions = tt.regions
			}
			h.config.Received = func(region replication.Region, result string) { received += string(region) + " " + result }
			w := call(h, "POST", "/webhooks/acr"+tt.target, tt.body, intake.HopHeader, tt.hop)
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.said) || len(tt.peer.handed) != tt.handed || len(b.added) != tt.added || received != tt.received {
				t.Errorf("got %d %s, handed over %d, added %d, received %q;\nwant %d %s, %d, %d, %q",
					w.Code, w.Body, len(tt.peer.handed), len(b.added), received, tt.want, tt.said, tt.handed, tt.added, tt.received)
			}
			if w.Code < 300 && tt.body == push && w.Header().Get("Location") != "/notifications/a" {
				t.Errorf("Location %q", w.Header().Get("Location"))
			}
			const most = 4500 * time.Millisecond // ACR gives up after 5 s
			if tt.handed > 0 && (tt.peer.within > most || tt.peer.within < most-time.Second) {
				t.Errorf("handed over with %v left, want %v", tt.peer.within, most)
			}
			if w := call(h, "POST", "/webhooks/acr"+tt.target, tt.body, "Authorization", "Bearer wrong", intake.HopHeader, tt.hop); w.Code != 401 || len(tt.peer.handed) != tt.handed || len(b.added) != tt.added {
				t.Errorf("with a wrong key: %d, handed over %d, added %d", w.Code, len(tt.peer.handed), len(b.added))
			}
		})
	}
}

// Whichever way the key came, it goes on in a header, and the URL that goes on has the
// region alone.
func TestTheKeyIsHandedOverInAHeader(t *testing.T) {
	for name, tt := range map[string]struct{ query, header, value string }{
		"bearer":    {"", "Authorization", "Bearer " + key2},
		"functions": {"", "x-functions-key", key2},
		"query":     {"&code=" + key2, "x-none", ""},
		"two":       {"&code=" + key2, "x-functions-key", "wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{away: true, answer: intake.Answer{Status: 202, Body: []byte(`{"id":"a"}`)}}
			h := newHandler(&backend{}, io.Discard)
			h.config.Peer = p
			w := call(h, "POST", "/api/ImagePush?region=West-Europe&registry=contoso"+tt.query, push, "Authorization", "", tt.header, tt.value)
			if w.Code != 202 || len(p.handed) != 1 {
				t.Fatalf("%d %s, handed over %d", w.Code, w.Body, len(p.handed))
			}
			if got := p.handed[0]; got.Header.Get("Authorization") != "Bearer "+key2 || got.Region != "West-Europe" || got.Registry != "contoso" || string(got.Body) != push || got.ID != "a" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A replica that has handed a webhook over has less time left than ACR gives, and says
// so. Nobody gets more than that.
func TestPatience(t *testing.T) {
	for hop, want := range map[string]time.Duration{
		"": receiveTimeout, "2s": 2 * time.Second, "150ms": 150 * time.Millisecond, "0s": 0, "-1s": -time.Second,
		"1h": receiveTimeout, "soon": receiveTimeout, "5": receiveTimeout,
	} {
		t.Run(hop, func(t *testing.T) {
			h := newHandler(&backend{}, io.Discard)
			var got time.Duration
			h.config.Intake = addFunc(func(ctx context.Context, _ replication.Event, _ replication.Awaited) (intake.Result, error) {
				deadline, _ := ctx.Deadline()
				got = time.Until(deadline)
				return started(), nil
			})
			if call(h, "POST", "/webhooks/acr?region=eastus", push, intake.HopHeader, hop); got > want || got < want-time.Second {
				t.Errorf("with %q left the intake had %v, want %v", hop, got, want)
			}
		})
	}
}

// stopping is a Sidecar that refuses connections, or not.
type stopping bool

func (s stopping) Connected() bool { return !bool(s) }
func (s stopping) Refuses() bool   { return bool(s) }

// Two replicas behind a balancer that takes turns: the one that is stopping answers as
// the other one does, although it is asked itself first.
func TestHandOver(t *testing.T) {
	var log bytes.Buffer
	b := &backend{result: started()}
	replicas := []*Handler{newHandler(b, &log), newHandler(b, &log)}
	turns := 0
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turns++
		replicas[(turns+1)%2].ServeHTTP(w, r)
	}))
	defer balancer.Close()
	u, err := url.Parse(balancer.URL)
	if err != nil {
		t.Fatal(err)
	}
	var hops []string
	for i, h := range replicas {
		h.config.Peer = &intake.Peer{URL: u, Sidecar: stopping(i == 0), Handed: func(result string) { hops = append(hops, result) }, Log: h.config.Log}
	}
	w := call(replicas[0], "POST", "/webhooks/acr?region=eastus&code="+key2, push, "Authorization", "")
	want := call(replicas[1], "POST", "/webhooks/acr?region=eastus", push)
	if w.Code != want.Code || w.Body.String() != want.Body.String() || fmt.Sprint(w.Header()) != fmt.Sprint(want.Header()) {
		t.Errorf("got %d %v %s\nwant %d %v %s", w.Code, w.Header(), w.Body, want.Code, want.Header(), want.Body)
	}
	if turns != 2 || len(b.added) != 2 || !slices.Equal(hops, []string{intake.HopAccepted}) {
		t.Errorf("%d requests at the balancer, %d events, hops %q; want 2, 2 and one accepted", turns, len(b.added), hops)
	}
	if !strings.Contains(log.String(), "handed over") || strings.Contains(log.String(), key2) {
		t.Errorf("the log is %s", &log)
	}
}
