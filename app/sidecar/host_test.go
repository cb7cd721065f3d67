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

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func newTestHost(a Actor) *Host {
	a.Type = "Thing"
	return NewHost(slog.New(slog.DiscardHandler), nil, []Actor{a}, nil)
}

func serve(ctx context.Context, h *Host, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body)))
	return w
}

func TestHostAnswersDapr(t *testing.T) {
	h := newTestHost(Actor{
		Methods: map[string]func(context.Context, string, []byte) ([]byte, error){
			"Echo": func(_ context.Context, id string, body []byte) ([]byte, error) {
				return append([]byte(id+":"), body...), nil
			},
			"Fail": func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("the reason") },
		},
		Remind: func(_ context.Context, id, name string) error {
			if name != "check" {
				return errors.New(id + " has no reminder " + name)
			}
			return nil
		},
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
	if len(h.turns) != 0 {
		t.Errorf("%d turns are kept", len(h.turns))
	}
}

func TestHostSubscribes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken []string
		h := NewHost(slog.New(slog.DiscardHandler), nil, nil, []Subscription{{PubSub: "pubsub", Topic: "acr-webhooks",
			Take: func(_ context.Context, event []byte) error {
				taken = append(taken, string(event))
				if string(event) == "later" {
					return errors.New("not now")
				}
				return nil
			}}})
		if w := serve(t.Context(), h, "GET", "/dapr/subscribe", ""); strings.TrimSpace(w.Body.String()) != `[{"pubsubname":"pubsub","route":"/topics/acr-webhooks","topic":"acr-webhooks"}]` {
			t.Errorf("%s", w.Body)
		}
		if w := serve(t.Context(), newTestHost(Actor{}), "GET", "/dapr/subscribe", ""); strings.TrimSpace(w.Body.String()) != `[]` {
			t.Errorf("no topics: %s", w.Body)
		}
		// 404 and 2xx are the end of a message: Dapr does not bring it again.
		for body, want := range map[string]int{"now": 200, "later": 500, strings.Repeat("x", maxBody+1): 500} {
			begin := time.Now()
			if w := serve(t.Context(), h, "POST", "/topics/acr-webhooks", body); w.Code != want || (time.Since(begin) == redeliveryPause) != (want == 500) {
				t.Errorf("%.10s: %d after %v", body, w.Code, time.Since(begin))
			}
		}
		if len(taken) != 2 {
			t.Errorf("took %q", taken)
		}
	})
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
		h := newTestHost(Actor{Methods: map[string]func(context.Context, string, []byte) ([]byte, error){
			"Work": func(_ context.Context, id string, _ []byte) ([]byte, error) {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second) // deaf to its context
				if id == "a" {
					ended++
				}
				running.Add(-1)
				return nil, nil
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
		if most.Load() != 2 || len(h.turns) != 0 {
			t.Errorf("at most %d at once, %d kept", most.Load(), len(h.turns))
		}
		// The first and the last; the four that gave up in between never ran.
		if ended != 2 || time.Since(begin) != 2*time.Second {
			t.Errorf("%d turns in %v", ended, time.Since(begin))
		}
	})
}

// What a turn leaves for After keeps nobody waiting but the actor itself.
func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var log []string
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, s)
		}
		h := newTestHost(Actor{Methods: map[string]func(context.Context, string, []byte) ([]byte, error){
			"Work": func(ctx context.Context, id string, _ []byte) ([]byte, error) {
				note("begin " + id)
				ended(ctx, func() { note("end " + id) })
				After(ctx, func(after context.Context) {
					time.Sleep(time.Second)
					if (ctx.Err() == nil) != (id == "z") || after.Err() != nil {
						t.Errorf("%s: the contexts: %v and %v", id, ctx.Err(), after.Err())
					}
					note("after " + id)
					if id == "panics" {
						panic(id)
					}
				})
				if id == "fails" {
					return nil, errors.New(id)
				}
				return []byte("done"), nil
			},
		}})
		call := func(method, target string, code int, took time.Duration) {
			t.Helper()
			begin := time.Now()
			if w := serve(t.Context(), h, method, "/actors/Thing/"+target, ""); w.Code != code || time.Since(begin) != took {
				t.Errorf("%s %s: %d after %v, want %d after %v", method, target, w.Code, time.Since(begin), code, took)
			}
		}
		call("PUT", "a/method/Work", 200, 0)
		call("PUT", "b/method/Work", 200, 0)
		call("PUT", "a/method/Work", 200, time.Second)
		call("DELETE", "a", 200, time.Second) // whoever gets the actor next must not overtake it
		call("DELETE", "a", 200, 0)
		call("PUT", "fails/method/Work", 500, 0)
		call("PUT", "panics/method/Work", 200, 0)
		call("DELETE", "panics", 200, time.Second)
		h.Wait()
		ofA := slices.DeleteFunc(slices.Clone(log), func(s string) bool { return !strings.HasSuffix(s, " a") })
		if want := []string{"begin a", "after a", "end a", "begin a", "after a", "end a"}; !slices.Equal(ofA, want) {
			t.Errorf("%q, want %q", ofA, want)
		}
		if len(log) != 3*5 || len(h.turns) != 0 || len(h.after) != 0 {
			t.Errorf("%d turns are kept, %d end, %q", len(h.turns), len(h.after), log)
		}

		// Those that are too many end first, and are answered then.
		for i := range afterAtMost {
			call("PUT", strconv.Itoa(i)+"/method/Work", 200, 0)
		}
		call("PUT", "z/method/Work", 200, time.Second)
		begin := time.Now()
		call("PUT", "y/method/Work", 200, 0)
		h.Wait()
		if time.Since(begin) != time.Second {
			t.Errorf("waited %v for the ends", time.Since(begin))
		}
	})
}

