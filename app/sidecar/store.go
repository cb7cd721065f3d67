package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// oneFile is the component type that keeps everything in one file with one
// writer. There, calls that wait for one another go together: see group.
const oneFile = "state.sqlite"

// anyConsistency asks for none, which leaves it to the store: strong, as infra sets
// up Cosmos DB's account. Dapr's component for that turns a wish for "strong", the
// SDK's default, into Session without a session token, which is weaker.
const anyConsistency = dapr.StateConsistencyUndefined

// store is a state store component, one for all that is kept in it.
type store struct {
	client *Client
	name   string
	reads  group[read]
	writes group[write]
}

func newStore(client *Client, name string) *store {
	s := &store{client: client, name: name}
	s.reads.run, s.writes.run = s.readAll, s.writeAll
	return s
}

type read struct {
	key  string
	item *dapr.StateItem // the answer
}

type write struct {
	key   string
	value []byte
	etag  string // of what it may replace; "" if there must be nothing yet
}

func (s *store) get(ctx context.Context, key string) (*dapr.StateItem, error) {
	if !s.isOneFile(ctx) {
		return s.readOne(ctx, key)
	}
	answered, err := s.reads.do(ctx, read{key: key})
	return answered.item, err
}

// put stores w. The error has code Aborted if there is something else than its etag says.
func (s *store) put(ctx context.Context, w write) error {
	if !s.isOneFile(ctx) {
		return s.writeOne(ctx, w)
	}
	_, err := s.writes.do(ctx, w)
	return err
}

func (s *store) isOneFile(ctx context.Context) bool {
	componentType, _ := s.client.componentType(ctx, s.name) // without an answer, the call itself will say why
	return componentType == oneFile
}

func (s *store) readOne(ctx context.Context, key string) (*dapr.StateItem, error) {
	return s.client.dapr.GetStateWithConsistency(ctx, s.name, key, nil, anyConsistency)
}

func (s *store) readAll(calls []*call[read]) {
	if len(calls) == 1 {
		c := calls[0]
		c.v.item, c.err = s.readOne(c.ctx, c.v.key)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), togetherTimeout)
	defer cancel()
	items := map[string]*dapr.BulkStateItem{}
	var keys []string // each once: Dapr forgets the second of two
	for _, c := range calls {
		if _, ok := items[c.v.key]; !ok {
			items[c.v.key] = nil
			keys = append(keys, c.v.key)
		}
	}
	found, err := s.client.dapr.GetBulkState(ctx, s.name, keys, nil, 1)
	for _, item := range found {
		items[item.Key] = item
	}
	for _, c := range calls {
		item := items[c.v.key]
		switch {
		case err != nil:
			c.err = err
		case item == nil:
			c.err = fmt.Errorf("the sidecar answered nothing about %s", c.v.key)
		case item.Error != "":
			c.err = errors.New(item.Error)
		default:
			c.v.item = &dapr.StateItem{Key: item.Key, Value: item.Value, Etag: item.Etag}
		}
	}
}

// stored is how the SDK wants a write.
func (w write) stored() *dapr.SetStateItem {
	item := &dapr.SetStateItem{Key: w.key, Value: w.value, Metadata: jsonValue,
		Options: &dapr.StateOptions{Concurrency: dapr.StateConcurrencyFirstWrite, Consistency: anyConsistency}}
	if w.etag != "" {
		item.Etag = &dapr.ETag{Value: w.etag}
	}
	return item
}

func (s *store) writeOne(ctx context.Context, w write) error {
	return s.client.dapr.SaveBulkState(ctx, s.name, w.stored())
}

// writeAll writes in the order of calls, in one transaction. That fails as a
// whole, and does not say for whose sake: then each half finds out for itself.
func (s *store) writeAll(calls []*call[write]) {
	if len(calls) == 1 {
		calls[0].err = s.writeOne(calls[0].ctx, calls[0].v)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), togetherTimeout)
	defer cancel()
	ops := make([]*dapr.StateOperation, len(calls))
	for i, c := range calls {
		ops[i] = &dapr.StateOperation{Type: dapr.StateOperationTypeUpsert, Item: c.v.stored()}
	}
	err := s.client.dapr.ExecuteStateTransaction(ctx, s.name, nil, ops)
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable, codes.DeadlineExceeded: // nobody would do better alone
		for _, c := range calls {
			c.err = err
		}
	default:
		s.writeAll(calls[:len(calls)/2])
		s.writeAll(calls[len(calls)/2:])
	}
}

// togetherTimeout ends a call for many, whose own contexts do not.
const togetherTimeout = 10 * time.Second

// atMost bounds how many calls go together.
const atMost = 64

// group runs one call at a time, and all that came meanwhile together, in the
// order in which they came. A call that nobody waits for any more is not begun.
type group[T any] struct {
	run func([]*call[T])

	mu      sync.Mutex
	running bool
	waiting []*call[T]
}

type call[T any] struct {
	ctx  context.Context
	v    T
	err  error
	done chan struct{}
}

func (g *group[T]) do(ctx context.Context, v T) (T, error) {
	c := &call[T]{ctx: ctx, v: v, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	if !g.running {
		g.running = true
		go g.work()
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.v, c.err
	case <-ctx.Done():
		return v, context.Cause(ctx)
	}
}

func (g *group[T]) work() {
	for calls := g.next(); len(calls) > 0; calls = g.next() {
		g.run(calls)
		for _, c := range calls {
			close(c.done)
		}
	}
}

// next is what to run now; nothing ends the work.
func (g *group[T]) next() []*call[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var calls []*call[T]
	for len(calls) < atMost && len(g.waiting) > 0 {
		c := g.waiting[0]
		g.waiting = g.waiting[1:]
		if c.ctx.Err() == nil {
			calls = append(calls, c)
		}
	}
	g.running = len(calls) > 0
	return calls
}
