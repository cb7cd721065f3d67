package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	reads  group[*dapr.StateItem]
	writes group[*dapr.SetStateItem]
}

func newStore(client *Client, name string) *store {
	s := &store{client: client, name: name}
	s.reads, s.writes = newGroup(s.readAll), newGroup(s.writeAll)
	return s
}

func (s *store) isOneFile(ctx context.Context) bool {
	componentType, _ := s.client.componentType(ctx, s.name) // without an answer, the call itself will say why
	return componentType == oneFile
}

func (s *store) get(ctx context.Context, key string) (value []byte, etag string, err error) {
	item, read := &dapr.StateItem{Key: key}, s.readOne
	if s.isOneFile(ctx) {
		read = s.reads.do
	}
	if err := read(ctx, item); err != nil {
		return nil, "", err
	}
	return item.Value, item.Etag, nil
}

func (s *store) readOne(ctx context.Context, item *dapr.StateItem) error {
	found, err := s.client.dapr.GetStateWithConsistency(ctx, s.name, item.Key, nil, anyConsistency)
	if err == nil {
		*item = *found
	}
	return err
}

// put stores value in place of what has that etag, "" for nothing. The error has code
// Aborted if there is something else.
func (s *store) put(ctx context.Context, key string, value []byte, etag string) error {
	item := &dapr.SetStateItem{Key: key, Value: value, Metadata: jsonValue,
		Options: &dapr.StateOptions{Concurrency: dapr.StateConcurrencyFirstWrite, Consistency: anyConsistency}}
	if etag != "" {
		item.Etag = &dapr.ETag{Value: etag}
	}
	if s.isOneFile(ctx) {
		return s.writes.do(ctx, item)
	}
	return s.client.dapr.SaveBulkState(ctx, s.name, item)
}

func (s *store) readAll(ctx context.Context, calls []*call[*dapr.StateItem]) {
	if len(calls) == 1 {
		calls[0].done <- s.readOne(ctx, calls[0].v)
		return
	}
	var keys []string // each once: Dapr forgets the second of two
	for _, c := range calls {
		if !slices.Contains(keys, c.v.Key) {
			keys = append(keys, c.v.Key)
		}
	}
	items, err := s.client.dapr.GetBulkState(ctx, s.name, keys, nil, 1)
	for _, c := range calls {
		i := slices.IndexFunc(items, func(item *dapr.BulkStateItem) bool { return item.Key == c.v.Key })
		switch {
		case err != nil:
			c.done <- err
		case i < 0:
			c.done <- fmt.Errorf("the sidecar answered nothing about %s", c.v.Key)
		case items[i].Error != "":
			c.done <- errors.New(items[i].Error)
		default:
			*c.v = dapr.StateItem{Key: c.v.Key, Value: items[i].Value, Etag: items[i].Etag}
			c.done <- nil
		}
	}
}

// writeAll writes in the order of calls, in one transaction. That fails as a
// whole, and does not say for whose sake: then each half finds out for itself.
func (s *store) writeAll(ctx context.Context, calls []*call[*dapr.SetStateItem]) {
	if len(calls) == 1 {
		calls[0].done <- s.client.dapr.SaveBulkState(ctx, s.name, calls[0].v)
		return
	}
	ops := make([]*dapr.StateOperation, len(calls))
	for i, c := range calls {
		ops[i] = &dapr.StateOperation{Type: dapr.StateOperationTypeUpsert, Item: c.v}
	}
	err := s.client.dapr.ExecuteStateTransaction(ctx, s.name, nil, ops)
	switch status.Code(err) {
	case codes.OK, codes.Unavailable, codes.DeadlineExceeded: // nobody would do better alone
		for _, c := range calls {
			c.done <- err
		}
	default:
		s.writeAll(ctx, calls[:len(calls)/2])
		s.writeAll(ctx, calls[len(calls)/2:])
	}
}

// togetherTimeout ends calls, which the end of a caller's context does not.
const togetherTimeout = 10 * time.Second

// atMost bounds how many calls go together.
const atMost = 64

// group runs one call at a time, and all that came meanwhile together, in the
// order in which they came. A call that nobody waits for any more is not begun.
type group[T any] struct {
	run     func(context.Context, []*call[T]) // answers each of them
	running chan struct{}                     // has room for the one that runs
	waiting chan *call[T]                     // has none: who waits can go away
}

type call[T any] struct {
	v    T
	done chan error // has room for the answer
}

func newGroup[T any](run func(context.Context, []*call[T])) group[T] {
	return group[T]{run, make(chan struct{}, 1), make(chan *call[T])}
}

func (g *group[T]) do(ctx context.Context, v T) error {
	c := &call[T]{v, make(chan error, 1)}
	select {
	case g.waiting <- c:
	case g.running <- struct{}{}:
		go g.lead(context.WithoutCancel(ctx), c)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lead runs the first call, and those that wait now.
func (g *group[T]) lead(ctx context.Context, calls ...*call[T]) {
	defer func() { <-g.running }()
	ctx, cancel := context.WithTimeout(ctx, togetherTimeout)
	defer cancel()
	for more := true; more && len(calls) < atMost; {
		select {
		case c := <-g.waiting:
			calls = append(calls, c)
		default:
			more = false
		}
	}
	g.run(ctx, calls)
}
