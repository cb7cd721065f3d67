package stack

import (
	"testing"
	"time"

	"allregions/app/local/acr"
)

// startAzure starts a stack whose registry is at a simulated Azure.
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
