package actor

import (
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	begin := time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)
	throttle := &Throttle{Every: time.Minute}
	for _, step := range []struct {
		after   time.Duration
		dropped int
		ok      bool
	}{
		{0, 0, true}, {0, 0, false}, {time.Second, 0, false}, {time.Minute - 1, 0, false},
		{time.Minute, 3, true}, {2*time.Minute - 1, 0, false}, {time.Hour, 1, true}, {2 * time.Hour, 0, true},
	} {
		if dropped, ok := throttle.Allow(begin.Add(step.after)); dropped != step.dropped || ok != step.ok {
			t.Errorf("after %v: got %d, %v, want %d, %v", step.after, dropped, ok, step.dropped, step.ok)
		}
	}
}
