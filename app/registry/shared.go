package registry

import (
	"context"
	"time"
)

// shared is what one caller reads for all who ask at the same time. Each of them says
// how new it must be, and reads by itself if it is not: singleflight would hand out a
// reading that began long before the question, and the error of a caller that gave up.
type shared[T any] struct {
	now  func() time.Time
	slot chan struct{} // has room for the one who reads; it guards what follows

	value T
	err   error
	began time.Time // when the last reading did; zero before the first
}

func newShared[T any](now func() time.Time) *shared[T] {
	return &shared[T]{now: now, slot: make(chan struct{}, 1)}
}

// get returns the last reading, if fresh accepts its age and error, and reads otherwise.
// Meanwhile others wait, each as long as its own context lasts.
func (s *shared[T]) get(ctx context.Context, fresh func(age time.Duration, err error) bool, read func(context.Context) (T, error)) (T, error) {
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	now := s.now()
	if s.began.IsZero() || !fresh(now.Sub(s.began), s.err) {
		s.began = now
		s.value, s.err = read(ctx)
	}
	return s.value, s.err
}
