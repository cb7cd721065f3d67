package notification

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"allregions/app/replication"
)

// Status is the JSON status of a notification: the answer of the HTTP API and
// the data of every CloudEvent. Times are UTC.
type Status struct {
	ID         string `json:"id"`
	Action     string `json:"action"`
	Registry   string `json:"registry"` // login server; "" where ACR does not say (charts)
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	MediaType  string `json:"mediaType"`
	Size       int64  `json:"size"` // bytes; 0 where ACR does not say

	Status      replication.Status `json:"status"` // collecting, replicated, timedOut, recovered
	StartedAt   time.Time          `json:"startedAt"`
	Deadline    time.Time          `json:"deadline"`
	ConcludedAt *time.Time         `json:"concludedAt,omitempty"` // of the newest outcome
	DurationMS  *int64             `json:"durationMs,omitempty"`  // startedAt to concludedAt

	Regions  []RegionStatus       `json:"regions"` // in order of arrival
	Missing  []replication.Region `json:"missing"`
	Mismatch bool                 `json:"mismatch"` // regions disagree on digest or tag
}

// Concluded tells whether an outcome was reached.
func (s Status) Concluded() bool { return s.Status != replication.Collecting }

// IsArrival tells whether an image came with this. A delete that is replicated
// means that the image is nowhere, and one in quarantine cannot be pulled.
func (s Status) IsArrival() bool {
	switch s.Action {
	case "delete", "chart_delete", "quarantine":
		return false
	}
	return true
}

// Has tells whether region has reported.
func (s Status) Has(region replication.Region) bool {
	return slices.ContainsFunc(s.Regions, func(r RegionStatus) bool { return r.Region == region })
}

// RegionStatus is one region that has reported. Digest and Tag are given only
// where they are not those of the notification.
type RegionStatus struct {
	Region     replication.Region `json:"region"`
	ReceivedAt time.Time          `json:"receivedAt"`
	EventTime  *time.Time         `json:"eventTime,omitempty"` // as ACR gave it
	Digest     string             `json:"digest,omitempty"`
	Tag        string             `json:"tag,omitempty"`
	Via        replication.Via    `json:"via,omitempty"` // queue or event-log, if it did not come straight from the webhook
}

func statusOf(s replication.State) Status {
	st := Status{
		ID: s.First.ID, Action: s.First.Action, Registry: s.First.Registry,
		Repository: s.First.Repository, Tag: s.First.Tag, Digest: s.First.Digest,
		MediaType: s.First.MediaType, Size: s.First.Size,
		Status: s.Status(), StartedAt: s.StartedAt, Deadline: s.Deadline,
		Regions: []RegionStatus{}, Missing: []replication.Region{}, Mismatch: s.Mismatch,
	}
	for _, a := range s.Arrivals {
		r := RegionStatus{Region: a.Region, ReceivedAt: a.ReceivedAt, EventTime: pointer(a.EventTime), Via: a.Via}
		if a.Digest != s.First.Digest {
			r.Digest = a.Digest
		}
		if a.Tag != s.First.Tag {
			r.Tag = a.Tag
		}
		st.Regions = append(st.Regions, r)
	}
	st.Missing = append(st.Missing, s.Missing()...)
	if n := len(s.Outcomes); n > 0 {
		at := s.Outcomes[n-1].At
		ms := at.Sub(s.StartedAt).Milliseconds()
		st.ConcludedAt, st.DurationMS = &at, &ms
	}
	return st
}

// eventMessage is a regional event on its way to the actor.
type eventMessage struct {
	ID         string             `json:"id"`
	Action     string             `json:"action"`
	Registry   string             `json:"registry,omitempty"`
	Repository string             `json:"repository"`
	Tag        string             `json:"tag,omitempty"`
	Digest     string             `json:"digest"`
	MediaType  string             `json:"mediaType,omitempty"`
	Size       int64              `json:"size,omitempty,string"` // Cosmos rounds numbers above 2^53
	Original   string             `json:"original,omitempty"`
	Region     replication.Region `json:"region"`
	Time       *time.Time         `json:"time,omitempty"`
	ReceivedAt *time.Time         `json:"receivedAt,omitempty"`
	Via        replication.Via    `json:"via,omitempty"`
}

func messageOf(e replication.Event) eventMessage {
	return eventMessage{e.ID, e.Action, e.Registry, e.Repository, e.Tag, e.Digest, e.MediaType, e.Size, e.Original, e.Region, pointer(e.Time), pointer(e.ReceivedAt), e.Via}
}

func (m eventMessage) event() replication.Event {
	return replication.Event{ID: m.ID, Action: m.Action, Registry: m.Registry, Repository: m.Repository,
		Tag: m.Tag, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, Original: m.Original, Region: m.Region, Time: value(m.Time), ReceivedAt: value(m.ReceivedAt), Via: m.Via}
}

// Message is an event on its way to its notification's actor, directly or by a queue.
// The expected regions count only for a first event, and are those that the sender
// knows: the actor's host may know older ones.
type Message struct {
	Event    replication.Event
	Expected []replication.Region
}

type message struct {
	Event    eventMessage         `json:"event"`
	Expected []replication.Region `json:"expected"`
}

// MarshalJSON is for package json, like UnmarshalJSON.
func (m Message) MarshalJSON() ([]byte, error) {
	return json.Marshal(message{messageOf(m.Event), m.Expected})
}

func (m *Message) UnmarshalJSON(data []byte) error {
	var w message
	err := json.Unmarshal(data, &w)
	m.Event, m.Expected = w.Event.event(), w.Expected
	return err
}

