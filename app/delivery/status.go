package delivery

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is the JSON status of a delivery. Times are UTC.
type Status struct {
	Event     string          `json:"event"` // the CloudEvent's id
	Target    string          `json:"target"`
	Phase     Phase           `json:"status"` // pending, delivered, failed
	CreatedAt time.Time       `json:"createdAt,omitzero"`
	Total     int             `json:"attemptsMade"`
	Attempts  []AttemptStatus `json:"attempts"` // the newest 30, oldest first
	Next      *time.Time      `json:"nextAttempt,omitempty"`
	Error     string          `json:"error,omitempty"` // why it failed before its first attempt
}

// AttemptStatus is one attempt.
type AttemptStatus struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty"` // HTTP; left out without an answer
	Error  string    `json:"error,omitempty"`
}

// Exists tells whether there is such a delivery.
func (s Status) Exists() bool { return s.Event != "" }

func statusOf(s State) Status {
	st := Status{Event: s.EventID, Target: s.Target, Phase: s.Phase, CreatedAt: s.CreatedAt, Total: s.Total, Attempts: []AttemptStatus{}, Error: s.Error}
	for _, a := range s.Attempts {
		st.Attempts = append(st.Attempts, AttemptStatus(a))
	}
	if s.Phase == Pending {
		st.Next = &s.Next
	}
	return st
}

// startMessage is what Client asks of methodStart.
type startMessage struct {
	Target  string  `json:"target"`
	Message message `json:"message"`
	Error   string  `json:"error,omitempty"` // why there is to be no attempt
}

// message is a Message on its way and in the store. The event is text, and not
// JSON in JSON: a store that understands it may write it anew, and what is
// signed and sent must be the same at every attempt.
type message struct {
	EventID  string `json:"eventId"`
	Event    string `json:"event"`
	Original string `json:"original,omitempty"`
}

// stored is the actor's state in the state store: fields are added, never renamed
// or given another meaning.
type stored struct {
	Message   message         `json:"message"`
	Target    string          `json:"target"`
	CreatedAt time.Time       `json:"createdAt"`
	Phase     Phase           `json:"phase"`
	Next      time.Time       `json:"next"`
	Tried     int             `json:"tried"`
	Total     int             `json:"total"`
	Attempts  []AttemptStatus `json:"attempts,omitempty"`
	Error     string          `json:"error,omitempty"`
	Reported  bool            `json:"reported,omitempty"`
	Reminder  string          `json:"reminder,omitempty"`
}

func encodeState(s State, m Message) ([]byte, error) {
	st := stored{message(m), s.Target, s.CreatedAt, s.Phase, s.Next, s.Tried, s.Total, nil, s.Error, s.Reported, s.ReminderName}
	for _, a := range s.Attempts {
		st.Attempts = append(st.Attempts, AttemptStatus(a))
	}
	return json.Marshal(st)
}

// decodeState reads what encodeState wrote; no data is the zero State.
func decodeState(data []byte) (State, Message, error) {
	if len(data) == 0 {
		return State{}, Message{}, nil
	}
	var st stored
	if err := json.Unmarshal(data, &st); err != nil {
		return State{}, Message{}, fmt.Errorf("decode state: %w", err)
	}
	s := State{Target: st.Target, EventID: st.Message.EventID, CreatedAt: st.CreatedAt, Phase: st.Phase, Next: st.Next,
		Tried: st.Tried, Total: st.Total, Error: st.Error, Reported: st.Reported, ReminderName: st.Reminder}
	for _, a := range st.Attempts {
		s.Attempts = append(s.Attempts, Attempt(a))
	}
	if !s.Exists() || s.Target == "" || s.Phase == "" {
		return State{}, Message{}, fmt.Errorf("decode state: no delivery of ours")
	}
	return s, Message(st.Message), nil
}

// TargetStatus is a target and how it does, as far as this replica has tried it.
// It has no secret, and no address: the path of one may be a secret.
type TargetStatus struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	Disabled bool       `json:"disabled"` // it answered 410; until a restart
	Failures int        `json:"failuresInARow"`
	Last     *time.Time `json:"lastAttempt,omitempty"`
	Error    string     `json:"lastError,omitempty"` // "" after a success
}
