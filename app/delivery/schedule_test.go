package delivery

import (
	"fmt"
	"testing"
	"time"

	"allregions/app/target"
)

var t0 = time.Date(2026, 11, 17, 16, 52, 1, 0, time.UTC)

func TestSchedule(t *testing.T) {
	for random, want := range map[float64]string{
		0:   "[0s 5s 20s 1m20s 6m20s 36m20s 2h36m20s 10h36m20s 34h36m20s]",
		0.5: "[0s 5.5s 22s 1m28s 6m58s 39m58s 2h51m58s 11h39m58s 38h3m58s]",
	} {
		s := Begin("ops", Message{EventID: "n1/replicated"}, "", t0)
		var at []time.Duration
		var reason Reason
		for s.Phase == Pending {
			if s.Due(s.Next.Add(-1)) || !s.Due(s.Next) {
				t.Fatalf("not due at %v", s.Next)
			}
			now := s.Next
			at = append(at, now.Sub(t0))
			s, reason = s.After(target.Result{Verdict: target.Again, Status: 503, Error: "503"}, now, random)
		}
		if got := fmt.Sprint(at); got != want || reason != Exhausted || s.Phase != Failed {
			t.Errorf("%v: %s, %s, %s", random, got, reason, s.Phase)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		verdict target.Verdict
		pause   time.Duration
		phase   Phase
		reason  Reason
		next    time.Duration
	}{
		{target.Delivered, 0, Delivered, Arrived, 0},
		{target.Again, 0, Pending, Retry, 5 * time.Second},
		{target.Again, time.Second, Pending, Retry, 5 * time.Second}, // never sooner than the schedule
		{target.Again, time.Hour, Pending, Retry, time.Hour},
		{target.Again, 1000 * time.Hour, Pending, Retry, 24 * time.Hour}, // nor later than its end
		{target.Never, time.Hour, Failed, Refused, 0},
		{target.Gone, 0, Failed, Disabled, 0},
	} {
		t.Run(fmt.Sprint(tt.verdict, " ", tt.pause), func(t *testing.T) {
			begun := Begin("ops", Message{EventID: "n1/replicated"}, "", t0)
			s, reason := begun.After(target.Result{Verdict: tt.verdict, RetryAfter: tt.pause}, t0, 0)
			if s.Phase != tt.phase || reason != tt.reason || s.Phase == Pending && s.Next.Sub(t0) != tt.next {
				t.Errorf("got %+v, %s, want %+v", s, reason, tt)
			}
		})
	}
}

func TestRestart(t *testing.T) {
	s := Begin("ops", Message{EventID: "n1/replicated"}, "", t0)
	for i := range 100 {
		s, _ = s.After(target.Result{Verdict: target.Again}, t0.Add(time.Duration(i)*time.Second), 0)
		if s.Phase == Failed {
			s.Reported = true
			before := s
			s = s.Restart(t0.Add(time.Hour))
			if s.Phase != Pending || !s.Due(t0.Add(time.Hour)) || s.Reported || s.Total != before.Total || len(s.Attempts) != len(before.Attempts) {
				t.Fatalf("%+v became %+v", before, s)
			}
		}
	}
	if s.Total != 100 || len(s.Attempts) != keptAttempts || !s.Attempts[keptAttempts-1].At.Equal(t0.Add(99*time.Second)) {
		t.Errorf("%d of %d attempts are kept", len(s.Attempts), s.Total)
	}
	if (State{}).Exists() || !s.Exists() {
		t.Error("a delivery that is none exists")
	}
}
