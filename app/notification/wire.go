package notification

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"allregions/app/actor"
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

	Regions  []RegionStatus                `json:"regions"` // the expected ones that have reported, in order of arrival
	Missing  []replication.Region          `json:"missing"`
	Replicas map[replication.Region]string `json:"replicas,omitempty"` // what Azure said of those that are missing, when it timed out
	Optional []RegionStatus                `json:"optional,omitempty"` // all optional ones; without times those that have not reported
	Mismatch bool                          `json:"mismatch"`           // regions disagree on digest or tag
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
	return slices.ContainsFunc(s.Reported(), func(r RegionStatus) bool { return r.Region == region })
}

// Awaited is which regions the notification waits for, and which it does not.
func (s Status) Awaited() (a replication.Awaited) {
	for _, r := range s.Regions {
		a.Expected = append(a.Expected, r.Region)
	}
	a.Expected = append(a.Expected, s.Missing...)
	for _, r := range s.Optional {
		a.Optional = append(a.Optional, r.Region)
	}
	return a
}

// Reported are the regions that have reported: the expected ones, then the optional ones.
func (s Status) Reported() []RegionStatus { return slices.Concat(s.Regions, s.OptionalIn()) }

// OptionalIn are the optional regions that have reported.
func (s Status) OptionalIn() []RegionStatus {
	return slices.DeleteFunc(slices.Clone(s.Optional), func(r RegionStatus) bool { return r.ReceivedAt.IsZero() })
}

// Via tells whether the event of a region came in this way.
func (s Status) Via(via replication.Via) bool {
	return slices.ContainsFunc(s.Reported(), func(r RegionStatus) bool { return r.Via == via })
}

// RegionStatus is one region that has reported, or an optional one. Digest and Tag are
// given only where they are not those of the notification.
type RegionStatus struct {
	Region     replication.Region `json:"region"`
	ReceivedAt time.Time          `json:"receivedAt,omitzero"`
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
		Regions: []RegionStatus{}, Missing: s.Missing(), Replicas: s.Replicas(), Mismatch: s.Mismatch,
	}
	for _, a := range s.Arrivals {
		if slices.Contains(s.Optional, a.Region) {
			st.Optional = append(st.Optional, regionOf(s, a))
		} else {
			st.Regions = append(st.Regions, regionOf(s, a))
		}
	}
	for _, r := range s.Absent(s.Optional) {
		st.Optional = append(st.Optional, RegionStatus{Region: r})
	}
	if n := len(s.Outcomes); n > 0 {
		at := s.Outcomes[n-1].At
		st.ConcludedAt, st.DurationMS = new(at), new(at.Sub(s.StartedAt).Milliseconds())
	}
	return st
}

func regionOf(s replication.State, a replication.Arrival) RegionStatus {
	r := RegionStatus{Region: a.Region, ReceivedAt: a.ReceivedAt, Via: a.Via}
	if !a.EventTime.IsZero() {
		r.EventTime = new(a.EventTime)
	}
	if a.Digest != s.First.Digest {
		r.Digest = a.Digest
	}
	if a.Tag != s.First.Tag {
		r.Tag = a.Tag
	}
	return r
}

// storedEvent is a regional event, in a record and on its way to one.
type storedEvent struct {
	ID         string             `json:"id"`
	Action     string             `json:"action"`
	Registry   string             `json:"registry,omitempty"`
	Repository string             `json:"repository"`
	Tag        string             `json:"tag,omitempty"`
	Digest     string             `json:"digest"`
	MediaType  string             `json:"mediaType,omitempty"`
	Size       int64              `json:"size,omitempty,string"` // some stores keep numbers as 64-bit floats
	Original   string             `json:"original,omitempty"`
	Region     replication.Region `json:"region"`
	Time       time.Time          `json:"time,omitzero"`
	ReceivedAt time.Time          `json:"receivedAt,omitzero"`
	Via        replication.Via    `json:"via,omitempty"`
}

// Message is an event on its way to its notification's actor, directly or by a queue.
// The regions count only for a first event, and are those that the sender
// knows: the actor's host may know older ones.
type Message struct {
	Event    storedEvent          `json:"event"`
	Expected []replication.Region `json:"expected"`
	Optional []replication.Region `json:"optional,omitempty"`
}

// NewMessage returns the message with e.
func NewMessage(e replication.Event, awaited replication.Awaited) Message {
	return Message{storedEvent(e), awaited.Expected, awaited.Optional}
}

