package sidecar

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"allregions/app/actor"
)

// idleTimeout is how long Dapr keeps an actor that nobody calls. Its default,
// an hour, keeps every notification of the last hour in the sidecar's memory.
const idleTimeout = 30 * time.Second

// turnTimeout ends a turn whose caller did not: a reminder's turn has no other
// limit, and while it lasts no other turn of that actor begins.
const turnTimeout = 20 * time.Second

// settleTimeout bounds what nobody waits for. A batch of the list may take a pause and two
// calls, and a reminder that finds nothing settled repeats all that its turn has written.
const settleTimeout = time.Minute

// maxBody bounds what the sidecar may hand to a turn, in bytes.
const maxBody = 4 << 20

// Actor is what Host hosts: the turns of the actors of one type.
type Actor struct {
	Type string

	// Methods are called with the actor's id and the caller's body. An error
	// reaches the caller as text, and nothing follows it.
	Methods map[string]actor.Method

	// Remind is called when a reminder fires. After an error Dapr tries a firing three
	// times more, a second apart.
	Remind actor.Remind

	// TurnTimeout is how long a turn may take; 0 is 20 s.
	TurnTimeout time.Duration
}

// Host answers the calls that Dapr makes to an application that hosts actors. None of
// them asks for a credential: serve them to the sidecar alone, on the loopback
// interface.
//
// Host keeps nothing of an actor between two turns. Dapr gives an actor one
// turn at a time, but it calls a turn over when its caller goes away, even if
// the method still runs here; so Host holds the next turn until the method
// has returned, and what follows it is done. So is a DELETE: Dapr moves an actor to
// another replica when that is answered.
type Host struct {
	actors        []Actor
	subscriptions []Subscription
	broker        func(ctx context.Context, pubsub string) Broker
	propagator    propagation.TextMapPropagator
	log           *slog.Logger
	mux           *http.ServeMux

	turns    sync.Map // string to chan struct{}: by actor type and id, what is closed when its turn ends
	settling sync.Map // string to *byte: by actor type and id, the last turn that has yet to settle

	released context.Context // ends with Release
	release  context.CancelFunc

	after   chan struct{} // one for each turn that has replied and still has work to do
	follows sync.WaitGroup
	settles sync.WaitGroup
}

// afterAtMost bounds how many turns may have replied and still have work to do. Above
// it, a turn does that work before it replies.
const afterAtMost = 1024

// NewHost returns the handler for the listener that only the sidecar reaches. What
// it calls is in the trace of the call, as p reads it; nil does not. A reminder
// has no caller, and so no trace. Broker tells what there is to know of a pub/sub
// component.
func NewHost(log *slog.Logger, p propagation.TextMapPropagator, actors []Actor, subscriptions []Subscription, broker func(ctx context.Context, pubsub string) Broker) *Host {
	h := &Host{actors: actors, subscriptions: subscriptions, broker: broker, propagator: cmp.Or(p, noTrace),
		log: log, mux: http.NewServeMux(), after: make(chan struct{}, afterAtMost)}
	h.released, h.release = context.WithCancel(context.Background())
	h.mux.HandleFunc("GET /dapr/config", h.config)
	h.mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	for _, a := range actors {
		base := "/actors/" + a.Type + "/{id}"
		h.mux.HandleFunc("PUT "+base+"/method/{method}", h.invoke(a))
		h.mux.HandleFunc("PUT "+base+"/method/remind/{name}", h.remind(a))
		h.mux.HandleFunc("DELETE "+base, h.deactivate(a)) // it was idle, or goes to another replica
	}
	h.mux.HandleFunc("GET /dapr/subscribe", h.subscribed)
	for _, s := range subscriptions {
		h.mux.HandleFunc("POST "+topicPath(s.Topic), h.take(s))
	}
	return h
}

func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Host) config(w http.ResponseWriter, r *http.Request) {
	types := []string{}
	for _, a := range h.actors {
		types = append(types, a.Type)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"entities":                types,
		"actorIdleTimeout":        idleTimeout.String(),
		"drainOngoingCallTimeout": "10s",
		"drainRebalancedActors":   true,
	})
}

