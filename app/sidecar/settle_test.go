package sidecar

import (
	"context"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
)

// What settles a turn comes behind what follows it, also when its caller has gone, and
// keeps nobody waiting: not the actor's next turn, and not the reply of a turn for which
// nothing more may follow. Reminders do nothing meanwhile.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &follower{t: t}
		f.host = newTestHost(Actor{Methods: map[string]actor.Method{"Work": func(ctx context.Context, id string, _ []byte) (actor.Turn, error) {
			f.note("turn " + id)
			turn := actor.Turn{Reply: []byte("done"), After: func(context.Context) {
				time.Sleep(time.Second)
				f.note("after " + id)
			}, Settle: func(ctx context.Context) {
				f.note("settle " + id)
				time.Sleep(5 * time.Second)
				if ctx.Err() != nil {
					t.Error(ctx.Err())
				}
				f.note("settled " + id)
			}}
			return turn, nil
		}}, Remind: func(_ context.Context, id, _ string) (actor.Turn, error) {
			f.note("remind " + id)
			return actor.Turn{Settle: func(context.Context) {
				time.Sleep(5 * time.Second)
				f.note("settled " + id)
			}}, nil
		}})
		f.call("PUT", "a/method/Work", 200, 0)
		f.call("PUT", "a/method/Work", 200, time.Second)
		f.call("DELETE", "a", 200, time.Second)
		begin := time.Now()
		f.host.Wait()
		if time.Since(begin) != 0 {
			t.Errorf("waited %v for what settles", time.Since(begin))
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if f.host.Settled(short); time.Since(begin) != time.Second {
			t.Errorf("waited %v, want a second", time.Since(begin))
		}
		if f.host.Settled(t.Context()); time.Since(begin) != 5*time.Second {
			t.Errorf("all was settled after %v", time.Since(begin))
		}
		synctest.Wait()                                                                         // the first Settled has ended, too
		got := slices.DeleteFunc(f.of("a"), func(what string) bool { return what == "settle" }) // beside the second turn
		if want := []string{"turn", "reply", "after", "turn", "reply", "after", "settled", "settled"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}

		// A firing waits for nothing that settles, and does nothing meanwhile.
		f.call("PUT", "b/method/remind/check", 200, 0)
		f.call("PUT", "b/method/remind/check", 200, 0)
		f.call("PUT", "b/method/Work", 200, 0)
		f.call("PUT", "b/method/remind/check", 200, time.Second) // it waits for what follows
		time.Sleep(4500 * time.Millisecond)
		f.call("PUT", "b/method/remind/check", 200, 0) // the first one has settled, and the second has not
		f.host.Settled(t.Context())
		synctest.Wait()
		f.call("PUT", "b/method/remind/check", 200, 0)
		f.host.Settled(t.Context())
		got = slices.DeleteFunc(f.of("b"), func(what string) bool { return what == "settle" })
		if want := []string{"remind", "reply", "reply", "turn", "reply", "after", "reply", "settled", "reply", "settled", "remind", "reply", "settled"}; !slices.Equal(got, want) {
			t.Errorf("a reminder: got %q, want %q", got, want)
		}

		for i := range afterAtMost {
			f.call("PUT", strconv.Itoa(i)+"/method/Work", 200, 0)
		}
		f.call("PUT", "late/method/Work", 200, time.Second)
		f.host.Wait()
		f.host.Settled(t.Context())
		if got, want := f.of("late"), []string{"turn", "after", "reply", "settle", "settled"}; !slices.Equal(got, want) {
			t.Errorf("late: got %q, want %q", got, want)
		}
		if len(f.host.after) != 0 {
			t.Errorf("%d turns have a reply", len(f.host.after))
		}
	})
}

// A turn that fails is not settled, and what panics ends nothing but itself.
func TestSettlePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(Actor{Methods: map[string]actor.Method{"Work": func(context.Context, string, []byte) (actor.Turn, error) {
			return actor.Turn{Reply: []byte("done"), After: func(context.Context) {}, Settle: func(context.Context) { panic("settle") }}, nil
		}}})
		for range 2 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("PUT", "/actors/Thing/a/method/Work", nil))
			h.Wait()
			h.Settled(t.Context())
			if w.Code != 200 {
				t.Errorf("%d", w.Code)
			}
		}
	})
}
