package stack

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
)

// Two registries share the service: each has its own regions and sweep, a webhook counts
// for its own, an image that is in both is asked for by registry, and a third registry is
// nobody's.
func TestSeveralRegistries(t *testing.T) {
	t.Parallel()
	events := newSubscriber()
	azure, err := acr.NewAzure("contoso", regions[0], regions[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	other := azure.AddRegistry("fabrikam", "uksouth")
	other.AddWebhook("uksouth")
	s, contoso, _ := startAzure(t, Options{Azure: azure, Timeout: 20 * time.Second, Events: events.take})
	fabrikam := &acr.Registry{LoginServer: "fabrikam.azurecr.io", ServiceURL: s.URL, Key: s.Key, Azure: other}

	eventually(t, soon, "both registries are read", func() bool {
		_, body := request(t, http.MethodGet, s.URL+"/regions", s.Key)
		return strings.Count(string(body), `"expected":true`) == len(regions)+1 && azure.Count("listEvents") > 0 && other.Count("listEvents") > 0
	})
	foreign := acr.NewPush("shop/cart", "v1")
	evil := &acr.Registry{LoginServer: "evil.azurecr.io", ServiceURL: s.URL, Key: s.Key}
	if code, body, err := evil.Fire(t.Context(), foreign, regions[0]); code != http.StatusBadRequest || !strings.Contains(string(body), "none of contoso, fabrikam") {
		t.Errorf("a foreign registry: %d %s, %v", code, body, err)
	}
	if code, body := request(t, http.MethodGet, s.URL+"/notifications/"+foreign.ID, s.Key); code != http.StatusNotFound {
		t.Errorf("a foreign registry has left %d %s", code, body)
	}

	here, there := acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/cart", "v1")
	for _, region := range regions {
		fire(t, contoso, here, region, 202)
	}
	if code, _, err := fabrikam.Fire(t.Context(), there, regions[0]); code != http.StatusBadRequest {
		t.Errorf("a region of the other registry: %d, %v", code, err)
	}
	fire(t, fabrikam, there, "uksouth", 202)
	for _, p := range []acr.Push{here, there} {
		if e := events.wait(t, p.ID, 1, soon); e.Data.Status != "replicated" {
			t.Errorf("%+v", e)
		}
	}
	image := s.URL + "/images/shop/cart?tag=v1"
	eventually(t, soon, "the image is in two registries", func() bool {
		code, body := request(t, http.MethodGet, image, s.Key)
		return code == http.StatusConflict && strings.Contains(string(body), `["contoso.azurecr.io","fabrikam.azurecr.io"]`)
	})
	for named, id := range map[string]string{"contoso": here.ID, "fabrikam.azurecr.io": there.ID} {
		if code, body := request(t, http.MethodGet, image+"&registry="+named, s.Key); code != http.StatusOK || !strings.Contains(string(body), id) {
			t.Errorf("registry=%s: %d %s, want %s", named, code, body, id)
		}
	}

	if err := s.Hold(ServiceProcess, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Process(ServiceProcess).Done()
	lost := acr.NewPush("shop/pay", "v1")
	if code, _, err := fabrikam.Fire(t.Context(), lost, "uksouth"); err == nil {
		t.Fatal(code)
	}
	if err := s.Release(ServiceProcess); err != nil {
		t.Fatal(err)
	}
	if e := events.wait(t, lost.ID, 1, 3*time.Minute); e.Data.Status != "replicated" || e.Data.Regions[0].Via != "event-log" {
		t.Errorf("swept from the second registry: %+v", e)
	}
}
