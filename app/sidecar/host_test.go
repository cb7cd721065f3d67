package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"allregions/app/actor"
)

func newTestHost(a Actor) *Host {
	a.Type = "Thing"
	return NewHost(slog.New(slog.DiscardHandler), nil, []Actor{a}, nil, unknownBroker)
}

// kept is how many turns are held.
func kept(h *Host) (n int) {
	h.turns.Range(func(any, any) bool { n++; return true })
	return n
}

func serve(ctx context.Context, h *Host, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body)))
	return w
}

func TestHostAnswersDapr(t *testing.T) {
	h := newTestHost(Actor{
		Methods: map[string]actor.Method{
			"Echo": func(_ context.Context, id string, body []byte) (actor.Turn, error) {
				return actor.Turn{Reply: append([]byte(id+":"), body...)}, nil
			},
			"Fail": func(context.Context, string, []byte) (actor.Turn, error) {
				return actor.Turn{}, errors.New("the reason")
			},
		},
		Remind: actor.Whole(func(_ context.Context, id, name string) error {
			if name != "check" {
				return errors.New(id + " has no reminder " + name)
			}
			return nil
		}),
	})
	for _, tt := range []struct {
		method, target, body string
		code                 int
		answer               string
	}{
		{"GET", "/healthz", "", 200, ""},
		{"PUT", "/actors/Thing/a-1/method/Echo", "hello", 200, "a-1:hello"},
		{"PUT", "/actors/Thing/a-1/method/Fail", "", 500, "the reason\n"}, // reaches the caller: Dapr passes it on
		{"PUT", "/actors/Thing/a-1/method/None", "", 404, "actor type Thing has no method \"None\"\n"},
		{"PUT", "/actors/Other/a-1/method/Echo", "", 404, ""},
		{"PUT", "/actors/Thing/a-1/method/remind/check", "{}", 200, ""},
		{"PUT", "/actors/Thing/a-1/method/remind/what", "{}", 500, "a-1 has no reminder what\n"},
		{"DELETE", "/actors/Thing/a-1", "", 200, ""},
		{"PUT", "/actors/Thing/a-1/method/Echo", strings.Repeat("x", maxBody+1), 400, ""},
	} {
		w := serve(t.Context(), h, tt.method, tt.target, tt.body)
		if w.Code != tt.code || (tt.answer != "" && w.Body.String() != tt.answer) {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.target, w.Code, w.Body, tt.code, tt.answer)
		}
	}
	if kept(h) != 0 {
		t.Errorf("%d turns are kept", kept(h))
	}
}

func TestHostConfig(t *testing.T) {
	w := serve(t.Context(), newTestHost(Actor{}), "GET", "/dapr/config", "")
	var c struct {
		Entities         []string
		ActorIdleTimeout string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || len(c.Entities) != 1 || c.Entities[0] != "Thing" {
		t.Errorf("%s, %v", w.Body, err)
	}
	if d, err := time.ParseDuration(c.ActorIdleTimeout); err != nil || d != idleTimeout {
		t.Errorf("idle timeout %q, %v", c.ActorIdleTimeout, err)
	}
}

// Dapr calls a turn over when its caller has gone, and begins the next one;
// here the next one must wait until the first has really ended.
func TestTurnsOfOneActorNeverOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		ended := 0 // of a; guarded by its turns, if they do not overlap
		h := newTestHost(Actor{Methods: map[string]actor.Method{
			"Work": func(_ context.Context, id string, _ []byte) (actor.Turn, error) {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second) // deaf to its context
				if id == "a" {
					ended++
				}
				running.Add(-1)
				return actor.Turn{}, nil
			},
		}})
		var wg sync.WaitGroup
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			wg.Go(func() { serve(ctx, h, "PUT", "/actors/Thing/a/method/Work", "") })
			synctest.Wait()
		}
		wg.Go(func() { serve(t.Context(), h, "PUT", "/actors/Thing/a/method/Work", "") })
		begin := time.Now()
		wg.Go(func() { serve(t.Context(), h, "PUT", "/actors/Thing/b/method/Work", "") })
		synctest.Wait()
		if n := running.Load(); n != 2 {
			t.Errorf("%d turns run, want one of a and one of b", n)
		}
		wg.Wait()
		if most.Load() != 2 || kept(h) != 0 {
			t.Errorf("at most %d at once, %d kept", most.Load(), kept(h))
		}
		// The first and the last; the four that gave up in between never ran.
		if ended != 2 || time.Since(begin) != 2*time.Second {
			t.Errorf("%d turns in %v", ended, time.Since(begin))
		}
	})
}

// answered is an answer of the host. It tells when it is written.
type answered struct {
	*httptest.ResponseRecorder
	written func()
}

func (a answered) Write(data []byte) (int, error) {
	a.written()
	return a.ResponseRecorder.Write(data)
}

