package delivery

import (
	"slices"
	"time"
)

// Phase is where a delivery stands. Its values are those of the JSON status.
type Phase string

// The phases. All but Pending are final, until somebody asks for it again.
const (
	Pending   Phase = "pending"
	Delivered Phase = "delivered"
	Failed    Phase = "failed"
)

// Verdict is what an attempt amounts to.
type Verdict string

// The verdicts.
const (
	Accepted Verdict = "delivered" // the target has it
	Again    Verdict = "again"     // it may have it later
	Never    Verdict = "never"     // it will never take this
	Gone     Verdict = "gone"      // it takes nothing any more
)

// Attempt is one try.
type Attempt struct {
	At     time.Time
	Status int    // HTTP; 0 without an answer
	Error  string // "" for a delivery; holds no secret
}

// State is everything that is known of the delivery of one event to one target.
// The zero State means that there is none.
type State struct {
	Target    string
	EventID   string
	CreatedAt time.Time
	Phase     Phase
	Next      time.Time // of the next attempt, while Pending
	Tried     int       // attempts since the beginning, or since it was asked for again
	Attempts  []Attempt // the newest keptAttempts, oldest first
	Total     int       // attempts ever made
	Error     string    // why it failed before its first attempt; "" otherwise

	// Reported tells whether the topic is known to have the news of its failure.
	Reported bool

	// ReminderName is that of the reminder that this state relies on.
	ReminderName string
}

// keptAttempts bounds the state of a delivery that is asked for again and again.
const keptAttempts = 30

// delays are the times between one attempt and the next. The first is at once.
var delays = []time.Duration{0, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 8 * time.Hour, 24 * time.Hour}

// jitter is by how much a delay may be longer, as a part of it: so that what
// failed at the same time does not come back at the same time.
const jitter = 0.2

// Exists tells whether there is such a delivery.
func (s State) Exists() bool { return s.EventID != "" }

// Begin is a delivery whose first attempt is due.
func Begin(target, eventID string, now time.Time) State {
	return State{Target: target, EventID: eventID, CreatedAt: now.UTC(), Phase: Pending, Next: now.UTC()}
}

// BeginFailed is a delivery that fails before its first attempt.
func BeginFailed(target, eventID, err string, now time.Time) State {
	s := Begin(target, eventID, now)
	s.Phase, s.Error = Failed, err
	return s
}

// FailedAt is when a delivery in Failed did: the same at every publication of it.
func (s State) FailedAt() time.Time {
	if len(s.Attempts) == 0 {
		return s.CreatedAt
	}
	return s.Attempts[len(s.Attempts)-1].At
}

// Restart makes the next attempt due, whatever became of the last one. The
// schedule begins anew; what was tried stays on record.
func (s State) Restart(now time.Time) State {
	s.Phase, s.Next, s.Tried, s.Error, s.Reported = Pending, now.UTC(), 0, "", false
	return s
}

// Due tells whether an attempt is due at now.
func (s State) Due(now time.Time) bool { return s.Phase == Pending && !now.Before(s.Next) }

// Reason names why a decision came out as it did.
type Reason string

// The reasons.
const (
	Arrived   Reason = "delivered"
	Retry     Reason = "retry"     // and when is in Next
	Refused   Reason = "refused"   // the target will never take it
	Exhausted Reason = "exhausted" // that was the last try
	Disabled  Reason = "disabled"  // the target is gone, until a restart
)

// After records an attempt and decides what follows from its verdict. The target
// may have asked for a pause. Random is in [0, 1).
func (s State) After(a Attempt, v Verdict, pause time.Duration, random float64) (State, Reason) {
	s.Attempts = append(slices.Clone(s.Attempts), a)
	if n := len(s.Attempts); n > keptAttempts {
		s.Attempts = s.Attempts[n-keptAttempts:]
	}
	s.Tried++
	s.Total++
	switch {
	case v == Accepted:
		s.Phase = Delivered
		return s, Arrived
	case v == Never:
		s.Phase = Failed
		return s, Refused
	case v == Gone:
		s.Phase = Failed
		return s, Disabled
	case s.Tried >= len(delays):
		s.Phase = Failed
		return s, Exhausted
	}
	delay := delays[s.Tried]
	delay += time.Duration(float64(delay) * jitter * random)
	s.Next = a.At.Add(max(delay, min(pause, delays[len(delays)-1])))
	return s, Retry
}