// Awaited is what the sender knows of the regions.
func (m Message) Awaited() replication.Awaited {
	return replication.Awaited{Expected: m.Expected, Optional: m.Optional}
}

// reply is what the actor answers.
type reply struct {
	Reason   replication.Reason   `json:"reason"`
	Status   *Status              `json:"status,omitempty"`   // nil if there is no such notification
	Expected []replication.Region `json:"expected,omitempty"` // and optional, with replication.Refused
}

// format is the number of the format of documents that this version writes.
const format = 1

// document is what the store has of a notification: what people search for, and, in
// Actor, what the actor saves and loads. Fields are added, never renamed or given
// another meaning. Those of Status follow Image; of two fields with one name the outer
// one counts, which leaves out the two that people know under other names.
type document struct {
	Format      int       `json:"format"`
	ID          string    `json:"id"`
	Timestamp   time.Time `json:"timestamp"` // ACR's, of the first event; ours where ACR gave none
	Action      string    `json:"action"`
	LoginServer string    `json:"loginServer"`
	Image       string    `json:"image"` // repository

	Registry   any `json:"registry,omitempty"`
	Repository any `json:"repository,omitempty"`
	Status

	Actor any `json:"actor"` // a storedRecord, or its JSON
}

// ownPart is what the actor loads of a document. It has all the fields, so that one that
// it does not know stands out.
type ownPart struct {
	Format, ID, Timestamp, Action, LoginServer, Image, Tag, Digest, MediaType, Size, Status, StartedAt, Deadline,
	ConcludedAt, DurationMS, Regions, Missing, Replicas, Optional, Mismatch actor.Skipped
	Actor storedRecord
}

// storedRecord is a record in the store. Its types have the fields of the domain's, and
// the names and forms that the store keeps.
type storedRecord struct {
	First     storedEvent          `json:"first"`
	Expected  []replication.Region `json:"expected"`
	Optional  []replication.Region `json:"optional,omitempty"`
	StartedAt time.Time            `json:"startedAt"`
	Deadline  time.Time            `json:"deadline"`
	Due       time.Time            `json:"due"`
	Arrivals  []storedArrival      `json:"arrivals"`
	Mismatch  bool                 `json:"mismatch,omitempty"`
	Outcomes  []storedOutcome      `json:"outcomes,omitempty"`
	Reminder  string               `json:"reminder"`
	Saves     int                  `json:"saves"`
}

type storedArrival struct {
	Region     replication.Region `json:"region"`
	ReceivedAt time.Time          `json:"receivedAt"`
	EventTime  time.Time          `json:"eventTime,omitzero"`
	Digest     string             `json:"digest"`
	Tag        string             `json:"tag,omitempty"`
	Via        replication.Via    `json:"via,omitempty"`
}

type storedOutcome struct {
	Status    replication.Status            `json:"status"`
	At        time.Time                     `json:"at"`
	Arrivals  int                           `json:"arrivals"`
	Mismatch  bool                          `json:"mismatch,omitempty"`
	Published bool                          `json:"published,omitempty"`
	Replicas  map[replication.Region]string `json:"replicas,omitempty"`
	Trace     string                        `json:"trace,omitempty"`
}

func storedOf(r record) storedRecord {
	s := storedRecord{First: storedEvent(r.First), Expected: r.Expected, Optional: r.Optional, StartedAt: r.StartedAt, Deadline: r.Deadline,
		Due: r.Due, Mismatch: r.Mismatch, Reminder: r.Reminder, Saves: r.Saves}
	for _, a := range r.Arrivals {
		s.Arrivals = append(s.Arrivals, storedArrival(a))
	}
	for _, o := range r.Outcomes {
		s.Outcomes = append(s.Outcomes, storedOutcome(o))
	}
	return s
}

func (s storedRecord) record() record {
	r := record{Reminder: s.Reminder, Saves: s.Saves, State: replication.State{First: replication.Event(s.First),
		Awaited: replication.Awaited{Expected: s.Expected, Optional: s.Optional}, StartedAt: s.StartedAt, Deadline: s.Deadline, Due: s.Due, Mismatch: s.Mismatch}}
	for _, a := range s.Arrivals {
		r.Arrivals = append(r.Arrivals, replication.Arrival(a))
	}
	for _, o := range s.Outcomes {
		r.Outcomes = append(r.Outcomes, replication.Outcome(o))
	}
	return r
}

