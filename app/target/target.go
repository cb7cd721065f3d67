package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"allregions/app/notification"
	"allregions/app/replication"
)

// Event is an outcome, as a target gets it.
type Event struct {
	ID     string // of the CloudEvent: the same at every publication of the outcome
	Type   string // of the CloudEvent
	Body   []byte // the whole CloudEvent, JSON
	Status notification.Status

	// Original is the body of the webhook that ACR sent, for targets of type
	// acr. ParseEvent leaves it empty: the CloudEvent does not have it.
	Original []byte

	Link string // where people see the notification; "" if that is not known. ParseEvent leaves it empty, too
}

// ErrOther is the error of ParseEvent for a CloudEvent that announces no
// outcome.
var ErrOther = errors.New("not an outcome of a notification")

// outcomeOf maps the types of our CloudEvents to the outcomes that they announce.
var outcomeOf = map[string]replication.Status{
	notification.TypeCompleted: replication.Replicated,
	notification.TypeTimedOut:  replication.TimedOut,
	notification.TypeRecovered: replication.Recovered,
}

// validID is what an event's id must look like. It goes into a header.
var validID = regexp.MustCompile(`^[\x21-\x7e]{1,256}$`)

// ParseEvent reads a CloudEvent in structured JSON. Other attributes, such as those
// that Dapr adds, stay in Body and change nothing. The error of an event that
// announces no outcome is ErrOther; every other error means that the event is broken.
func ParseEvent(data []byte) (Event, error) {
	var parsed cloudevents.Event
	if err := json.Unmarshal(data, &parsed); err != nil {
		return Event{}, fmt.Errorf("parse cloud event: %w", err)
	}
	e := Event{ID: parsed.ID(), Type: parsed.Type(), Body: bytes.Clone(data)}
	outcome, ok := outcomeOf[e.Type]
	if !ok {
		return Event{}, fmt.Errorf("cloud event of type %.100q: %w", e.Type, ErrOther)
	}
	if !validID.MatchString(e.ID) {
		return Event{}, fmt.Errorf("cloud event with id %.100q: not 1 to 256 printable characters", e.ID)
	}
	if err := parsed.DataAs(&e.Status); err != nil {
		return Event{}, fmt.Errorf("data of cloud event %s: %w", e.ID, err)
	}
	if e.Status.Status != outcome {
		return Event{}, fmt.Errorf("cloud event %s: of type %s, but its data have the status %.100q", e.ID, e.Type, e.Status.Status)
	}
	return e, nil
}

// Target is one receiver of outcomes. Load makes them; the zero Target is none.
// Printed in any way, it shows its name and type, and nothing of its settings.
type Target struct {
	Name string `json:"name"`
	Type string `json:"type"`

	// s is a function because package fmt, when it prints a Target by
	// reflection as a part of something else, follows pointers for some verbs.
	s func() *settings
}

// String is the target's name and type.
func (t Target) String() string { return t.Name + " (" + t.Type + ")" }

// settings are what a target keeps to itself.
type settings struct {
	kind     kind
	url      *url.URL
	signers  []*standardwebhooks.Webhook
	header   http.Header // as configured, and what authenticates us
	outcomes []replication.Status
	filter   *filter
	timeout  time.Duration // of an attempt, response included
	hidden   hidden
}

// kind is what sets the targets of one type apart.
type kind struct {
	outcomes []replication.Status          // by default
	filter   string                        // by default; empty takes everything
	secret   func(*settings, string) error // stores the secret; nil if the kind has none
	path     *regexp.Regexp                // what the URL's path must match; nil for any path
	example  string                        // of a URL, where path is set
	original bool                          // the body is what ACR sent
	header   map[string]string             // of every request, beside defaultHeader and in its place
	reserved []string                      // headers that cannot be configured, beside those of all kinds
	body     func(Event) ([]byte, error)
}

var kinds = map[string]kind{"webhook": webhookKind, "acr": acrKind, "slack": slackKind, "teams": teamsKind, "github": githubKind}

var defaultHeader = map[string]string{"Content-Type": "application/json"}

// WantsOriginal tells whether the target gets what ACR sent, and not the CloudEvent.
func (t *Target) WantsOriginal() bool { return t.s().kind.original }

// Wants tells whether the target is to get e: whether e is one of its outcomes, and
// its filter takes it. An error means that the filter failed on this event: it read
// an element that is not there, say, or cost too much. It will fail again on the
// same event.
func (t *Target) Wants(e Event) (bool, error) {
	s := t.s()
	if !slices.Contains(s.outcomes, outcomeOf[e.Type]) {
		return false, nil
	}
	ok, err := s.filter.takes(e.Status)
	if err != nil {
		return false, fmt.Errorf("filter of target %s: %w", t.Name, err)
	}
	return ok, nil
}

// request makes the request that delivers e. An error means that there is none for
// this event, and quotes nothing.
func (t *Target) request(ctx context.Context, e Event, now time.Time) (*http.Request, error) {
	s := t.s()
	body, err := s.kind.body(e)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the request cannot be made") // the error quotes the URL
	}
	request.Header = s.header.Clone()
	for _, header := range []map[string]string{defaultHeader, s.kind.header} {
		for name, value := range header {
			request.Header.Set(name, value)
		}
	}
	if len(s.signers) > 0 {
		err = s.sign(request.Header, e, now)
	}
	return request, err
}