// follower hosts actors whose turns are followed by a second of work, and notes in
// which order all of that happens.
type follower struct {
	t    *testing.T
	host *Host

	mu  sync.Mutex
	log []string
}

func newFollower(t *testing.T) *follower {
	f := &follower{t: t}
	f.host = newTestHost(Actor{Methods: map[string]actor.Method{"Work": f.work}, Remind: actor.Whole(func(_ context.Context, id, _ string) error {
		f.note("remind " + id)
		return nil
	})})
	return f
}

func (f *follower) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what)
}

// of is what was noted of an actor, without its id.
func (f *follower) of(id string) (log []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, what := range f.log {
		if what, ok := strings.CutSuffix(what, " "+id); ok {
			log = append(log, what)
		}
	}
	return log
}

func (f *follower) work(ctx context.Context, id string, _ []byte) (actor.Turn, error) {
	f.note("turn " + id)
	turn := actor.Turn{Reply: []byte("done"), After: func(after context.Context) {
		time.Sleep(time.Second)
		if ctx.Err() == nil && id != "late" || after.Err() != nil {
			f.t.Errorf("%s: the context of the turn: %v, that of what follows: %v", id, ctx.Err(), after.Err())
		}
		f.note("after " + id)
		if id == "panics-after" {
			panic(id)
		}
	}}
	switch id {
	case "fails":
		return turn, errors.New(id)
	case "panics":
		panic(id)
	}
	return turn, nil
}

// call makes a call, as net/http does: a panic ends it. Want is the code, 0 for a
// panic, and how long it takes.
func (f *follower) call(method, target string, want int, took time.Duration) {
	f.t.Helper()
	begin := time.Now()
	id, _, _ := strings.Cut(target, "/")
	w := answered{httptest.NewRecorder(), func() { f.note("reply " + id) }}
	ctx, cancel := context.WithCancel(f.t.Context())
	code := 0
	func() {
		defer func() { recover() }()
		f.host.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, "/actors/Thing/"+target, nil))
		code = w.Code
	}()
	cancel() // as net/http does, too
	if code != want || time.Since(begin) != took {
		f.t.Errorf("%s %s: %d after %v, want %d after %v", method, target, code, time.Since(begin), want, took)
	}
}

// What follows a turn keeps nobody waiting but the actor itself: its caller has the
// reply before, its next turn comes behind, and so does its way to another replica.
func TestWhatFollowsATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower(t)
		f.call("PUT", "a/method/Work", 200, 0)
		f.call("PUT", "b/method/Work", 200, 0)
		f.call("PUT", "a/method/Work", 200, time.Second)
		f.call("PUT", "a/method/remind/check", 200, time.Second)
		f.call("PUT", "a/method/Work", 200, 0)
		f.call("DELETE", "a", 200, time.Second) // whoever gets the actor next must not overtake it
		f.call("DELETE", "a", 200, 0)
		f.host.Wait()
		if got, want := f.of("a"), []string{"turn", "reply", "after", "turn", "reply", "after", "remind", "reply", "turn", "reply", "after"}; !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		if kept(f.host) != 0 || len(f.host.after) != 0 {
			t.Errorf("%d turns are kept, %d of them have a reply", kept(f.host), len(f.host.after))
		}
	})
}

// Nothing follows a turn that has failed, and whoever panics leaves the actor to the
// next turn.
func TestNothingFollowsAFailedTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower(t)
		for id, want := range map[string]struct {
			code int
			log  []string
		}{
			"fails":        {500, []string{"turn", "reply", "turn", "reply"}},
			"panics":       {0, []string{"turn", "turn"}},
			"panics-after": {200, []string{"turn", "reply", "after", "turn", "reply", "after"}},
		} {
			pause := time.Duration(0)
			if want.code == 200 {
				pause = time.Second
			}
			f.call("PUT", id+"/method/Work", want.code, 0)
			f.call("PUT", id+"/method/Work", want.code, pause)
			f.call("DELETE", id, 200, pause)
			f.host.Wait()
			if got := f.of(id); !slices.Equal(got, want.log) {
				t.Errorf("%s: %q, want %q", id, got, want.log)
			}
		}
		if kept(f.host) != 0 || len(f.host.after) != 0 {
			t.Errorf("%d turns are kept, %d of them have a reply", kept(f.host), len(f.host.after))
		}
	})
}

// What follows is bounded: a turn too many is followed first, and replies then.
func TestTooMuchFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower(t)
		for i := range afterAtMost {
			f.call("PUT", strconv.Itoa(i)+"/method/Work", 200, 0)
		}
		f.call("PUT", "late/method/Work", 200, time.Second)
		if got, want := f.of("late"), []string{"turn", "after", "reply"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		begin := time.Now()
		f.call("PUT", "y/method/Work", 200, 0)
		f.host.Wait()
		if time.Since(begin) != time.Second {
			t.Errorf("waited %v for what follows", time.Since(begin))
		}
		if kept(f.host) != 0 || len(f.host.after) != 0 {
			t.Errorf("%d turns are kept, %d of them have a reply", kept(f.host), len(f.host.after))
		}
	})
}

