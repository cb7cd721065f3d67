package chaos

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// How the balancer looks at the replicas, and how long it takes to believe that one is
// stopping: nearly all of its SHUTDOWN_DELAY.
const (
	shutdownDelay = time.Second
	balancerPoll  = 50 * time.Millisecond
	balancerLag   = shutdownDelay - 4*balancerPoll
)

// balancer is what Container Apps has in front of the replicas: requests go to them in
// turn, to one that is stopping for a while yet, and to one that is dead no more.
type balancer struct {
	server *http.Server
	backs  []*back
	turn   atomic.Uint64
	stop   context.CancelFunc
}

type back struct {
	url   string
	proxy *httputil.ReverseProxy
	in    atomic.Bool
}

// newBalancer has an address, and no replicas yet.
func newBalancer() (b *balancer, err error) {
	b = &balancer{stop: func() {}}
	b.server, err = process.Serve(b)
	return b, err
}

func (b *balancer) url() string { return "http://" + b.server.Addr }

// watch begins to send requests to the replicas, until close.
func (b *balancer) watch(replicas []stack.Replica) error {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	for _, r := range replicas {
		to, err := url.Parse(r.URL)
		if err != nil {
			return err
		}
		one := &back{url: r.URL, proxy: &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
			Transport: &http.Transport{DisableKeepAlives: true}, // a replica may go between two requests
		}}
		b.backs = append(b.backs, one)
		go one.watch(ctx)
	}
	return nil
}

func (b *balancer) close() {
	b.stop()
	b.server.Close()
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	turn := int(b.turn.Add(1))
	for i := range b.backs {
		if one := b.backs[(turn+i)%len(b.backs)]; one.in.Load() {
			one.proxy.ServeHTTP(w, r)
			return
		}
	}
	http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
}

// all tells whether requests go to every replica.
func (b *balancer) all() bool {
	return !slices.ContainsFunc(b.backs, func(one *back) bool { return !one.in.Load() })
}

// watch keeps in until ctx ends.
func (b *back) watch(ctx context.Context) {
	var ready time.Time // when it last was
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, shutdownDelay)
		err := stack.Get(asked, b.url+"/readyz", "", nil)
		cancel()
		if err == nil {
			ready = time.Now()
		}
		_, alive := errors.AsType[*stack.AnswerError](err)
		b.in.Store(err == nil || alive && time.Since(ready) < balancerLag)
		select {
		case <-time.After(balancerPoll):
		case <-ctx.Done():
		}
	}
}
