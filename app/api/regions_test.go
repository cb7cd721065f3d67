package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"allregions/app/catalog"
	"allregions/app/intake"
	"allregions/app/registry"
)

// known are regions with a status that a test made.
type known struct {
	regions
	status registry.Status
}

func (k known) Registries() []registry.Status { return []registry.Status{k.status} }

func TestRegions(t *testing.T) {
	at := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)
	full := registry.Status{Name: "contoso", LoginServer: "contoso.azurecr.io", Source: "azure", Read: &registry.Reading{At: at},
		Regions: []registry.RegionStatus{{Region: "westeurope", Expected: true, Replica: "Succeeded", Webhook: &registry.WebhookStatus{Name: "w", Registered: true, CheckedAt: at}},
			{Region: "eastus", Replica: "Creating"}}, Sweep: registry.SweepStatus{Enabled: true, At: at, Found: 3}}
	activity := func(context.Context) (map[catalog.Place]catalog.Activity, error) {
		return map[catalog.Place]catalog.Activity{{Registry: "contoso.azurecr.io", Region: "westeurope"}: {LastEvent: at, Median: 1234 * time.Millisecond, P95: 5 * time.Second, Count: 17, Missed: 2},
			{Registry: "fabrikam.azurecr.io", Region: "eastus"}: {LastEvent: at}, {Region: "westeurope"}: {LastEvent: at, Missed: 7}}, nil
	}
	dead := func(context.Context) (intake.DeadSummary, error) {
		return intake.DeadSummary{Count: 1, Last: &intake.DeadLetter{At: at, Event: "a", Reason: "no such region"}}, nil
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"a list", func(*Config) {}, `{"registries":[{"name":"","loginServer":"","source":"settings","regions":[{"region":"westeurope","expected":true,"replica":"","missed":0},
			{"region":"eastus","expected":true,"replica":"","missed":0}],"sweep":{"enabled":false,"found":0,"error":""}}],"deadLetters":{"count":0}}`},
		{"everything", func(c *Config) { c.Regions, c.Activity, c.DeadLetters = known{status: full}, activity, dead },
			`{"registries":[{"name":"contoso","loginServer":"contoso.azurecr.io","source":"azure","read":{"at":"2026-11-27T08:00:00Z","error":""},"regions":[
			{"region":"westeurope","expected":true,"replica":"Succeeded","webhook":{"name":"w","registered":true,"problem":"","checkedAt":"2026-11-27T08:00:00Z"},
			"lastEvent":"2026-11-27T08:00:00Z","latencyMs":{"median":1234,"p95":5000,"count":17},"missed":2},{"region":"eastus","expected":false,"replica":"Creating","missed":0}],
			"sweep":{"enabled":true,"at":"2026-11-27T08:00:00Z","found":3,"error":""}}],
			"deadLetters":{"count":1,"last":{"at":"2026-11-27T08:00:00Z","event":"a","reason":"no such region"}}}`},
		{"a list, and what came", func(c *Config) { c.Activity = activity }, `{"registries":[{"name":"","loginServer":"","source":"settings","regions":[
			{"region":"westeurope","expected":true,"replica":"","lastEvent":"2026-11-27T08:00:00Z","missed":7},
			{"region":"eastus","expected":true,"replica":"","missed":0}],"sweep":{"enabled":false,"found":0,"error":""}}],"deadLetters":{"count":0}}`},
		{"what cannot be read", func(c *Config) {
			c.Regions = known{status: registry.Status{Regions: []registry.RegionStatus{}}}
			c.Activity = func(context.Context) (map[catalog.Place]catalog.Activity, error) { return nil, errors.New("away") }
			c.DeadLetters = func(context.Context) (intake.DeadSummary, error) { return intake.DeadSummary{}, errors.New("away") }
		}, `{"registries":[{"name":"","loginServer":"","source":"","regions":[],"sweep":{"enabled":false,"found":0,"error":""}}],"deadLetters":{"count":0}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newHandler(&backend{}, io.Discard).config
			tt.change(&c)
			w := call(New(c), http.MethodGet, "/regions", "")
			var got, want any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if json.Unmarshal(w.Body.Bytes(), &got) != nil || w.Code != http.StatusOK || !reflect.DeepEqual(got, want) {
				t.Errorf("%d\n got %s\nwant %s", w.Code, w.Body, strings.Join(strings.Fields(tt.want), ""))
			}
			if err := checker(t)(t, "Registries", w.Body.Bytes()); err != nil && len(c.Regions.Registries()[0].Regions) > 0 {
				t.Errorf("not as openapi.yaml says: %v", err)
			}
		})
	}
	if w := call(newHandler(&backend{}, io.Discard), http.MethodGet, "/regions", "", "Authorization", "Bearer wrong"); w.Code != http.StatusUnauthorized {
		t.Errorf("without a key: %d", w.Code)
	}
}
