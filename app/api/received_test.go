package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/replication"
)

// noRegions is a Regions that knows none.
type noRegions struct{ regions }

func (noRegions) Expected(context.Context, string) (replication.Awaited, error) {
	return replication.Awaited{}, errors.New("away")
}

// Each webhook with a key and a body that can be read is told once, and its region
// only if somebody expects it: what a caller makes up is in no metric.
func TestReceived(t *testing.T) {
	recorded := started()
	recorded.Reason = replication.Recorded
	for _, tt := range []struct {
		name, target, body string
		regions            Regions
		result             intake.Result
		err                error
		want               string
	}{
		{"accepted", "?region=eastus", push, nil, recorded, nil, "eastus recorded"},
		{"of a notification that began when the region was expected", "?region=japaneast", push, nil, recorded, nil, "japaneast recorded"},
		{"queued", "?region=eastus", push, nil, intake.Result{Queued: true}, nil, "eastus queued"},
		{"made up, and queued", "?region=mars", push, nil, intake.Result{Queued: true}, nil, " queued"},
		{"made up", "?region=mars", push, nil, intake.Result{}, &notification.RefusedError{Region: "mars"}, " refused"},
		{"no region", "", push, nil, recorded, nil, " refused"},
		{"no id", "?region=eastus", `{"action":"push"}`, nil, recorded, nil, " refused"},
		{"lost", "?region=eastus", push, nil, intake.Result{}, errors.New("away"), "eastus failed"},
		{"made up, and lost", "?region=mars", push, nil, intake.Result{}, errors.New("away"), " failed"},
		{"regions unknown", "?region=eastus", push, noRegions{}, recorded, nil, " failed"},
		{"ping", "?region=eastus", `{"action":"ping"}`, nil, recorded, nil, ""},
		{"not JSON", "?region=eastus", `{`, nil, recorded, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			b := &backend{result: tt.result, err: tt.err}
			c := Config{Intake: b, Statuses: b, Deliveries: &deliveries{}, Regions: regions{"westeurope", "eastus"},
				Keys: NewKeys([]string{key1}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
				Received: func(region replication.Region, result string) { got += string(region) + " " + result }}
			if tt.regions != nil {
				c.Regions = tt.regions
			}
			call(New(c), "POST", "/webhooks/acr"+tt.target, tt.body)
			call(New(c), "POST", "/webhooks/acr"+tt.target, tt.body, "Authorization", "Bearer wrong")
			if got != tt.want {
				t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
			}
		})
	}
}
