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
	last  reading
}

// reading is when the last one was, and how it went; zero before the first.
type reading struct {
	began time.Time
	took  time.Duration
	err   error
}

func newShared[T any](now func() time.Time) *shared[T] {
	return &shared[T]{now: now, slot: make(chan struct{}, 1)}
}

// get returns the last reading, if fresh accepts it at its age, and reads otherwise.
// Meanwhile others wait, each as long as its own context lasts.
func (s *shared[T]) get(ctx context.Context, fresh func(age time.Duration, last reading) bool, read func(context.Context) (T, error)) (T, error) {
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	now := s.now()
	if s.last.began.IsZero() || !fresh(now.Sub(s.last.began), s.last) {
		value, err := read(ctx)
		s.value, s.last = value, reading{now, s.now().Sub(now), err}
	}
	return s.value, s.last.err
}
