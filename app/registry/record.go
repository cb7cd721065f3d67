package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"allregions/app/replication"
)

// format is the number of the format of records that this version writes.
const format = 1

// record is what the service knows of one registry. Its JSON form is stored: fields are
// added, never renamed or given another meaning. The zero record is that of a registry
// of which nothing is known.
type record struct {
	// Reminder is the name of the reminder that wakes the actor. There may be others,
	// of attempts that failed.
	Reminder string `json:"reminder,omitempty"`

	Lease       lease       `json:"lease,omitzero"`
	Asked       time.Time   `json:"asked,omitzero"` // since when the replicas are to be read again, because an unexpected region posted
	LoginServer string      `json:"loginServer,omitempty"`
	Replicas    replicas    `json:"replicas,omitzero"`
	Webhooks    webhooks    `json:"webhooks,omitzero"`
	Sweep       sweepRecord `json:"sweep,omitzero"`
}

// progress is where one kind of work stands.
type progress struct {
	At       time.Time `json:"at,omitzero"`        // when it was last done without an error
	Tried    time.Time `json:"tried,omitzero"`     // when it was last done at all
	Next     time.Time `json:"next,omitzero"`      // before that it is not due
	Error    string    `json:"error,omitempty"`    // of the last try
	Failures int       `json:"failures,omitempty"` // in a row
}

// replicas are those of the registry, and what ARM said of each.
type replicas struct {
	progress
	List []replica `json:"list,omitempty"` // the home region first, then by region
}

// replica is the registry in one region.
type replica struct {
	Region replication.Region `json:"region"`
	Name   string             `json:"name,omitempty"` // of the resource; "" if the registry is not replicated
	State  string             `json:"state"`          // ARM's word, such as Succeeded, or notFound
	Counts bool               `json:"counts,omitempty"`
	Since  time.Time          `json:"since"` // when the state was read for the first time
}

// webhooks are those that the service registers.
type webhooks struct {
	progress
	Regions []replication.Region        `json:"regions,omitempty"` // those for which they were checked last
	By      map[replication.Region]hook `json:"by,omitempty"`
}

// hook is what is known of the webhook of a region.
type hook struct {
	Name       string    `json:"name"`
	Registered bool      `json:"registered,omitempty"` // it is as it must be
	Problem    string    `json:"problem,omitempty"`    // what is wrong, if anything is
	CheckedAt  time.Time `json:"checkedAt"`

	// The newest firing in ACR's log that was no ping, and the newest that was one.
	LastAnswer *answer `json:"lastAnswer,omitempty"`
	LastPing   *answer `json:"lastPing,omitempty"`
}

// answer is what ACR was answered when it fired a webhook.
type answer struct {
	At     time.Time `json:"at"`
	Status string    `json:"status"` // HTTP; "" while ACR has none
}

// answered tells whether the service took what ACR fired.
func (a *answer) answered() bool { return a != nil && len(a.Status) == 3 && a.Status[0] == '2' }

// expected are the regions that a notification that begins now waits for.
func (r replicas) expected() (regions []replication.Region) {
	for _, have := range r.List {
		if have.Counts {
			regions = append(regions, have.Region)
		}
	}
	return regions
}

// stored is a record in the store.
type stored struct {
	Format int `json:"format"`
	record
}

func (r record) encode() ([]byte, error) { return json.Marshal(stored{format, r}) }

// replace encodes r, with what a newer version has added to the record that it replaces.
func (r record) replace(old []byte) ([]byte, error) {
	before, err := decodeRecord(old)
	if err != nil {
		return nil, err
	}
	known, err := before.encode()
	if err != nil {
		return nil, err
	}
	data, err := r.encode()
	if err != nil {
		return nil, err
	}
	return keepUnknown(old, known, data), nil
}

// decodeRecord reads what encode wrote; no data is the zero record.
func decodeRecord(data []byte) (record, error) {
	if len(data) == 0 {
		return record{}, nil
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return record{}, fmt.Errorf("decode record: %w", err)
	}
	if s.Format < 1 || slices.ContainsFunc(s.Replicas.List, func(r replica) bool { return r.Region == "" }) {
		return record{}, fmt.Errorf("decode record: not one of ours, of format %d", s.Format)
	}
	return s.record, nil
}