// record is what the actor knows of its notification. The zero record is that of a
// notification that has not begun.
type record struct {
	replication.State

	// Reminder is the name of the reminder that does what a crash leaves undone. There
	// may be others, of attempts that failed.
	Reminder string

	// Saves is how often the record was saved, this time included.
	Saves int

	newer *newer // nil for nothing
}

// newer is what a newer version has added to a document: at its top, to what is the
// actor's own, and to the event, the arrivals and the outcomes in that. These lists only
// grow. The regions at the top are made from the arrivals at each save.
type newer struct {
	top, own, first    actor.Fields
	arrivals, outcomes []actor.Fields
}

func (r record) encode() ([]byte, error) {
	more := newer{}
	if r.newer != nil {
		more = *r.newer
	}
	if extend != nil {
		more.top, more.own = extend(more.top), extend(more.own)
	}
	st := statusOf(r.State)
	timestamp := r.First.Time
	if timestamp.IsZero() {
		timestamp = r.StartedAt
	}
	d := document{Format: format, ID: st.ID, Timestamp: timestamp, Action: st.Action,
		LoginServer: st.Registry, Image: st.Repository, Status: st, Actor: storedOf(r)}
	if more.own != nil || r.newer != nil {
		own, err := more.encodeOwn(storedOf(r))
		if err != nil {
			return nil, err
		}
		d.Actor = json.RawMessage(own)
	}
	return actor.Marshal(d, more.top)
}

// encodeOwn encodes what is the actor's own, with what is newer in it.
func (n newer) encodeOwn(s storedRecord) ([]byte, error) {
	first, err1 := actor.Marshal(s.First, n.first)
	arrivals, err2 := encodeEach(s.Arrivals, n.arrivals)
	outcomes, err3 := encodeEach(s.Outcomes, n.outcomes)
	own, err4 := actor.Marshal(struct {
		storedRecord                   // of two fields with one name, the outer one counts
		First        json.RawMessage   `json:"first"`
		Arrivals     []json.RawMessage `json:"arrivals"`
		Outcomes     []json.RawMessage `json:"outcomes,omitempty"`
	}{s, first, arrivals, outcomes}, n.own)
	return own, errors.Join(err1, err2, err3, err4)
}

// encodeEach encodes a list, whose first elements have these fields more.
func encodeEach[T any](list []T, more []actor.Fields) (encoded []json.RawMessage, err error) {
	for i, v := range list {
		var fields actor.Fields
		if i < len(more) {
			fields = more[i]
		}
		data, err := actor.Marshal(v, fields)
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, data)
	}
	return encoded, nil
}

// extend, if not nil, is what a newer version adds; see next.go.
var extend func(actor.Fields) actor.Fields

// decodeRecord reads what encode wrote; no data is the zero record. A record that
// breaks the rules of a State is an error.
func decodeRecord(data []byte) (record, error) {
	if len(data) == 0 {
		return record{}, nil
	}
	var d ownPart
	all, err := actor.Unmarshal(data, &d)
	if err != nil {
		return record{}, fmt.Errorf("decode record: %w", err)
	}
	r := d.Actor.record()
	if !all {
		if r.newer, err = decodeNewer(data); err != nil {
			return record{}, fmt.Errorf("decode record: %w", err)
		}
	}
	return r, r.Check()
}

// decodeNewer decodes what this version does not know of a document.
func decodeNewer(data []byte) (*newer, error) {
	var d struct{ Actor json.RawMessage }
	var own struct {
		First              json.RawMessage
		Arrivals, Outcomes []json.RawMessage
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(d.Actor, &own); err != nil {
		return nil, err
	}
	top, err1 := actor.Unknown[document](data)
	mine, err2 := actor.Unknown[storedRecord](d.Actor)
	first, err3 := actor.Unknown[storedEvent](own.First)
	arrivals, err4 := unknownOfEach[storedArrival](own.Arrivals)
	outcomes, err5 := unknownOfEach[storedOutcome](own.Outcomes)
	return &newer{top, mine, first, arrivals, outcomes}, errors.Join(err1, err2, err3, err4, err5)
}

func unknownOfEach[T any](list []json.RawMessage) (more []actor.Fields, err error) {
	for _, object := range list {
		fields, err := actor.Unknown[T](object)
		if err != nil {
			return nil, err
		}
		more = append(more, fields)
	}
	return more, nil
}
