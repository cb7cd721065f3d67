package registry

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

// full is a record with everything in it.
func full() record {
	p := progress{At: t0, Tried: t0.Add(1), Next: t0.Add(time.Minute), Error: "away", Failures: 2}
	return record{
		Reminder: "check-1", Lease: lease{"replica-1", t0}, Asked: t0, LoginServer: "contoso.azurecr.io",
		Replicas: replicas{p, []replica{{Region: "westeurope", Name: "w", State: "Succeeded", Counts: true, Since: t0}}},
		Webhooks: webhooks{p, []replication.Region{"westeurope"}, map[replication.Region]hook{"westeurope": {
			Name: "w", Registered: true, Problem: "p", CheckedAt: t0, LastAnswer: &answer{t0, "202"}, LastPing: &answer{t0, "204"}}}},
		Sweep: sweepRecord{progress: p, Since: t0, Found: 3, Logs: map[string]mark{"w": {At: t0, Last: &answer{t0, "202"}, Settled: map[string]int64{"0123456789ab": t0.Unix()}}},
			Disagree: &disagreement{At: t0, Events: [2]disagreeing{{"a", "westeurope", t0}, {"b", "eastus", t0}}}},
	}
}

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	for _, r := range []record{{}, settled(), full()} {
		data, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(data)
		if again, _ := got.encode(); err != nil || string(again) != string(data) {
			t.Errorf("%v\n got %s\nwant %s", err, again, data)
		}
	}
	if r, err := decodeRecord(nil); err != nil || !reflect.DeepEqual(r, record{}) {
		t.Errorf("no record: %+v, %v", r, err)
	}
	for _, data := range []string{"{", "{}", `{"format":1,"replicas":{"list":[{"state":"Succeeded"}]}}`, `{"format":1,"lease":3}`} {
		if r, err := decodeRecord([]byte(data)); err == nil {
			t.Errorf("%s: %+v", data, r)
		}
	}
}

var writeAnew = flag.Bool("update", false, "write testdata anew, of this version's format")

// A version reads what every released one has written.
func TestRecordsOfReleasedVersions(t *testing.T) {
	name := filepath.Join("testdata", fmt.Sprintf("record-%d.json", format))
	want, err := full().encode()
	if err != nil {
		t.Fatal(err)
	}
	if *writeAnew {
		if err := os.WriteFile(name, append(want, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "record-*.json"))
	if err != nil || len(files) != format {
		t.Fatalf("%q, %v, want one for each format", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := decodeRecord(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if got, _ := r.encode(); file == name && string(got) != string(want) {
			t.Errorf("%s: -update writes it anew\n got %s\nwant %s", file, got, want)
		}
	}
}

// What a newer version has added survives, at every depth; what this version takes out is gone.
func TestFieldsOfTomorrowSurvive(t *testing.T) {
	old := `{"format":2,"color":"red","reminder":"check-1","lease":{"holder":"replica-1","until":"2026-11-27T08:00:00Z","term":7},
		"webhooks":{"mood":{"x":1},"by":{"eastus":{"name":"e","registered":true,"problem":"p","checkedAt":"2026-11-27T08:00:00Z","size":3},"westus":{"name":"w","checkedAt":"2026-11-27T08:00:00Z","size":4}}}}`
	r, err := decodeRecord([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	h := r.Webhooks.By["eastus"]
	h.Problem = ""
	r.Webhooks.By = map[replication.Region]hook{"eastus": h}
	r.LoginServer = "contoso.azurecr.io"
	data, err := r.replace([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	wanted := strings.NewReplacer(`"format":2`, `"format":1`, `"problem":"p",`, "", `,"westus":{"name":"w","checkedAt":"2026-11-27T08:00:00Z","size":4}`, "", `"color"`, `"loginServer":"contoso.azurecr.io","color"`).Replace(old)
	if json.Unmarshal(data, &got) != nil || json.Unmarshal([]byte(wanted), &want) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %s\nwant %s", data, wanted)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	data, _ := full().encode()
	f.Add(data)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		plan(r, Duties{true, true}, t0)
		if _, err := r.replace(data); err != nil {
			t.Error(err)
		}
	})
}
