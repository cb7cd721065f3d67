package notification

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

var update = flag.Bool("update", false, "write the testdata of this format")

// This version reads what each released one wrote.
func TestEveryFormatIsRead(t *testing.T) {
	files, err := filepath.Glob("testdata/record-*.json")
	if err != nil || len(files) != format {
		t.Fatalf("%q, %v, for %d formats", files, err, format)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeRecord(data); err != nil || !reflect.DeepEqual(got, recorded(t)) {
			t.Errorf("%s: got  %+v, %v\nwant %+v", file, got, err, recorded(t))
		}
		if all, err := actor.Unmarshal(data, new(ownPart)); !all || err != nil {
			t.Errorf("%s: all fields are known: %v, %v", file, all, err)
		}
	}
}

// A field that is new here must not look like one of a newer version.
func TestOwnPartHasAllFields(t *testing.T) {
	for _, of := range []reflect.Type{reflect.TypeFor[document](), reflect.TypeFor[Status]()} {
		for f := range of.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if of == reflect.TypeFor[Status]() && (name == "registry" || name == "repository") || name == "" || f.Type.Kind() == reflect.Interface && name != "actor" {
				continue // not in a document, under this name
			}
			if all, err := actor.Unmarshal(fmt.Appendf(nil, `{%q:{}}`, name), new(ownPart)); !all || err != nil {
				t.Errorf("%s: all %v, %v", name, all, err)
			}
		}
	}
}

// next is what a newer version adds to a record.
var next = map[string]string{"signedBy": `{"keys":[1, 2],"name":"alice"}`, "note": `"x"`}

// inRecord calls do with each object of a stored record that a newer version may extend,
// and returns the record.
func inRecord(t *testing.T, data []byte, do func(where string, fields map[string]any)) []byte {
	t.Helper()
	var top map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&top); err != nil {
		t.Fatal(err)
	}
	own := top["actor"].(map[string]any)
	do("the document", top)
	do("the actor's own", own)
	do("first", own["first"].(map[string]any))
	for _, list := range []string{"arrivals", "outcomes"} {
		elements, _ := own[list].([]any)
		for i, element := range elements {
			do(fmt.Sprintf("%s[%d]", list, i), element.(map[string]any))
		}
	}
	data, err := json.Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// withNext adds that to a stored record wherever it can, and tells where.
func withNext(t *testing.T, data []byte) (extended []byte, where []string) {
	t.Helper()
	return inRecord(t, data, func(here string, fields map[string]any) {
		where = append(where, here)
		for name, value := range next {
			fields[name] = json.RawMessage(fmt.Sprintf(`{%q:%s}`, here, value))
		}
	}), where
}

// checkExtended complains if something of that is lost, or elsewhere.
func checkExtended(t *testing.T, when string, data []byte, where []string) {
	t.Helper()
	inRecord(t, data, func(here string, fields map[string]any) {
		for name, value := range next {
			var want bytes.Buffer
			if slices.Contains(where, here) {
				json.Compact(&want, fmt.Appendf(nil, `{%q:%s}`, here, value))
			} else {
				want.WriteString("null")
			}
			if got, err := json.Marshal(fields[name]); err != nil || string(got) != want.String() {
				t.Errorf("%s: %s of %s is %s, want %s", when, name, here, got, want.String())
			}
		}
	})
}

// What a newer version has added survives each turn that saves, by whatever it is done.
func TestUnknownFieldsSurvive(t *testing.T) {
	w := newWorld()
	w.add(t, "westeurope")
	var where []string
	w.Records["n1"], where = withNext(t, w.Records["n1"])
	saves := w.state(t).Saves
	step := func(when string, do func(), status replication.Status) {
		t.Helper()
		do()
		checkExtended(t, when, w.Records["n1"], where)
		s := w.state(t)
		if s.Saves <= saves || s.Status() != status {
			t.Errorf("%s: %s after %d saves", when, s.Status(), s.Saves)
		}
		saves = s.Saves
		var top Status
		if err := json.Unmarshal(w.Records["n1"], &top); err != nil || top.Status != status {
			t.Errorf("%s: the record says %s, %v", when, top.Status, err)
		}
	}
	step("an event", func() { w.add(t, "eastus") }, replication.Collecting)
	step("the timeout, which is saved as published", func() { w.passTo(t, due) }, replication.TimedOut)
	if w.Records["n1"], where = withNext(t, w.Records["n1"]); len(where) != 6 { // two arrivals, and an outcome
		t.Errorf("extended %q", where)
	}
	step("another event", func() { w.add(t, "japaneast") }, replication.Recovered)
}

