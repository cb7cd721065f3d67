package target

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"allregions/app/notification"
	"allregions/app/replication"
)

const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// statusOf is the status of a notification with the given outcome.
func statusOf(outcome replication.Status) notification.Status {
	start := time.Date(2026, 11, 22, 0, 33, 54, 255125503, time.UTC)
	end, ms := start.Add(2358*time.Millisecond), int64(2358)
	s := notification.Status{
		ID: "7c9e6679-7425-40de-944b-e07fc1f90ae7", Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/cart",
		Tag: "v1.4.2", Digest: digest, MediaType: "application/vnd.docker.distribution.manifest.v2+json", Size: 524,
		Status: outcome, StartedAt: start, Deadline: start.Add(2 * time.Minute), ConcludedAt: &end, DurationMS: &ms,
		Regions: []notification.RegionStatus{{Region: "westeurope", ReceivedAt: start}, {Region: "eastus", ReceivedAt: end}},
		Missing: []replication.Region{},
	}
	if outcome == replication.TimedOut {
		s.Missing = []replication.Region{"japaneast"}
	}
	return s
}

func TestFilters(t *testing.T) {
	s := statusOf(replication.TimedOut)
	s.Size, s.Mismatch, s.Replicas = 1<<40, true, map[replication.Region]string{"japaneast": "Updating"}
	for expression, want := range map[string]bool{
		`action == "push" && repository.startsWith("shop/")`: true,
		`repository.startsWith("base/")`:                     false,
		`tag.matches("^v[0-9]+[.]")`:                         true,
		`id == "7c9e6679-7425-40de-944b-e07fc1f90ae7"`:       true,
		`registry.endsWith(".azurecr.io")`:                   true,
		`digest.startsWith("sha256:") && mediaType != ""`:    true,
		`size > 1099511627775`:                               true,
		`size(tag) == 6 && size(regions) == 2`:               true, // beside the variable size
		`status == "timedOut"`:                               true,
		`startedAt < deadline && concludedAt > startedAt`:    true,
		`deadline - startedAt == duration("2m")`:             true,
		`startedAt.getHours() == 0`:                          true,
		`durationMs == 2358`:                                 true,
		`regions == ["westeurope", "eastus"]`:                true,
		`missing.exists(r, r.startsWith("japan"))`:           true,
		`missing.exists(r, replicas[r] == "Updating")`:       true,
		`replicas.exists(r, replicas[r] == "Creating")`:      false,
		`mismatch`:  true,
		`!mismatch`: false,
	} {
		t.Run(expression, func(t *testing.T) {
			f, err := compileFilter(expression)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := f.takes(s); got != want || err != nil {
				t.Errorf("got %t, %v, want %t", got, err, want)
			}
		})
	}
}

// A status without the optional fields can be filtered, too.
func TestFilterOfAnEmptyStatus(t *testing.T) {
	f, err := compileFilter(`durationMs == 0 && concludedAt < timestamp("1970-01-01T00:00:00Z") && regions == [] && missing == [] && replicas == {}`)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := f.takes(notification.Status{}); !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
}

func TestFilterFailsAtRunTime(t *testing.T) {
	const costly = `regions.all(a, regions.all(b, regions.all(c, regions.all(d, a + b + c + d != ""))))`
	s := statusOf(replication.Replicated)
	s.Regions = nil
	for i := range 60 {
		s.Regions = append(s.Regions, notification.RegionStatus{Region: replication.Region(fmt.Sprint("region", i))})
	}
	for expression, want := range map[string]string{costly: "cost limit", `regions[60] == "x"`: "out of bounds"} {
		t.Run(want, func(t *testing.T) {
			f, err := compileFilter(expression)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := f.takes(s); ok || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %t, %v, want an error with %q", expression, ok, err, want)
			}
		})
	}
}

// Every field of the JSON status is a variable, and nothing else is.
func TestFilterVariables(t *testing.T) {
	var fields, names []string
	for f := range reflect.TypeFor[notification.Status]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	for _, v := range variables {
		names = append(names, v.name)
	}
	if !reflect.DeepEqual(fields, names) {
		t.Errorf("\nfields    %q\nvariables %q", fields, names)
	}
}