// fickle is a sidecar that fails calls of actors before it takes one.
type fickle struct {
	dapr.Client
	errs []error
}

func (f *fickle) InvokeActor(context.Context, *dapr.InvokeActorRequest) (*dapr.InvokeActorResponse, error) {
	if len(f.errs) == 0 {
		return &dapr.InvokeActorResponse{Data: []byte("done")}, nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

// Dapr fails calls of an actor that it is putting away.
func TestCallsOfAnActorThatLeaves(t *testing.T) {
	idle := status.Error(codes.Internal, `error invoke actor method: Put "http://127.0.0.1:1/actors/Thing/a/method/Do": actor lock is closed`)
	moved := status.Error(codes.Internal, "error invoke actor method: remote actor moved")
	other := status.Error(codes.Internal, "error invoke actor method: something else")
	for _, tt := range []struct {
		errs []error
		want error
		took time.Duration
	}{
		{nil, nil, 0},
		{[]error{idle}, nil, invokePause},
		{[]error{moved, idle}, nil, 2 * invokePause},
		{[]error{idle, idle, idle}, idle, 2 * invokePause},
		{[]error{other}, other, 0},
		{[]error{idle, other}, other, invokePause},
	} {
		synctest.Test(t, func(t *testing.T) {
			actors := (&Client{dapr: &fickle{errs: tt.errs}}).Actors("Thing")
			begin := time.Now()
			if out, err := actors.Invoke(t.Context(), "a", "Do", nil); err != tt.want || (err == nil) != (string(out) == "done") || time.Since(begin) != tt.took {
				t.Errorf("%v: %s, %v after %v", tt.errs, out, err, time.Since(begin))
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &fickle{errs: []error{idle, idle}}
	if _, err := (&Client{dapr: f}).Actors("Thing").Invoke(ctx, "a", "Do", nil); err != idle || len(f.errs) != 1 {
		t.Errorf("nobody waits: %v, %d left", err, len(f.errs))
	}
}

func TestATurnHasATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for limit, want := range map[time.Duration]time.Duration{0: turnTimeout, time.Minute: time.Minute} {
			h := newTestHost(Actor{TurnTimeout: limit, Remind: actor.Whole(func(ctx context.Context, _, _ string) error {
				<-ctx.Done()
				return ctx.Err()
			})})
			begin := time.Now()
			if w := serve(t.Context(), h, "PUT", "/actors/Thing/a/method/remind/check", "{}"); w.Code != 500 {
				t.Errorf("%d", w.Code)
			}
			if time.Since(begin) != want {
				t.Errorf("after %v, want %v", time.Since(begin), want)
			}
		}

		// So has what follows it, of its own.
		h := newTestHost(Actor{Methods: map[string]actor.Method{"Work": func(context.Context, string, []byte) (actor.Turn, error) {
			time.Sleep(turnTimeout / 2)
			wait := func(ctx context.Context) { <-ctx.Done() }
			return actor.Turn{After: wait, Settle: wait}, nil
		}}})
		if w := serve(t.Context(), h, "PUT", "/actors/Thing/a/method/Work", ""); w.Code != 200 {
			t.Errorf("%d", w.Code)
		}
		begin := time.Now()
		h.Wait()
		if time.Since(begin) != turnTimeout {
			t.Errorf("what follows ends after %v", time.Since(begin))
		}
		if h.Settled(t.Context()); time.Since(begin) != turnTimeout+settleTimeout {
			t.Errorf("what settles ends after %v", time.Since(begin))
		}
	})
}

func TestTheSidecarIsAway(t *testing.T) {
	c, err := Dial(1, nil) // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Ready(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("ready: %v, %v", err, ctx.Err())
	}
	if _, err := c.Actors("Thing").Invoke(ctx, "a", "Echo", nil); err == nil {
		t.Error("invoke: no error")
	}
}

// Dapr may lose the error of a call of an actor: see batch. What it has then is no
// reply, and no answer that anybody may rely on.
func TestACallWithoutAReplyHasFailed(t *testing.T) {
	f := &silent{}
	if out, err := (&Actors{dapr: f, actorType: "Thing"}).Invoke(t.Context(), "a", "Do", nil); err == nil {
		t.Errorf("%q, and no error", out)
	}
}

// silent is a sidecar that answers with nothing.
type silent struct{ dapr.Client }

func (*silent) InvokeActor(context.Context, *dapr.InvokeActorRequest) (*dapr.InvokeActorResponse, error) {
	return &dapr.InvokeActorResponse{}, nil
}
