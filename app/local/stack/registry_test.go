package stack

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
)

// registryStatus is the answer of GET /regions, as far as these tests read it.
type registryStatus struct {
	Name, LoginServer, Source string
	Read                      struct{ Error string }
	Sweep                     struct {
		Enabled bool
		Found   int
		Error   string
	}
	IDs struct {
		Disagree struct{ Events []struct{ ID, Region string } }
	}
	Regions []struct {
		Region, Replica string
		Expected        bool
		Webhook         struct {
			Registered bool
			Problem    string
			LastPing   struct {
				Status   string
				Answered bool
			}
		}
	}
}

func getRegions(t *testing.T, url, key string) (s registryStatus) {
	t.Helper()
	var answer struct{ Registries []registryStatus }
	code, body := request(t, http.MethodGet, url+"/regions", key)
	if err := json.Unmarshal(body, &answer); err != nil || code != http.StatusOK || len(answer.Registries) != 1 {
		t.Fatalf("GET /regions: %d, %v: %s", code, err, body)
	}
	conforms(t, "Registries", body)
	return answer.Registries[0]
}

// registered tells whether every region has a webhook that has answered a ping.
func (s registryStatus) registered() bool {
	for _, r := range s.Regions {
		if !r.Webhook.Registered || !r.Webhook.LastPing.Answered || r.Webhook.LastPing.Status != "204" {
			return false
		}
	}
	return len(s.Regions) > 0
}

func (s registryStatus) expected() (expected []string) {
	for _, r := range s.Regions {
		if r.Expected {
			expected = append(expected, r.Region)
		}
	}
	return expected
}

// holder is the replica that works on the registry; -1 for none.
func holder(t *testing.T, s *Stack) int {
	t.Helper()
	data, _, err := s.Dapr().Records("statestore", "Registry-").Load(t.Context(), "contoso")
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Lease struct{ Holder string } }
	json.Unmarshal(data, &r)
	return slices.IndexFunc(s.Replicas, func(x Replica) bool { return strings.HasSuffix(r.Lease.Holder, fmt.Sprintf(":%d", x.Port)) })
}

// logged counts the lines with text in the logs of the services.
func logged(t *testing.T, s *Stack, text string) (n int) {
	t.Helper()
	for i := range s.Replicas {
		data, err := os.ReadFile(s.LogPath(s.Name(ServiceProcess, i)))
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(data), text)
	}
	return n
}

// slow makes calls of Azure that begin with prefix wait for long, until it is called
// again with "".
func slow(azure *acr.Azure, prefix string) {
	azure.Answer(func(call string) (int, time.Duration) {
		if prefix != "" && strings.HasPrefix(call, prefix) {
			return http.StatusTooManyRequests, 5 * time.Second
		}
		return 0, 0
	})
}

// pair does something to a replica and its sidecar.
func pair(t *testing.T, replica int, do func(name string) error) {
	t.Helper()
	for _, name := range []string{ServiceProcess, SidecarProcess} {
		if err := do(Numbered(name, replica)); err != nil {
			t.Fatal(err)
		}
	}
}