// A record counts its saves, and the list gets that count: of two entries the later one
// stands, however they come.
func TestSavesAreCounted(t *testing.T) {
	w := newWorld()
	for i, r := range plan.Expected {
		w.add(t, r)
		if got := w.state(t).Saves; got != i+1 {
			t.Errorf("after %s: %d saves", r, got)
		}
		if l := listed(w.state(t)); l.Saves != i+1 || i < 2 && !l.Due.Equal(due) {
			t.Errorf("after %s: listed %+v", r, l)
		}
	}
	if l := w.Listed["n1"]; l.Saves != 3 || !l.StartedAt.Equal(t0) || !l.Due.IsZero() || bytes.Contains(l.Status, []byte(`"size"`)) {
		t.Errorf("listed %+v %s", l, l.Status)
	}
	w.add(t, "eastus") // again
	w.pass(t, time.Hour)
	if got := w.state(t).Saves; got != 3 {
		t.Errorf("after a repeat: %d saves", got)
	}
	w = timedOut(t)
	if s, l := w.state(t).Saves, w.Listed["n1"]; s != 3 || l.Saves != 2 {
		t.Errorf("timedOut: %d saves, the last of which says that it is published; listed with %d", s, l.Saves)
	}
}

// nameless is a record as somebody may leave it who does not know of reminders.
func nameless(t *testing.T, w *world) {
	t.Helper()
	r := w.state(t)
	r.Reminder = ""
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	w.Records["n1"] = data
}

// A reminder that fires for a record that needs one and names none is adopted.
func TestReminderIsAdopted(t *testing.T) {
	t.Run("before it is due", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		nameless(t, w)
		name, _ := w.Newest("n1")
		if err := fake.Fire(t.Context(), w.actor().Remind, "n1", name); err != nil || w.state(t).Reminder != name {
			t.Errorf("the record names %q, %v", w.state(t).Reminder, err)
		}
		w.passTo(t, due)
		w.published(t, replication.TimedOut)
		w.reminders(t, nil)
	})
	t.Run("when it is due, long after its registration", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		nameless(t, w)
		w.passTo(t, due)
		w.published(t, replication.TimedOut)
		w.reminders(t, nil)
	})
	t.Run("an outcome is not published", func(t *testing.T) {
		w := newWorld()
		w.Fail = lose("publish")
		for _, r := range plan.Expected {
			w.add(t, r)
		}
		w.Fail = nil
		nameless(t, w)
		w.passTo(t, due)
		w.published(t, replication.Replicated)
		w.reminders(t, nil)
	})
	t.Run("nothing is left", func(t *testing.T) {
		w := timedOut(t)
		nameless(t, w)
		if err := w.Register(t.Context(), "n1", "check-1", w.Now, Period); err != nil {
			t.Fatal(err)
		}
		w.pass(t, Period)
		w.reminders(t, nil)
		if got := w.state(t).Reminder; got != "" {
			t.Errorf("the record names %q", got)
		}
	})
	t.Run("an event comes first", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		nameless(t, w)
		w.Reminders = map[fake.Reminder]time.Time{}
		w.add(t, "westeurope")
		w.reminders(t, map[string]time.Time{w.state(t).Reminder: due})
	})
}

// Look sets the reminder that the record names, due now, while something is left.
func TestLook(t *testing.T) {
	look := func(t *testing.T, w *world, wantLeft bool, want replication.Status) {
		t.Helper()
		l, left, err := w.actor().Look(t.Context(), "n1")
		var st Status
		json.Unmarshal(l.Status, &st)
		if err != nil || left != wantLeft || st.Status != want || l.Saves != w.state(t).Saves {
			t.Errorf("got %s after %d saves, left %v, %v", st.Status, l.Saves, left, err)
		}
	}
	t.Run("collecting", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		clear(w.Reminders)
		w.passTo(t, due.Add(time.Minute))
		look(t, w, true, replication.Collecting)
		w.reminders(t, map[string]time.Time{w.state(t).Reminder: w.Now})
		w.pass(t, 0)
		w.published(t, replication.TimedOut)
		w.reminders(t, nil)
		look(t, w, false, replication.TimedOut)
		w.reminders(t, nil)
	})
	t.Run("unpublished", func(t *testing.T) {
		w := newWorld()
		w.Fail = lose("publish")
		for _, r := range plan.Expected {
			w.add(t, r)
		}
		clear(w.Reminders)
		w.Fail = nil
		look(t, w, true, replication.Replicated)
		w.pass(t, 0)
		w.published(t, replication.Replicated)
		look(t, w, false, replication.Replicated)
	})
	t.Run("nameless", func(t *testing.T) {
		w := newWorld()
		w.add(t, "eastus")
		nameless(t, w)
		clear(w.Reminders)
		w.passTo(t, due.Add(time.Minute))
		look(t, w, true, replication.Collecting)
		if name, ok := w.Newest("n1"); !ok || name == "" {
			t.Errorf("the reminder is called %q", name)
		}
		w.pass(t, Period)
		w.published(t, replication.TimedOut)
		w.reminders(t, nil)
	})
	t.Run("no record", func(t *testing.T) {
		w := newWorld()
		if l, left, err := w.actor().Look(t.Context(), "n1"); l.ID != "" || left || err != nil || len(w.Writes) != 0 {
			t.Errorf("got %+v, %v, %v; wrote %q", l, left, err, w.Writes)
		}
	})
	for _, what := range []string{"load", "register"} {
		t.Run(what+" fails", func(t *testing.T) {
			w := newWorld()
			w.add(t, "eastus")
			w.Fail = lose(what)
			w.FailRead = lose(what)
			if _, _, err := w.actor().Look(t.Context(), "n1"); err == nil {
				t.Error("no error")
			}
		})
	}
}
