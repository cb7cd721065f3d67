package notification

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// optionals waits for two regions, and not for two others.
var optionals = replication.Awaited{
	Expected: []replication.Region{"westeurope", "eastus"}, Optional: []replication.Region{"uksouth", "japaneast"},
}

// post is a webhook of one of them.
func (w *world) post(t *testing.T, region replication.Region) Result {
	t.Helper()
	got, err := w.client().Add(t.Context(), event(region), optionals)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// data is that of the event with an outcome.
func (w *world) data(t *testing.T, outcome replication.Status) (st Status) {
	t.Helper()
	var e struct{ Data *Status }
	if err := json.Unmarshal(w.Events[EventID("n1", outcome)], &e); err != nil || e.Data == nil {
		t.Fatalf("%s: %v", w.Events[EventID("n1", outcome)], err)
	}
	return *e.Data
}

func in(st Status) (regions []replication.Region) {
	for _, r := range st.OptionalIn() {
		regions = append(regions, r.Region)
	}
	return regions
}

// What comes after the outcome is in the record, and publishes nothing: the outcome is known
// to be published before, although it is the last one.
func TestOptionalRegionAfterTheOutcome(t *testing.T) {
	w := newWorld()
	w.post(t, "uksouth")
	w.post(t, "westeurope")
	w.wrote(t, "register", "save", "save")
	if got := w.post(t, "eastus"); got.Reason != replication.Completed {
		t.Errorf("got %+v", got)
	}
	w.wrote(t, "save", "publish n1/replicated", "save", "index", "unregister")
	if st := w.data(t, replication.Replicated); !slices.Equal(in(st), []replication.Region{"uksouth"}) || len(st.Optional) != 2 || len(st.Regions) != 2 || len(st.Missing) != 0 {
		t.Errorf("published %+v", st)
	}
	published := w.Events["n1/replicated"]
	for _, want := range []replication.Reason{replication.Noted, replication.Duplicate} {
		if got := w.post(t, "japaneast"); got.Reason != want || !got.Status.Has("japaneast") || got.New() != (want == replication.Noted) {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	w.wrote(t, "register", "save", "index", "unregister")
	w.pass(t, time.Hour)
	w.wrote(t)
	if st := w.status(t); !slices.Equal(in(st), optionals.Optional) || !bytes.Equal(published, w.Events["n1/replicated"]) || len(w.Reminders) != 0 {
		t.Errorf("got %+v, reminders %v", st, w.Reminders)
	}
}

// An outcome whose publication was lost, or was done and not saved, says the same when an
// optional region has come since.
func TestOutcomeIsTheSameAfterAnOptionalRegion(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed} {
		for _, what := range []int{1, 2} { // of save, publish, save
			w := newWorld()
			w.post(t, "uksouth")
			w.post(t, "westeurope")
			w.Writes, w.Fail = nil, fake.At(what, how)
			func() {
				defer fake.Survive()
				p := fake.Process{Methods: w.actor().Methods()}
				if _, err := (&Client{Actors: &p}).Add(t.Context(), event("eastus"), optionals); err != nil {
					t.Fatal(err)
				}
				p.End()
			}()
			w.Fail = nil
			want := w.state(t).State
			_, first, err := cloudEvent(want, want.Outcomes[0])
			if err != nil {
				t.Fatal(err)
			}
			w.post(t, "japaneast")
			w.pass(t, time.Hour)
			if got := w.Events["n1/replicated"]; !bytes.Equal(got, first) {
				t.Errorf("%s at %d: got\n%s\nwant\n%s", how, what, got, first)
			}
			if s := w.state(t); len(s.Unpublished()) != 0 || len(s.Arrivals) != 4 || len(w.Reminders) != 0 {
				t.Errorf("%s at %d: %+v, reminders %v", how, what, s, w.Reminders)
			}
		}
	}
}

// Each write of the turn of an optional event after the outcome may fail.
func TestEveryWriteOfAnOptionalRegionFails(t *testing.T) {
	for n, what := range []string{"register", "save", "index", "unregister"} {
		for _, how := range []fake.Failure{fake.Lost, fake.Reported} {
			w := newWorld()
			w.post(t, "westeurope")
			w.post(t, "eastus")
			published := w.Events["n1/replicated"]
			w.Writes, w.Fail = nil, fake.At(n, how)
			w.client().Add(t.Context(), event("japaneast"), optionals)
			if len(w.Writes) <= n || w.Writes[n] != what {
				t.Fatalf("wrote %q, want %s at %d", w.Writes, what, n)
			}
			w.Fail = nil
			w.post(t, "japaneast")
			w.pass(t, time.Hour)
			if st := w.status(t); !slices.Equal(in(st), []replication.Region{"japaneast"}) || !bytes.Equal(w.Events["n1/replicated"], published) || len(w.Reminders) != 0 {
				t.Errorf("%s %s: %+v, reminders %v", what, how, st, w.Reminders)
			}
		}
	}
}

func TestOptionalRegionsTimeOutAndRecover(t *testing.T) {
	w := newWorld()
	w.post(t, "uksouth")
	w.post(t, "westeurope")
	w.passTo(t, due)
	w.post(t, "japaneast")
	w.post(t, "eastus")
	w.pass(t, time.Hour)
	for outcome, want := range map[replication.Status][]replication.Region{replication.TimedOut: {"uksouth"}, replication.Recovered: {"uksouth", "japaneast"}} {
		if st := w.data(t, outcome); !slices.Equal(in(st), want) || len(st.Optional) != 2 {
			t.Errorf("%s: %+v, want %v", outcome, st, want)
		}
	}
	if got, err := decodeRecord(w.Records["n1"]); err != nil || !reflect.DeepEqual(got.Awaited, optionals) {
		t.Errorf("stored %+v, %v", got, err)
	}
	var people struct{ Optional []map[string]any }
	if json.Unmarshal(w.Records["n1"], &people); len(people.Optional) != 2 || people.Optional[0]["region"] != "uksouth" {
		t.Errorf("people see %v", people)
	}
}
