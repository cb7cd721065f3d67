package registry

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

// TestStatus is GET /regions, as far as this package knows it.
func TestStatus(t *testing.T) {
	r := full()
	r.Replicas.List = append(r.Replicas.List, replica{Region: "eastus", State: "Creating"}, replica{Region: "japaneast", State: "Succeeded", Counts: true})
	r.Webhooks.By["japaneast"] = hook{Name: "j", Problem: "refuse: another one has its name", CheckedAt: t0, LastPing: &answer{t0, "401"}}
	view := &View{Name: "contoso", Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	view.learn(r)
	w := NewWorker(view, "a", nil, nil)
	if got := w.Status().Regions[0].Webhook; got != nil {
		t.Errorf("webhooks are left alone, and there is %+v", got)
	}
	w.Webhooks = &Registration{}
	check := func(sweep string, last string) {
		t.Helper()
		data, err := json.Marshal(Set{{Worker: w}}.Registries())
		if err != nil {
			t.Fatal(err)
		}
		want := `[{"name":"contoso","loginServer":"contoso.azurecr.io","source":"azure","read":{"at":"2026-11-27T08:00:00Z","error":"away"},"regions":[
			{"region":"westeurope","expected":true,"replica":"Succeeded","webhook":{"name":"w","registered":true,"problem":"p","checkedAt":"2026-11-27T08:00:00Z",
				"lastAnswer":` + last + `,"lastPing":{"at":"2026-11-27T08:00:00Z","status":"204","answered":true}}},
			{"region":"eastus","expected":false,"replica":"Creating"},
			{"region":"japaneast","expected":true,"replica":"Succeeded","webhook":{"name":"j","registered":false,"problem":"refuse: another one has its name","checkedAt":"2026-11-27T08:00:00Z",
				"lastPing":{"at":"2026-11-27T08:00:00Z","status":"401","answered":false}}}],
			"sweep":{"enabled":false,"at":"2026-11-27T08:00:00Z","found":3,"error":"away"},
			"ids":{"disagree":{"at":"2026-11-27T08:00:00Z","events":[{"id":"a","region":"westeurope","time":"2026-11-27T08:00:00Z"},{"id":"b","region":"eastus","time":"2026-11-27T08:00:00Z"}]}}}]`
		var got, wanted any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal(data, &got) != nil || !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s\n got %s\nwant %s", sweep, data, strings.Join(strings.Fields(want), " "))
		}
	}
	check("no sweep yet", `{"at":"2026-11-27T08:00:00Z","status":"202"}`)
	f := firing{status: "503", event: replication.Event{ReceivedAt: t0.Add(time.Minute)}}
	r.Sweep = r.Sweep.carry([]logReading{{webhook: "w", firings: []firing{f}}}, t0, t0)
	view.learn(r)
	check("a sweep has seen a newer answer", `{"at":"2026-11-27T08:01:00Z","status":"503"}`)
}
