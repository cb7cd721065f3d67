package notification

import (
	"encoding/json"
	"maps"
	"testing"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// A timeout says what Azure thinks of the missing regions' replicas, and says the same when
// it is published again: also by another process, when Azure has changed its mind.
func TestATimeoutSaysWhatAzureThinks(t *testing.T) {
	w := newWorld()
	said := map[replication.Region]string{"japaneast": "Updating", "westeurope": "Succeeded"}
	asked := 0
	a := w.actor()
	a.Replicas = func(registry string, regions []replication.Region) map[replication.Region]string {
		asked++
		if registry != "contoso.azurecr.io" {
			return nil
		}
		states := maps.Clone(said)
		maps.DeleteFunc(states, func(r replication.Region, _ string) bool {
			return r != regions[len(regions)-1] // japaneast is the last one
		})
		return states
	}
	w.addTo(t, a, event("westeurope"))
	w.addTo(t, a, event("eastus"))
	w.Now = due
	remind := func() {
		t.Helper()
		if err := fake.Fire(t.Context(), a.Remind, "n1", w.state(t).Reminder); err != nil {
			t.Error(err)
		}
	}
	published := func(o replication.Status) (st Status) {
		t.Helper()
		var e struct{ Data Status }
		if err := json.Unmarshal(w.Events[EventID("n1", o)], &e); err != nil {
			t.Fatal(err)
		}
		return e.Data
	}
	w.Fail = func(_ int, what string) fake.Failure { // the broker has it, and the record does not know
		if what == "publish "+EventID("n1", replication.TimedOut) {
			return fake.Reported
		}
		return fake.None
	}
	remind()
	w.Fail = nil
	said["japaneast"] = "Deleting"
	remind() // fake.World panics if the second publication is not that of the first one
	want := map[replication.Region]string{"japaneast": "Updating"}
	if st := published(replication.TimedOut); !maps.Equal(st.Replicas, want) || asked != 1 {
		t.Errorf("%+v, asked %d times", st, asked)
	}
	st, err := w.client().Status(t.Context(), "n1")
	if err != nil || !maps.Equal(st.Replicas, want) {
		t.Errorf("%+v, %v", st, err)
	}
	w.addTo(t, a, event("japaneast"))
	if st := published(replication.Recovered); st.Replicas != nil || asked != 1 {
		t.Errorf("%+v, asked %d times", st, asked)
	}
}
