package delivery

import (
	"slices"
	"time"

	"allregions/app/actor"
	"allregions/app/target"
)

// Phase is where a delivery stands. Its values are those of the JSON status.
type Phase string

// The phases. All but Pending are final, until somebody restarts the delivery.
const (
	Pending    Phase = "pending"
	Delivered  Phase = "delivered"
	Failed     Phase = "failed"
	Superseded Phase = "superseded" // there was no attempt, for there is a newer push of the tag
)

// Message is what a target gets. The event is text, and not JSON in JSON: a store
// that understands JSON may write it anew, and what is signed and sent must be the
// same at every attempt.
type Message struct {
	EventID  string `json:"eventId"`
	Event    string `json:"event"`              // the whole CloudEvent, as JSON
	Original string `json:"original,omitempty"` // the webhook that began it, as ACR sent it; "" if the target does not want it
}

// Attempt is one try.
type Attempt struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty"` // HTTP; 0 without a response
	Error  string    `json:"error,omitempty"`  // "" if delivered; holds no secret
}

// State is the delivery of one event to one target, and
// the record in the store: fields are added, never renamed or given another meaning.
// The zero State means that there is no such delivery.
type State struct {
	Format    int       `json:"format"`
	Message   Message   `json:"message"`
	Target    string    `json:"target"`
	CreatedAt time.Time `json:"createdAt"`
	Phase     Phase     `json:"phase"`
	Next      time.Time `json:"next"`               // of the next attempt, while Pending
	Tried     int       `json:"tried"`              // attempts since the beginning, or the last restart
	Total     int       `json:"total"`              // attempts ever made
	Attempts  []Attempt `json:"attempts,omitempty"` // the newest keptAttempts, oldest first
	Error     string    `json:"error,omitempty"`    // why there was no attempt; "" otherwise

	// Reported tells whether its failure is known to be on the topic.
	Reported bool `json:"reported,omitempty"`

	// ReminderName is the reminder of the next step. No other one may take it.
	ReminderName string `json:"reminder,omitempty"`

	more actor.Fields // of a newer version, which wants to find them again
}

// Status is the JSON status of a delivery. Times are UTC.
type Status struct {
	Event     string     `json:"event"` // the CloudEvent's id
	Target    string     `json:"target"`
	Phase     Phase      `json:"status"` // pending, delivered, failed, superseded
	CreatedAt time.Time  `json:"createdAt,omitzero"`
	Total     int        `json:"attemptsMade"`
	Attempts  []Attempt  `json:"attempts"` // the newest 30, oldest first
	Next      *time.Time `json:"nextAttempt,omitempty"`
	Error     string     `json:"error,omitempty"` // why there was no attempt
}

// Exists tells whether there is such a delivery.
func (s Status) Exists() bool { return s.Event != "" }

// keptAttempts bounds the state of a delivery that is restarted again and again.
const keptAttempts = 30

// delays are the times between one attempt and the next. The first is at once.
var delays = []time.Duration{0, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 8 * time.Hour, 24 * time.Hour}

// jitter is the largest part by which a delay is longer, so that attempts that failed
// together do not return together.
const jitter = 0.2

// Exists tells whether there is such a delivery.
func (s State) Exists() bool { return s.Message.EventID != "" }

// Begin is a delivery whose first attempt is due. With a failure, it has failed
// before its first attempt.
func Begin(name string, m Message, failure string, now time.Time) State {
	s := State{Message: m, Target: name, CreatedAt: now.UTC(), Phase: Pending, Next: now.UTC(), Error: failure}
	if failure != "" {
		s.Phase = Failed
	}
	return s
}

// supersededBy is the delivery without an attempt, if there is a newer notification.
func (s State) supersededBy(newer string) State {
	if newer != "" {
		s.Phase, s.Error = Superseded, "notification "+newer+" is of a newer push of the tag"
	}
	return s
}

// FailedAt is when a delivery in Failed did: the same at every publication of it.
func (s State) FailedAt() time.Time {
	if len(s.Attempts) == 0 {
		return s.CreatedAt
	}
	return s.Attempts[len(s.Attempts)-1].At
}

// Restart makes the next attempt due in any phase. The schedule begins anew; the
// attempts that were made stay on record.
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
	Retry     Reason = "retry"     // the time is in Next
	Refused   Reason = "refused"   // the target will never accept it
	Exhausted Reason = "exhausted" // that was the last attempt
	Disabled  Reason = "disabled"  // the target is gone, until the process restarts
)

// After records an attempt that ended at now, and decides what follows from its
// result. Random is in [0, 1).
func (s State) After(r target.Result, now time.Time, random float64) (State, Reason) {
	s.Attempts = append(slices.Clone(s.Attempts), Attempt{now.UTC(), r.Status, r.Error})
	s.Attempts = s.Attempts[max(0, len(s.Attempts)-keptAttempts):]
	s.Tried++
	s.Total++
	s.Phase = Failed
	switch {
	case r.Verdict == target.Delivered:
		s.Phase = Delivered
		return s, Arrived
	case r.Verdict == target.Never:
		return s, Refused
	case r.Verdict == target.Gone:
		return s, Disabled
	case s.Tried >= len(delays):
		return s, Exhausted
	}
	delay := delays[s.Tried]
	delay += time.Duration(float64(delay) * jitter * random)
	s.Phase, s.Next = Pending, now.UTC().Add(max(delay, min(r.RetryAfter, delays[len(delays)-1])))
	return s, Retry
}

func (s State) status() Status {
	st := Status{Event: s.Message.EventID, Target: s.Target, Phase: s.Phase, CreatedAt: s.CreatedAt, Total: s.Total,
		Attempts: append([]Attempt{}, s.Attempts...), Error: s.Error}
	if s.Phase == Pending {
		st.Next = &s.Next
	}
	return st
}
