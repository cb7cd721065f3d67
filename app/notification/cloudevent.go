package notification

import (
	"encoding/json"
	"errors"
	"fmt"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"allregions/app/replication"
)

// The types of the CloudEvents on the topic, one per outcome.
const (
	TypeCompleted = "acr.replication.completed"
	TypeTimedOut  = "acr.replication.timedout"
	TypeRecovered = "acr.replication.recovered"
)

var eventTypes = map[replication.Status]string{
	replication.Replicated: TypeCompleted,
	replication.TimedOut:   TypeTimedOut,
	replication.Recovered:  TypeRecovered,
}

// UnknownSource stands in where ACR does not name its registry, as on chart
// events; a CloudEvent must have a source.
const UnknownSource = "urn:azure:containerregistry"

// EventID is the id of the event that announces an outcome.
func EventID(id string, outcome replication.Status) string { return id + "/" + string(outcome) }

// cloudEvent is the event that announces o. It depends on nothing but what was
// known when o was decided: a second publication has the same id and the same
// bytes as the first.
func cloudEvent(s replication.State, o replication.Outcome) (id string, data []byte, err error) {
	s = s.As(o)
	e := cloudevents.New()
	e.SetID(EventID(s.First.ID, o.Status))
	e.SetType(eventTypes[o.Status])
	e.SetSource(UnknownSource)
	if s.First.Registry != "" {
		e.SetSource("https://" + s.First.Registry)
	}
	e.SetSubject(subject(s.First))
	e.SetTime(o.At)
	setTrace(&e, o.Trace)
	data, err = EncodeEvent(e, statusOf(s))
	return e.ID(), data, err
}

// EncodeEvent returns the JSON of e with data.
func EncodeEvent(e cloudevents.Event, data any) ([]byte, error) {
	if err := errors.Join(e.SetData(cloudevents.ApplicationJSON, data), e.Validate()); err != nil {
		return nil, fmt.Errorf("cloud event %s: %w", e.ID(), err)
	}
	return json.Marshal(e)
}

// subject names the image as a person would: repository:tag, or
// repository@digest where there is no tag.
func subject(e replication.Event) string {
	if e.Tag != "" {
		return e.Repository + ":" + e.Tag
	}
	return e.Repository + "@" + e.Digest
}
