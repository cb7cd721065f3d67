package notification

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a world whose writes, but for those of the state, take a second, and may
// be at the same time.
type slow struct {
	*world
	mu *sync.Mutex
}

func (s slow) wait(do func() error) error {
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	return do()
}

func (s slow) Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error {
	return s.wait(func() error { return s.world.Register(ctx, id, name, due, period) })
}

func (s slow) Publish(ctx context.Context, id string, event []byte) error {
	return s.wait(func() error { return s.world.Publish(ctx, id, event) })
}

func (s slow) Put(ctx context.Context, key string, doc []byte) error {
	return s.wait(func() error { return s.world.Put(ctx, key, doc) })
}

func (s slow) Create(ctx context.Context, key string, doc []byte) (created bool, err error) {
	err = s.wait(func() error { created, err = s.world.Create(ctx, key, doc); return err })
	return created, err
}

func (s slow) Update(ctx context.Context, key string, change func([]byte) ([]byte, bool, error)) error {
	return s.wait(func() error { return s.world.Update(ctx, key, change) })
}

// What one line of the package comment names does not wait for one another.
func TestWritesOfOneLineAreAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := slow{w, new(sync.Mutex)}
		a := w.actor()
		a.Together, a.Reminders, a.Topic, a.Documents = nil, s, s, s
		for i, want := range []time.Duration{
			2 * time.Second, // the reminder and both of the index; the document
			0,
			time.Second, // the event and the document
		} {
			body, _ := json.Marshal(addMessage{messageOf(event(plan.Expected[i])), plan.Expected})
			begin := time.Now()
			if _, err := a.add(t.Context(), "n1", body); err != nil || time.Since(begin) != want {
				t.Errorf("%s: %v, %v; want %v", plan.Expected[i], err, time.Since(begin), want)
			}
		}
		w.check(t, plan.Expected)
	})
}

func TestAtTheSameTime(t *testing.T) {
	one, two := errors.New("1"), errors.New("2")
	errs := new(Actor).together(func() error { return one }, nil, func() error { return nil }, func() error { return two })
	if len(errs) != 4 || errs[0] != one || errs[1] != nil || errs[2] != nil || errs[3] != two {
		t.Errorf("%v", errs)
	}
	var done bool
	defer func() {
		if p := recover(); p != "oops" || !done {
			t.Errorf("%v, the other is done: %v", p, done)
		}
	}()
	new(Actor).together(func() error { panic("oops") }, func() error { done = true; return nil })
}
