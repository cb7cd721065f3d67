package registry

import (
	"context"
	"slices"
	"time"

	"allregions/app/replication"
)

// Status is what the service knows of a registry, as GET /regions shows it. Times are UTC.
type Status struct {
	Name        string         `json:"name"`        // of the resource; "" where it is not known
	LoginServer string         `json:"loginServer"` // the usual one until Azure has said it; "" where the name is not known
	Source      string         `json:"source"`      // of the expected regions: azure or settings
	Read        *Reading       `json:"read,omitempty"`
	Regions     []RegionStatus `json:"regions"`
	Sweep       SweepStatus    `json:"sweep"`
	IDs         *IDsStatus     `json:"ids,omitempty"` // absent while they agree
}

// Reading is the last reading of the replicas.
type Reading struct {
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error"` // of the last try
}

// RegionStatus is one region.
type RegionStatus struct {
	Region   replication.Region `json:"region"`
	Expected bool               `json:"expected"`           // whether a notification that begins now waits for it
	Optional bool               `json:"optional,omitempty"` // whether nobody waits for it; it may be none of the registry's
	Replica  string             `json:"replica"`            // ARM's word: Succeeded, Updating, Creating, Deleting, Failed, NotFound; "" if it is not known
	Webhook  *WebhookStatus     `json:"webhook,omitempty"`
}

// WebhookStatus is the webhook that the service registers in a region.
type WebhookStatus struct {
	Name       string      `json:"name"`
	Registered bool        `json:"registered"` // it is as it must be
	Problem    string      `json:"problem"`    // what is wrong, if anything is
	CheckedAt  time.Time   `json:"checkedAt,omitzero"`
	LastAnswer *answer     `json:"lastAnswer,omitempty"`
	LastPing   *PingStatus `json:"lastPing,omitempty"`
}

// PingStatus is the newest ping of a webhook.
type PingStatus struct {
	answer
	Answered bool `json:"answered"` // by the service, with a 2xx
}

// SweepStatus is the last sweep of ACR's log.
type SweepStatus struct {
	Enabled bool      `json:"enabled"`
	At      time.Time `json:"at,omitzero"`
	Found   int       `json:"found"` // events that no notification had, since the record began
	Error   string    `json:"error"`
}

// IDsStatus is about pushes to which ACR gives several ids.
type IDsStatus struct {
	Disagree *disagreement `json:"disagree"`
}

const (
	fromAzure    = "azure"
	fromSettings = "settings"
)

// Status is what this process knows of the registry.
func (w *Worker) Status() Status {
	r, _ := w.current()
	awaited, _ := w.Expected(context.Background()) // without any, none is expected
	loginServer, _ := w.loginServer()
	s := Status{Name: w.Name, LoginServer: loginServer, Source: fromAzure, Regions: []RegionStatus{},
		Sweep: SweepStatus{Enabled: w.Sweep != nil, At: r.Sweep.At, Found: r.Sweep.Found, Error: r.Sweep.Error}}
	if !r.Replicas.Tried.IsZero() {
		s.Read = &Reading{At: r.Replicas.At, Error: r.Replicas.Error}
	}
	for _, have := range r.Replicas.List {
		s.Regions = append(s.Regions, RegionStatus{
			Region: have.Region, Expected: slices.Contains(awaited.Expected, have.Region), Optional: slices.Contains(w.Optional, have.Region),
			Replica: have.State, Webhook: w.webhookStatus(r, have.Region),
		})
	}
	if len(r.Replicas.List) == 0 && len(awaited.Expected) > 0 {
		s.Source, s.Regions = fromSettings, Fixed{awaited}.status()
	} else if len(r.Replicas.List) > 0 {
		for _, region := range w.unmatched(r) {
			s.Regions = append(s.Regions, RegionStatus{Region: region, Optional: true})
		}
	}
	if r.Sweep.Disagree != nil {
		s.IDs = &IDsStatus{r.Sweep.Disagree}
	}
	return s
}

// webhookStatus is that of a region's webhook; nil if the service does not care for it. The
// sweep, which is more frequent, may know a newer answer.
func (w *Worker) webhookStatus(r record, region replication.Region) *WebhookStatus {
	h := r.Webhooks.By[region]
	if h.Name == "" || w.Webhooks == nil {
		return nil
	}
	if last := r.Sweep.Logs[h.Name].Last; last != nil && (h.LastAnswer == nil || last.At.After(h.LastAnswer.At)) {
		h.LastAnswer = last
	}
	s := &WebhookStatus{Name: h.Name, Registered: h.Registered, Problem: h.Problem, CheckedAt: h.CheckedAt, LastAnswer: h.LastAnswer}
	if h.LastPing != nil {
		s.LastPing = &PingStatus{*h.LastPing, h.LastPing.answered()}
	}
	return s
}

// Registries is one entry, for whichever registries there are: nothing is known but the list.
func (f Fixed) Registries() []Status {
	return []Status{{Source: fromSettings, Regions: f.status()}}
}

func (f Fixed) status() []RegionStatus {
	regions := []RegionStatus{}
	for _, region := range f.Awaited.Expected {
		regions = append(regions, RegionStatus{Region: region, Expected: true})
	}
	for _, region := range f.Awaited.Optional {
		regions = append(regions, RegionStatus{Region: region, Optional: true})
	}
	return regions
}
