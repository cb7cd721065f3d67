package stack

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
)

// startAzure starts a stack whose registry is at a simulated Azure. The webhooks are made
// by hand, unless the service can make them.
func startAzure(t *testing.T, o Options) (*Stack, *acr.Registry, *acr.Azure) {
	t.Helper()
	azure := o.Azure
	if azure == nil {
		var err error
		if azure, err = acr.NewAzure("contoso", regions[0], regions[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(azure.Close)
	if o.Settings["PUBLIC_URL"] == "" {
		for _, region := range regions {
			azure.AddWebhook(region)
		}
	}
	o.Azure, o.Regions = azure, []string{}
	s, registry := start(t, o)
	registry.Azure = azure
	return s, registry, azure
}

// A service finds the simulated Azure by the variables that Go and Azure's SDK read, and
// goes to nothing else by way of its proxy.
func TestAzure(t *testing.T) {
	events := newSubscriber()
	_, r, azure := startAzure(t, Options{Timeout: time.Minute, Events: events.take, Settings: map[string]string{"PUBLIC_URL": "https://allregions.example.com"}})
	p := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		fire(t, r, p, region, 202)
	}
	if e := events.wait(t, p.ID, 1, soon); e.Data.Status != "replicated" {
		t.Errorf("%+v", e)
	}
	eventually(t, soon, "a webhook is created in each region", func() bool { return azure.Count("create ") == len(regions) })
	if n := azure.Count("CONNECT"); n != 0 {
		t.Errorf("the service went %d times elsewhere by the proxy", n)
	}
}

// A push whose webhooks were all lost while the service was down is there within two minutes
// after the service is, or after ARM, which does not give out its log at first.
func TestSweep(t *testing.T) {
	t.Parallel()
	events := newSubscriber()
	deployed := make(chan string, 100)
	deployer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var body struct{ ID string }
		json.NewDecoder(req.Body).Decode(&body)
		deployed <- body.ID
	}))
	defer deployer.Close()
	s, r, azure := startAzure(t, Options{Timeout: 20 * time.Second, Events: events.take,
		Settings: map[string]string{"NOTIFY_TARGETS": `[{"name": "flux", "type": "acr", "url": "` + deployer.URL + `"}]`}})
	readings := func() int { return azure.Count("listEvents") }
	eventually(t, soon, "the first sweep", func() bool { return readings() == len(regions) })

	split := acr.NewPush("shop/split", "v1") // with an id in each region
	for _, region := range regions[:2] {
		one := split
		one.ID = region + "-" + split.ID
		fire(t, r, one, region, 202)
	}
	if err := s.Hold(ServiceProcess, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Process(ServiceProcess).Done()
	older, lost, refused := acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/pay", "v1")
	for _, region := range regions {
		for _, p := range []acr.Push{older, lost} {
			if _, _, err := r.Fire(t.Context(), p, region); err == nil {
				t.Fatal("the service is down, and answers")
			}
		}
	}
	if code, _, err := r.Fire(t.Context(), refused, regions[0]); err == nil {
		t.Fatal(code)
	}
	const patience = 20 * time.Second
	azure.Answer(func(call string) (int, time.Duration) {
		if strings.HasPrefix(call, "listEvents") {
			return http.StatusTooManyRequests, patience
		}
		return 0, 0
	})
	if err := s.Release(ServiceProcess); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the service is ready", func() bool { return ready(s) == nil })
	eventually(t, 90*time.Second, "a sweep is throttled", func() bool { return strings.Contains(getRegions(t, s.URL, s.Key).Sweep.Error, "429") })
	throttled := time.Now()
	azure.Answer(nil)
	e := events.wait(t, lost.ID, 1, patience+2*time.Minute)
	if e.Data.Status != "replicated" || len(e.Data.Regions) != len(regions) || e.Data.Regions[0].Via != "event-log" {
		t.Errorf("%+v", e.Data)
	}
	if took := time.Since(throttled); took < patience {
		t.Errorf("ARM wanted to be left alone for %v, and was not for %v", patience, took)
	}
	if e := events.wait(t, refused.ID, 1, 2*time.Minute); e.Data.Status != "timedOut" || len(e.Data.Missing) != len(regions)-1 {
		t.Errorf("%+v", e.Data)
	}
	// Only the newest push of the tag is deployed.
	eventually(t, soon, "the older push is superseded", func() bool {
		_, body := request(t, http.MethodGet, s.URL+"/notifications/"+older.ID+"/deliveries", s.Key)
		return strings.Contains(string(body), `"status":"superseded"`) && strings.Contains(string(body), lost.ID)
	})
	eventually(t, soon, "the newest push is deployed", func() bool { return len(deployed) > 0 })
	if id := <-deployed; id != lost.ID || len(deployed) != 0 || len(events.of(older.ID)) != 1 {
		t.Errorf("deployed %s, and %d more; want %s alone", id, len(deployed), lost.ID)
	}

	st := getRegions(t, s.URL, s.Key)
	if st.Sweep.Found != 2*len(regions)+1 || len(st.IDs.Disagree.Events) != 2 || st.IDs.Disagree.Events[0].Region == st.IDs.Disagree.Events[1].Region {
		t.Errorf("%+v", st)
	}
	if logged(t, s, "ACR gives one push several ids") != 1 || logged(t, s, "the missing regions are in another notification") == 0 {
		t.Error("nothing says that ids disagree")
	}
}

// With CATCH_UP=0 nobody reads ACR's log for pushes that nobody has heard of.
func TestSweepIsOff(t *testing.T) {
	t.Parallel()
	events := newSubscriber()
	s, r, azure := startAzure(t, Options{Timeout: time.Minute, Events: events.take, Settings: map[string]string{"CATCH_UP": "0"}})
	p := acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		fire(t, r, p, region, 202)
	}
	events.wait(t, p.ID, 1, soon)
	// The first sweep follows the reading of the replicas, before which there is no webhook's 202.
	if n, sweep := azure.Count("listEvents"), getRegions(t, s.URL, s.Key).Sweep; n != 0 || sweep.Enabled {
		t.Errorf("the log was read %d times: %+v", n, sweep)
	}
}