// keeper is a sidecar that keeps one state, and knows no components.
type keeper struct {
	dapr.Client
	saved string // etag and value
}

func (*keeper) GrpcClient() runtimev1.DaprClient { return noComponents{} }

type noComponents struct{ runtimev1.DaprClient }

func (noComponents) GetMetadata(context.Context, *runtimev1.GetMetadataRequest, ...grpc.CallOption) (*runtimev1.GetMetadataResponse, error) {
	return &runtimev1.GetMetadataResponse{}, nil
}

func (*keeper) GetStateWithConsistency(_ context.Context, _, key string, _ map[string]string, _ dapr.StateConsistency) (*dapr.StateItem, error) {
	return &dapr.StateItem{Key: key, Value: []byte("1"), Etag: "7"}, nil
}

func (k *keeper) SaveBulkState(_ context.Context, _ string, items ...*dapr.SetStateItem) error {
	k.saved = items[0].Etag.Value + ":" + string(items[0].Value)
	return nil
}

// What a turn has loaded, it may also save after its answer; later, nobody may.
func TestSaveAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		actors := (&Client{dapr: k, stores: map[string]*store{}}).Actors("Thing", "store")
		answered := make(chan struct{})
		h := newTestHost(Actor{Methods: map[string]func(context.Context, string, []byte) ([]byte, error){
			"Work": func(ctx context.Context, id string, _ []byte) ([]byte, error) {
				After(ctx, func(after context.Context) {
					<-answered
					if err := actors.Save(after, id, []byte("2")); err != nil {
						t.Error(err)
					}
				})
				return actors.Load(ctx, id)
			},
		}})
		if w := serve(t.Context(), h, "PUT", "/actors/Thing/a/method/Work", ""); w.Code != 200 || w.Body.String() != "1" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		synctest.Wait()
		close(answered)
		h.Wait()
		if k.saved != "7:2" {
			t.Errorf("saved %q", k.saved)
		}
		if err := actors.Save(t.Context(), "a", []byte("3")); err == nil || len(actors.loaded) != 0 {
			t.Errorf("saved when the turn was over: %v, %v", err, actors.loaded)
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
			actors := (&Client{dapr: &fickle{errs: tt.errs}, stores: map[string]*store{}}).Actors("Thing", "store")
			begin := time.Now()
			if out, err := actors.Invoke(t.Context(), "a", "Do", nil); err != tt.want || (err == nil) != (string(out) == "done") || time.Since(begin) != tt.took {
				t.Errorf("%v: %s, %v after %v", tt.errs, out, err, time.Since(begin))
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &fickle{errs: []error{idle, idle}}
	if _, err := (&Client{dapr: f, stores: map[string]*store{}}).Actors("Thing", "store").Invoke(ctx, "a", "Do", nil); err != idle || len(f.errs) != 1 {
		t.Errorf("nobody waits: %v, %d left", err, len(f.errs))
	}
}

func TestAfterWithoutATurn(t *testing.T) {
	done := false
	After(t.Context(), func(context.Context) { done = true })
	if !done {
		t.Error("not done")
	}
}

func TestATurnHasATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(Actor{Remind: func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		begin := time.Now()
		if w := serve(t.Context(), h, "PUT", "/actors/Thing/a/method/remind/check", "{}"); w.Code != 500 {
			t.Errorf("%d", w.Code)
		}
		if time.Since(begin) != turnTimeout {
			t.Errorf("after %v", time.Since(begin))
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
	if _, err := c.Actors("Thing", "store").Invoke(ctx, "a", "Echo", nil); err == nil {
		t.Error("invoke: no error")
	}
}
