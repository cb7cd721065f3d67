package registry

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

var t0 = time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)

// doneAt is work that was done without an error.
func doneAt(w work, at time.Time) progress { return progress{}.after(w, at, "", 0) }

// settled is a record in which nothing is due at t0.
func settled() record {
	return record{
		Reminder: "check-1",
		Replicas: replicas{doneAt(readReplicas, t0), []replica{{Region: "westeurope", Name: "westeurope", State: "Succeeded", Counts: true}, {Region: "eastus", State: "Creating"}}},
		Webhooks: webhooks{doneAt(checkWebhooks, t0), []replication.Region{"westeurope"}, nil},
		Sweep:    sweepRecord{progress: doneAt(sweepLog, t0)},
	}
}

func TestWhatIsDue(t *testing.T) {
	all := Duties{Webhooks: true, Sweep: true}
	for _, tt := range []struct {
		name   string
		change func(*record)
		duties Duties
		after  time.Duration
		want   string
	}{
		{"nothing is known", func(r *record) { *r = record{} }, all, 0, "[replicas: first]"},
		{"the replicas are known", func(r *record) { r.Webhooks, r.Sweep = webhooks{}, sweepRecord{} }, all, 0, "[sweep: first webhooks: first]"},
		{"no replica counts", func(r *record) { r.Webhooks, r.Replicas.List = webhooks{}, nil }, all, time.Hour, "[replicas: interval]"},
		{"all is done", func(*record) {}, all, 30 * time.Second, "[]"},
		{"a minute later", func(*record) {}, all, time.Minute - slack, "[sweep: interval]"},
		{"ten minutes later", func(*record) {}, all, 10*time.Minute - slack, "[replicas: interval sweep: interval]"},
		{"an hour later", func(*record) {}, all, time.Hour, "[replicas: interval sweep: interval webhooks: interval]"},
		{"no duties", func(*record) {}, Duties{}, time.Hour, "[replicas: interval]"},
		{"an unexpected region", func(r *record) { r.Asked = t0 }, all, 0, "[replicas: asked]"},
		{"other regions", func(r *record) { r.Replicas.List[1].Counts = true }, all, 0, "[webhooks: changed]"},
		{"failed", func(r *record) { r.Replicas.progress = r.Replicas.after(readReplicas, t0, "away", 0) }, all, time.Minute - slack - 1, "[]"},
		{"failed, a minute later", func(r *record) { r.Replicas.progress = r.Replicas.after(readReplicas, t0, "away", 0) }, Duties{}, time.Minute, "[replicas: again]"},
		{"to be left alone", func(r *record) { r.Sweep.progress = r.Sweep.after(sweepLog, t0, "429", 5*time.Minute) }, Duties{Sweep: true}, 5*time.Minute - 1, "[]"},
		{"not any more", func(r *record) { r.Sweep.progress = r.Sweep.after(sweepLog, t0, "429", 5*time.Minute) }, Duties{Sweep: true}, 5 * time.Minute, "[sweep: again]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := settled()
			tt.change(&r)
			if got := fmt.Sprint(plan(r, tt.duties, t0.Add(tt.after))); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// What fails is tried again after a minute; what costs many calls after longer and longer.
func TestRetries(t *testing.T) {
	for w, want := range map[work][]time.Duration{
		readReplicas:  {1, 1, 1, 1, 1, 1, 1, 1},
		checkWebhooks: {1, 2, 4, 8, 16, 32, 60, 60},
	} {
		p := doneAt(w, t0)
		for i, minutes := range want {
			p = p.after(w, t0, "away", 0)
			if got := p.Next.Sub(t0); got != minutes*time.Minute || !p.At.Equal(t0) || p.Error != "away" {
				t.Errorf("%s, failure %d: %+v", w, i+1, p)
			}
		}
		if p = p.after(w, t0, "", 0); p.Failures != 0 || p.Error != "" || p.Next.Sub(t0) != every[w] {
			t.Errorf("%s, done: %+v", w, p)
		}
	}
}

func TestLease(t *testing.T) {
	const me, other = "replica-1", "replica-2"
	for _, tt := range []struct {
		name   string
		lease  lease
		due    bool
		want   decision
		holder string
	}{
		{"nobody's", lease{}, true, taken, me},
		{"nobody's, nothing due", lease{}, false, idle, ""},
		{"mine", lease{me, t0.Add(1)}, true, kept, me},
		{"mine, expired", lease{me, t0}, true, kept, me},
		{"mine, nothing due", lease{me, t0.Add(1)}, false, idle, ""},
		{"another's", lease{other, t0.Add(1)}, true, held, other},
		{"another's, nothing due", lease{other, t0.Add(1)}, false, held, other},
		{"another's, expired", lease{other, t0}, true, takenOver, me},
		{"another's, expired, nothing due", lease{other, t0}, false, idle, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, d := tt.lease.take(me, tt.due, t0)
			if d != tt.want || got.Holder != tt.holder {
				t.Errorf("%s, %+v, want %s, %s", d, got, tt.want, tt.holder)
			}
			if d.granted() && !got.Until.Equal(t0.Add(leaseTime)) || d == held && got != tt.lease {
				t.Errorf("%s until %v", d, got.Until)
			}
		})
	}
}

// Each replica's own word counts.
func TestLearn(t *testing.T) {
	const home = "westeurope"
	long := t0.Add(-forgetAfter)
	known := []replica{{Region: home, Name: home, State: "Succeeded", Counts: true, Since: long}, {Region: "eastus", Name: "eastus", State: "Succeeded", Counts: true, Since: long}}
	says := func(state string) word { return word{Name: "eastus", Region: "eastus", State: state} }
	homeSays := word{Name: home, Region: home, State: "Succeeded"}
	for _, tt := range []struct {
		name    string
		have    []replica
		words   []word
		want    string // region: state, and * if it counts
		changes string
	}{
		{"at first", nil, []word{says("Succeeded"), homeSays}, "westeurope Succeeded*, eastus Succeeded*", "[eastus: Succeeded, was unknown westeurope: Succeeded, was unknown]"},
		{"half at first", nil, []word{homeSays, {Region: "eastus", Error: "500"}}, "", "[]"},
		{"as before", known, []word{homeSays, says("Succeeded")}, "westeurope Succeeded*, eastus Succeeded*", "[]"},
		{"no word", known, []word{homeSays}, "westeurope Succeeded*, eastus Succeeded*", "[]"},
		{"cannot be read", known, []word{homeSays, {Name: "eastus", Region: "eastus", Error: "429"}}, "westeurope Succeeded*, eastus Succeeded*", "[]"},
		{"a new one cannot be read", known, []word{homeSays, {Region: "uksouth", Error: "429"}}, "westeurope Succeeded*, eastus Succeeded*", "[]"},
		{"updating", known, []word{homeSays, says("Updating")}, "westeurope Succeeded*, eastus Updating*", "[eastus: Updating, was Succeeded]"},
		{"creating", known, []word{says("Creating")}, "westeurope Succeeded*, eastus Creating", "[eastus: Creating, was Succeeded]"},
		{"deleting", known, []word{says("Deleting")}, "westeurope Succeeded*, eastus Deleting", "[eastus: Deleting, was Succeeded]"},
		{"failed", known, []word{says("Failed")}, "westeurope Succeeded*, eastus Failed", "[eastus: Failed, was Succeeded]"},
		{"gone", known, []word{says(notFound)}, "westeurope Succeeded*, eastus NotFound", "[eastus: NotFound, was Succeeded]"},
		{"a word of tomorrow", known, []word{says("Resting")}, "westeurope Succeeded*, eastus Resting*", "[eastus: Resting, was Succeeded]"},
		{"a new one with a word of tomorrow", known, []word{{Name: "a", Region: "uksouth", State: "Resting"}}, "westeurope Succeeded*, eastus Succeeded*, uksouth Resting", "[uksouth: Resting, was unknown]"},
		{"the home region cannot go", known, []word{{Name: home, Region: home, State: notFound}}, "westeurope NotFound*, eastus Succeeded*", "[westeurope: NotFound, was Succeeded]"},
		{"gone for long", append(slices.Clone(known), replica{Region: "uksouth", State: notFound, Since: long}), nil, "westeurope Succeeded*, eastus Succeeded*", "[]"},
		{"not gone for long", append(slices.Clone(known), replica{Region: "uksouth", State: notFound, Since: long.Add(1)}), nil, "westeurope Succeeded*, eastus Succeeded*, uksouth NotFound", "[]"},
		{"before and behind the home region", nil, []word{{Region: "a", State: "Succeeded"}, homeSays, {Region: "z", State: "Succeeded"}}, "westeurope Succeeded*, a Succeeded*, z Succeeded*",
			"[a: Succeeded, was unknown westeurope: Succeeded, was unknown z: Succeeded, was unknown]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, changes := learn(tt.have, observed{Home: home, Replicas: tt.words}, t0)
			var list []string
			for _, r := range got {
				list = append(list, fmt.Sprintf("%s %s%s", r.Region, r.State, map[bool]string{true: "*"}[r.Counts]))
			}
			if got := strings.Join(list, ", "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if got := fmt.Sprint(changes); got != tt.changes {
				t.Errorf("changes: got %s, want %s", got, tt.changes)
			}
		})
	}
}

// A result changes its own part of the record, and no other.
func TestApply(t *testing.T) {
	before := settled()
	before.Asked = t0
	hooks := map[replication.Region]hook{"westeurope": {Name: "w", Registered: true}}
	for _, tt := range []struct {
		result result
		parts  string // that changed
	}{
		{result{Work: readReplicas, Asked: t0, Observed: &observed{LoginServer: "contoso.azurecr.io", Replicas: []word{{Region: "uksouth", State: "Succeeded"}}}}, "Asked LoginServer Replicas"},
		{result{Work: readReplicas, Error: "away", Asked: t0}, "Asked Replicas"},
		{result{Work: readReplicas, Asked: t0.Add(-1)}, "Replicas"}, // it began before an unexpected region posted
		{result{Work: checkWebhooks, Asked: t0, Webhooks: hooks}, "Webhooks"},
		{result{Work: checkWebhooks, Error: "away"}, "Webhooks"},
		{result{Work: sweepLog, Sweep: &sweepRecord{Found: 3}}, "Sweep"},
		{result{Work: sweepLog, Error: "away"}, "Sweep"},
		{result{Work: "tomorrow's"}, ""},
	} {
		got, _ := before.apply(tt.result, t0.Add(time.Minute))
		var parts []string
		was, is := reflect.ValueOf(before), reflect.ValueOf(got)
		for i := range was.NumField() {
			if !reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()) {
				parts = append(parts, was.Type().Field(i).Name)
			}
		}
		if got := strings.Join(parts, " "); got != tt.parts {
			t.Errorf("%+v: got %s, want %s", tt.result, got, tt.parts)
		}
	}
	got, _ := before.apply(result{Work: checkWebhooks, Error: "away"}, t0)
	if !maps.Equal(got.Webhooks.By, before.Webhooks.By) || got.Webhooks.Error != "away" {
		t.Errorf("%+v", got.Webhooks)
	}
}