func (h *Host) invoke(a Actor) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, name := r.PathValue("id"), r.PathValue("method")
		method, ok := a.Methods[name]
		if !ok {
			http.Error(w, fmt.Sprintf("actor type %s has no method %q", a.Type, name), http.StatusNotFound)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "read body: "+err.Error(), http.StatusBadRequest)
			return
		}
		ctx := h.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		h.turn(ctx, w, a, id, func(ctx context.Context) (actor.Turn, error) { return method(ctx, id, body) })
	}
}

func (h *Host) remind(a Actor) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		h.turn(r.Context(), w, a, id, func(ctx context.Context) (actor.Turn, error) {
			if _, settling := h.settling.Load(a.Type + "/" + id); settling {
				return actor.Turn{}, nil // what it would repeat is under way, and a reminder comes again
			}
			return a.Remind(ctx, id, r.PathValue("name"))
		})
	}
}

// turn runs do while the actor is held, and answers its reply or 500. The actor stays
// held until what follows the turn is done.
func (h *Host) turn(ctx context.Context, w http.ResponseWriter, a Actor, id string, do func(context.Context) (actor.Turn, error)) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.TurnTimeout, turnTimeout))
	defer cancel()
	release, err := h.hold(ctx, a.Type+"/"+id)
	if err != nil {
		h.fail(ctx, w, a.Type, id, err)
		return
	}
	defer func() { release() }() // after a panic, too
	t, err := do(ctx)
	if err != nil {
		h.fail(ctx, w, a.Type, id, err)
		return
	}
	settle := h.settle(ctx, a.Type+"/"+id, t)
	if t.After == nil {
		w.Write(t.Reply)
		settle()
		return
	}
	select {
	case h.after <- struct{}{}:
		later := release
		release = func() {}
		w.Write(t.Reply)
		h.follows.Go(func() {
			func() {
				defer func() { <-h.after }()
				defer later()
				h.follow(ctx, turnTimeout, t.After)
			}()
			settle()
		})
	default:
		h.follow(ctx, turnTimeout, t.After)
		w.Write(t.Reply)
		settle()
	}
}

func (h *Host) fail(ctx context.Context, w http.ResponseWriter, actorType, id string, err error) {
	h.log.LogAttrs(ctx, slog.LevelError, "actor turn failed", slog.String(strings.ToLower(actorType), id), slog.Any("err", err))
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// settle returns what settles the turn, if anything does, without waiting for it. Until
// then, reminders of the actor do nothing here.
func (h *Host) settle(ctx context.Context, id string, t actor.Turn) (begin func()) {
	if t.Settle == nil {
		return func() {}
	}
	mine := new(byte) // of two turns that settle, the later one counts
	h.settling.Store(id, mine)
	return func() {
		h.settles.Go(func() {
			defer h.settling.CompareAndDelete(id, mine)
			h.follow(ctx, settleTimeout, t.Settle)
		})
	}
}

// follow calls after, also when the turn's caller has gone.
func (h *Host) follow(ctx context.Context, limit time.Duration, after func(context.Context)) {
	ctx = context.WithoutCancel(ctx)
	defer func() { // as net/http does it for the turn itself
		if p := recover(); p != nil {
			h.log.LogAttrs(ctx, slog.LevelError, "what follows an actor turn panicked", slog.Any("err", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	after(ctx)
}

// Wait returns when everything that the next turns wait for is done. No turn may begin
// meanwhile.
func (h *Host) Wait() { h.follows.Wait() }

// Settled returns when, after Wait, all turns have settled, or when ctx ends.
func (h *Host) Settled(ctx context.Context) {
	done := make(chan struct{})
	go func() { h.settles.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (h *Host) deactivate(a Actor) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		release, err := h.hold(r.Context(), a.Type+"/"+r.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		release()
	}
}

// hold waits until no other turn of the actor runs here.
func (h *Host) hold(ctx context.Context, id string) (release func(), err error) {
	done := make(chan struct{})
	for {
		running, busy := h.turns.LoadOrStore(id, done)
		if !busy {
			return func() { h.turns.Delete(id); close(done) }, nil
		}
		select {
		case <-running.(chan struct{}):
		case <-ctx.Done():
			return nil, fmt.Errorf("another turn still runs: %w", context.Cause(ctx))
		}
	}
}
