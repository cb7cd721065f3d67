package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"time"
)

// HopHeader marks a webhook that a replica has handed over. Whoever gets it hands it to
// nobody. Its value is how long the answer may take, such as 1.5s.
const HopHeader = "Allregions-Hop"

const (
	hopTimeout = 3 * time.Second        // of one try: one that meets a frozen replica leaves time for another
	hopPause   = 100 * time.Millisecond // between two tries
	hopMargin  = 100 * time.Millisecond // of a try, for the way there and back
	maxReply   = 1 << 20                // bytes of an answer
)

// The results of handing a webhook over, for metrics.
const (
	HopAccepted = "accepted" // another replica has it, or had it before
	HopRefused  = "refused"  // another replica says that there is something wrong with it
	HopFailed   = "failed"   // no other replica has answered for good in time
)

// Sidecar is this replica's.
type Sidecar interface {
	// Connected tells whether there is a connection, as far as that is known.
	Connected() bool

	// Refuses asks whether it refuses connections. An answer that does not come is no
	// refusal.
	Refuses() bool
}

// Peer is another replica of this service: whichever the balancer at URL chooses, this
// one included. It takes webhooks while the sidecar here refuses connections. Container
// Apps stops service and sidecar at the same time, but sends requests on for seconds.
type Peer struct {
	URL     *url.URL
	Sidecar Sidecar
	Handed  func(result string) // is called once for each webhook, and must not block
	Log     *slog.Logger

	transport http.RoundTripper // nil: newConnections
}

// Webhook is what a replica hands over.
type Webhook struct {
	ID               string // of its notification
	Region, Registry string // as its URL has them
	Body             []byte
	Header           http.Header // with the key
}

// Answer is what another replica has said for good: 200 or 202 and JSON about the
// webhook's notification, or a 4xx, with Detail.
type Answer struct {
	Status int
	Body   []byte
	Detail string
}

// Refused tells whether there is something wrong with the webhook.
func (a Answer) Refused() bool { return a.Status >= 400 }

func (a Answer) result() string {
	if a.Refused() {
		return HopRefused
	}
	return HopAccepted
}

// NeededFor tells whether a webhook must go to another replica: err, if there is one,
// is why this one has not taken it.
func (p *Peer) NeededFor(err error) bool {
	return (err != nil || !p.Sidecar.Connected()) && p.Sidecar.Refuses()
}

// HandOver sends w until a replica answers for good, or ctx ends. A nil error means that
// the answer is that replica's.
func (p *Peer) HandOver(ctx context.Context, w Webhook) (_ Answer, why error) {
	begun := time.Now()
	for tries := 1; ; tries++ {
		answer, err := p.try(ctx, w)
		if err == nil {
			p.Log.LogAttrs(ctx, slog.LevelInfo, "handed over", slog.String("notification", w.ID), slog.String("region", w.Region),
				slog.Int("status", answer.Status), slog.Int("tries", tries), slog.String("took", time.Since(begun).String()))
			p.Handed(answer.result())
			return answer, nil
		}
		if why == nil || ctx.Err() == nil { // the end of ctx says less than what was before
			why = err
		}
		select {
		case <-time.After(hopPause):
		case <-ctx.Done():
			p.Handed(HopFailed)
			return Answer{}, fmt.Errorf("no other replica has taken the webhook in %d tries: %w", tries, why)
		}
	}
}

// newConnections makes one for each try: a balancer of connections then chooses anew.
var newConnections = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}

// noRedirect keeps the key from whoever else is named.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (p *Peer) try(ctx context.Context, w Webhook) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	to := p.URL.JoinPath("webhooks", "acr")
	query := url.Values{}
	for name, value := range map[string]string{"region": w.Region, "registry": w.Registry} {
		if value != "" {
			query.Set(name, value)
		}
	}
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(w.Body))
	if err != nil {
		return Answer{}, err
	}
	req.Header = w.Header.Clone()
	deadline, _ := ctx.Deadline()
	req.Header.Set(HopHeader, max(0, time.Until(deadline)-hopMargin).String())
	client := http.Client{Transport: p.transport, CheckRedirect: noRedirect}
	if client.Transport == nil {
		client.Transport = newConnections
	}
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return Answer{}, err
	}
	return final(w, resp, body)
}

// final tells an answer of this service from those of a balancer, which also has 404 and
// pages with 200, and from those that another try may change.
func final(w Webhook, resp *http.Response, body []byte) (Answer, error) {
	var content struct{ ID, Detail string }
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	err := json.Unmarshal(body, &content)
	switch status := resp.StatusCode; {
	case err == nil && (status == http.StatusOK || status == http.StatusAccepted) && mediaType == "application/json" && content.ID == w.ID:
	case err == nil && status >= 400 && status < 500 && mediaType == "application/problem+json":
	default:
		return Answer{}, fmt.Errorf("answered %d %s", status, mediaType)
	}
	return Answer{Status: resp.StatusCode, Body: body, Detail: content.Detail}, nil
}
