package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/notification"
	"allregions/app/replication"
)

// Event is one outcome, as targets are told it.
type Event struct {
	ID     string // of the CloudEvent: the same whenever the outcome is told
	Type   string // of the CloudEvent
	Body   []byte // the whole CloudEvent, JSON
	Status notification.Status

	// Original is the body of the webhook that ACR sent, for targets of type
	// acr. ParseEvent leaves it empty: the CloudEvent does not have it.
	Original []byte
}

// ErrOther is the error of ParseEvent for a CloudEvent that announces no
// outcome.
var ErrOther = errors.New("not an outcome of a notification")

// outcomeOf is what the types of our CloudEvents announce.
var outcomeOf = map[string]replication.Status{
	notification.TypeCompleted: replication.Replicated,
	notification.TypeTimedOut:  replication.TimedOut,
	notification.TypeRecovered: replication.Recovered,
}

// validID is what an event's id must look like. It goes into a header.
var validID = regexp.MustCompile(`^[\x21-\x7e]{1,256}$`)

// ParseEvent reads a CloudEvent in structured JSON. Attributes that it does not
// know, such as those that Dapr adds, stay in Body and change nothing. What
// announces no outcome is ErrOther; every other error means that the event is
// broken.
func ParseEvent(cloudEvent []byte) (Event, error) {
	var wire struct {
		ID   string          `json:"id"`
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(cloudEvent, &wire); err != nil {
		return Event{}, fmt.Errorf("parse cloud event: %w", err)
	}
	outcome, ok := outcomeOf[wire.Type]
	if !ok {
		return Event{}, fmt.Errorf("cloud event of type %.100q: %w", wire.Type, ErrOther)
	}
	if !validID.MatchString(wire.ID) {
		return Event{}, fmt.Errorf("cloud event with id %.100q: not 1 to 256 printable characters", wire.ID)
	}
	e := Event{ID: wire.ID, Type: wire.Type, Body: bytes.Clone(cloudEvent)}
	if err := json.Unmarshal(wire.Data, &e.Status); err != nil {
		return Event{}, fmt.Errorf("data of cloud event %s: %w", wire.ID, err)
	}
	if e.Status.Status != outcome {
		return Event{}, fmt.Errorf("cloud event %s: of type %s, but its data have the status %.100q", wire.ID, wire.Type, e.Status.Status)
	}
	return e, nil
}

// Target is one that is told about outcomes. Load makes them; the zero Target is
// none. Printed in any way, it shows its name and type and nothing else.
type Target struct {
	Name string
	Type string

	// s is a function because package fmt, when it prints a Target by
	// reflection as a part of something else, goes behind pointers for some verbs.
	s func() *settings
}

// settings is what a target keeps to itself.
type settings struct {
	kind     kind
	url      *url.URL
	token    string // of github
	signers  []*standardwebhooks.Webhook
	header   http.Header
	outcomes []replication.Status
	filter   *filter // nil takes everything
	hidden   hidden
}

// String is the target's name and type.
func (t Target) String() string { return t.Name + " (" + t.Type + ")" }

// GoString is String, because Go syntax would show everything.
func (t Target) GoString() string { return "target.Target(" + t.String() + ")" }

// Format prints String for every verb, also for those that do not ask for it,
// such as %d.
func (t Target) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		io.WriteString(f, t.GoString())
		return
	}
	io.WriteString(f, t.String())
}

// LogValue is the target's name and type.
func (t Target) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", t.Name), slog.String("type", t.Type))
}

// MarshalJSON writes the target's name and type.
func (t Target) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}{t.Name, t.Type})
}

// Wants tells whether the target is to be told of e: whether it is one of its
// outcomes, and its filter takes it. An error means that the filter failed on
// this event: it read an element that is not there, say, or cost too much. It
// will fail again on the same event.
func (t *Target) Wants(e Event) (bool, error) {
	s := t.s()
	if !slices.Contains(s.outcomes, outcomeOf[e.Type]) {
		return false, nil
	}
	if s.filter == nil {
		return true, nil
	}
	ok, err := s.filter.takes(e.Status)
	if err != nil {
		return false, fmt.Errorf("filter of target %s: %w", t.Name, err)
	}
	return ok, nil
}