// A replica goes and comes back in the middle of the work of another one, which goes on as
// if nothing had been. Then the one that works is killed in the middle of it, with its
// sidecar, and another one takes over.
func TestTheWorkOnTheRegistrySurvives(t *testing.T) {
	t.Parallel()
	azure, err := acr.NewAzure("contoso", regions[0], regions[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	slow(azure, "create ")
	s, _, _ := startAzure(t, Options{Azure: azure, Replicas: 3, Settings: map[string]string{"PUBLIC_URL": "https://allregions.example.com"}})
	if got := getRegions(t, s.URL, s.Key); got.Name != "contoso" || got.LoginServer != "contoso.azurecr.io" || got.Source != "azure" ||
		!slices.Equal(got.expected(), []string{"westeurope", "eastus", "japaneast"}) || got.registered() {
		t.Errorf("%+v", got)
	}
	eventually(t, soon, "a replica creates webhooks", func() bool { return azure.Count("create ") > 0 && holder(t, s) >= 0 })
	guest := 1
	if holder(t, s) == guest {
		guest = 2
	}
	pair(t, guest, func(name string) error { return s.Hold(name, syscall.SIGTERM) })
	pair(t, guest, s.Release)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	slow(azure, "")
	eventually(t, 2*time.Minute, "each region has a webhook that answers", func() bool { return getRegions(t, s.URL, s.Key).registered() })
	if a, b := logged(t, s, `"decision":"lost"`), logged(t, s, `"decision":"takenOver"`); a+b > 0 {
		t.Errorf("the lease was lost %d times, and taken over %d times", a, b)
	}

	// The first webhook of a new region makes its replica ask for the work.
	slow(azure, "config ")
	var works int
	for _, region := range []string{"uksouth", "brazilsouth"} {
		azure.SetReplica(region, "Succeeded", true)
		r := acr.Registry{ServiceURL: s.Replicas[1].URL, Key: s.Key}
		asked := azure.Count("config ")
		eventually(t, 2*time.Minute, "the region is expected, and its webhook is to be created", func() bool {
			code, _, err := r.Fire(t.Context(), acr.NewPush("shop/cart", "v1"), region)
			return code == http.StatusAccepted && err == nil && azure.Count("config ") > asked && holder(t, s) >= 0
		})
		if works = holder(t, s); works > 0 { // the test needs the first replica
			break
		}
	}
	pair(t, works, func(name string) error { return s.Hold(name, syscall.SIGKILL) })
	killed := time.Now()
	slow(azure, "")
	eventually(t, 2*time.Minute, "another replica finishes the work", func() bool {
		got := getRegions(t, s.URL, s.Key)
		return len(got.Regions) > len(regions) && got.registered()
	})
	t.Logf("taken over and done after %v", time.Since(killed))
	if n := logged(t, s, `"decision":"takenOver"`); n != 1 {
		t.Errorf("the lease was taken over %d times", n)
	}
}

// Until there is a record, webhooks get 503, or WEBHOOK_REGIONS counts, if it is set. When
// there is one, it counts also while Azure is away. A notification that times out says what
// Azure thinks of the missing replica.
func TestBeforeThereIsARecord(t *testing.T) {
	t.Parallel()
	azure, err := acr.NewAzure("contoso", regions[0], regions[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	azure.SetReplica("japaneast", "Updating", true)
	azure.SetReplica("uksouth", "Creating", true)
	events := newSubscriber()
	settings := map[string]string{"WEBHOOK_REGISTRATION": "off", "WEBHOOK_REGIONS": "eastus"}
	azure.Answer(func(string) (int, time.Duration) { return http.StatusForbidden, 0 })
	s, r, _ := startAzure(t, Options{Azure: azure, Timeout: 2 * time.Second, Events: events.take, Settings: settings})
	restart := func(regions string) {
		t.Helper()
		if err := s.Hold(ServiceProcess, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		settings["WEBHOOK_REGIONS"] = regions
		if err := s.Release(ServiceProcess); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "the service answers", func() bool { return Get(t.Context(), s.URL+"/healthz", "", nil) == nil })
	}
	p := acr.NewPush("shop/cart", "v1")
	if st := fire(t, r, p, "eastus", http.StatusAccepted); st.Status != "replicated" {
		t.Errorf("%+v", st)
	}
	said := func() string { return getRegions(t, s.URL, s.Key).Read.Error }
	eventually(t, soon, "the record says why the regions are not known", func() bool { return said() == "read registry contoso: 403 Forbidden" })
	if got := getRegions(t, s.URL, s.Key); got.Source != "settings" || !slices.Equal(got.expected(), []string{"eastus"}) {
		t.Errorf("%+v", got)
	}

	restart("")
	eventually(t, soon, "the record is read", func() bool { return said() != "" })
	if code, body, err := r.Fire(t.Context(), p, "eastus"); code != http.StatusServiceUnavailable || err != nil {
		t.Errorf("without any regions: %d %s, %v", code, body, err)
	}
	if err := ready(s); err == nil {
		t.Error("ready without any regions")
	}

	azure.Answer(nil)
	eventually(t, 2*time.Minute, "Azure is asked again", func() bool { return ready(s) == nil })
	azure.Answer(func(string) (int, time.Duration) { return http.StatusInternalServerError, 0 })
	restart("eastus")
	eventually(t, soon, "the service is ready", func() bool { return ready(s) == nil })
	if got := getRegions(t, s.URL, s.Key); got.Source != "azure" || !slices.Equal(got.expected(), []string{"westeurope", "eastus", "japaneast"}) || len(got.Regions) != 4 {
		t.Errorf("%+v", got)
	}

	p = acr.NewPush("shop/cart", "v2")
	fire(t, r, p, "eastus", http.StatusAccepted)
	e := events.wait(t, p.ID, 1, soon)
	if want := map[string]string{"japaneast": "Updating", "westeurope": "Succeeded"}; e.Data.Status != "timedOut" || !maps.Equal(e.Data.Replicas, want) {
		t.Errorf("got %+v, want %v", e.Data, want)
	}
	fire(t, r, p, "westeurope", http.StatusAccepted)
	if st := get200(t, s, "/notifications/"+p.ID); !maps.Equal(st.Replicas, map[string]string{"japaneast": "Updating"}) {
		t.Errorf("%+v", st)
	}
}