// reply is what the actor answers.
type reply struct {
	Reason   replication.Reason   `json:"reason"`
	Status   *Status              `json:"status,omitempty"`   // nil if there is no such notification
	Expected []replication.Region `json:"expected,omitempty"` // with replication.Refused
}

// format is the number of the format of records that this version writes.
const format = 1

// record is a notification in the store: what a person finds, and, in Actor, what the
// actor saves and loads. Fields are added, never renamed or given another meaning.
type record struct {
	Format      int                  `json:"format"`
	ID          string               `json:"id"`
	Timestamp   time.Time            `json:"timestamp"` // ACR's, of the first event; ours where ACR gave none
	Action      string               `json:"action"`
	LoginServer string               `json:"loginServer"`
	Image       string               `json:"image"` // repository
	Tag         string               `json:"tag"`
	Digest      string               `json:"digest"`
	MediaType   string               `json:"mediaType"`
	Size        int64                `json:"size"`
	Status      replication.Status   `json:"status"`
	StartedAt   time.Time            `json:"startedAt"`
	Deadline    time.Time            `json:"deadline"`
	ConcludedAt *time.Time           `json:"concludedAt,omitempty"`
	DurationMS  *int64               `json:"durationMs,omitempty"`
	Regions     []RegionStatus       `json:"regions"`
	Missing     []replication.Region `json:"missing"`
	Mismatch    bool                 `json:"mismatch"`

	Actor storedState `json:"actor"`
}

// storedState is the actor's own part of a record. Times and the size are strings,
// because Cosmos keeps numbers as 64-bit floats.
type storedState struct {
	First     eventMessage         `json:"first"`
	Expected  []replication.Region `json:"expected"`
	StartedAt time.Time            `json:"startedAt"`
	Deadline  time.Time            `json:"deadline"`
	Due       time.Time            `json:"due"`
	Arrivals  []storedArrival      `json:"arrivals"`
	Mismatch  bool                 `json:"mismatch,omitempty"`
	Outcomes  []storedOutcome      `json:"outcomes,omitempty"`
	Reminder  string               `json:"reminder"`
}

type storedArrival struct {
	Region     replication.Region `json:"region"`
	ReceivedAt time.Time          `json:"receivedAt"`
	EventTime  *time.Time         `json:"eventTime,omitempty"`
	Digest     string             `json:"digest"`
	Tag        string             `json:"tag,omitempty"`
	Via        replication.Via    `json:"via,omitempty"`
}

type storedOutcome struct {
	Status    replication.Status `json:"status"`
	At        time.Time          `json:"at"`
	Arrivals  int                `json:"arrivals"`
	Mismatch  bool               `json:"mismatch,omitempty"`
	Published bool               `json:"published,omitempty"`
	Trace     string             `json:"trace,omitempty"`
}

func storedOf(s replication.State) storedState {
	st := storedState{First: messageOf(s.First), Expected: s.Expected, StartedAt: s.StartedAt, Deadline: s.Deadline, Due: s.Due,
		Mismatch: s.Mismatch, Reminder: s.ReminderName}
	for _, a := range s.Arrivals {
		st.Arrivals = append(st.Arrivals, storedArrival{Region: a.Region, ReceivedAt: a.ReceivedAt,
			EventTime: pointer(a.EventTime), Digest: a.Digest, Tag: a.Tag, Via: a.Via})
	}
	for _, o := range s.Outcomes {
		st.Outcomes = append(st.Outcomes, storedOutcome(o))
	}
	return st
}

func (st storedState) state() replication.State {
	s := replication.State{First: st.First.event(), Expected: st.Expected, StartedAt: st.StartedAt, Deadline: st.Deadline, Due: st.Due,
		Mismatch: st.Mismatch, ReminderName: st.Reminder}
	for _, a := range st.Arrivals {
		s.Arrivals = append(s.Arrivals, replication.Arrival{Region: a.Region, ReceivedAt: a.ReceivedAt,
			EventTime: value(a.EventTime), Digest: a.Digest, Tag: a.Tag, Via: a.Via})
	}
	for _, o := range st.Outcomes {
		s.Outcomes = append(s.Outcomes, replication.Outcome(o))
	}
	return s
}

func encodeRecord(s replication.State) ([]byte, error) {
	st := statusOf(s)
	timestamp := s.First.Time
	if timestamp.IsZero() {
		timestamp = s.StartedAt
	}
	return json.Marshal(record{
		Format: format, ID: st.ID, Timestamp: timestamp, Action: st.Action, LoginServer: st.Registry, Image: st.Repository,
		Tag: st.Tag, Digest: st.Digest, MediaType: st.MediaType, Size: st.Size, Status: st.Status,
		StartedAt: st.StartedAt, Deadline: st.Deadline, ConcludedAt: st.ConcludedAt, DurationMS: st.DurationMS,
		Regions: st.Regions, Missing: st.Missing, Mismatch: st.Mismatch,
		Actor: storedOf(s),
	})
}

// decodeRecord reads what encodeRecord wrote; no data is the zero State. What
// breaks the rules of a State is an error and not a State.
func decodeRecord(data []byte) (replication.State, error) {
	if len(data) == 0 {
		return replication.State{}, nil
	}
	var r struct {
		Actor storedState `json:"actor"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return replication.State{}, fmt.Errorf("decode record: %w", err)
	}
	s := r.Actor.state()
	return s, s.Check()
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func value(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
