package stack

import (
	"testing"
	"time"

	"allregions/app/local/acr"
)

// Nobody waits for an optional region: the outcome comes when the others are in, and says
// that this one is not. When it posts after all, the status has it, and nothing is new on
// the topic.
func TestOptionalRegion(t *testing.T) {
	t.Parallel()
	events := newSubscriber()
	canary := regions[2]
	s, r := start(t, Options{Timeout: 20 * time.Second, Events: events.take, Settings: map[string]string{"OPTIONAL_REGIONS": canary}})
	p, other := acr.NewPush("shop/cart", "v1"), acr.NewPush("shop/pay", "v1")
	for _, region := range regions[:2] {
		fire(t, r, p, region, 202)
	}
	e := events.wait(t, p.ID, 1, soon)
	if o := e.Data.Optional; e.Data.Status != "replicated" || len(e.Data.Missing) != 0 || len(o) != 1 || o[0].Region != canary || o[0].ReceivedAt != "" {
		t.Errorf("got %+v, want it to be replicated without %s", e.Data, canary)
	}
	if st := fire(t, r, p, canary, 202); st.Status != "replicated" || len(st.Optional) != 1 || st.Optional[0].ReceivedAt == "" {
		t.Errorf("after %s: %+v", canary, st)
	}
	fire(t, r, p, canary, 200)
	var st status
	if err := Get(t.Context(), s.URL+"/notifications/"+p.ID, s.Key, &st); err != nil || st.Optional[0].ReceivedAt == "" || len(st.Regions) != 2 {
		t.Errorf("the status is %+v, %v", st, err)
	}

	// It may also be the first, and the only one.
	fire(t, r, other, canary, 202)
	e = events.wait(t, other.ID, 1, soon)
	if o := e.Data.Optional; e.Data.Status != "timedOut" || len(e.Data.Missing) != 2 || len(o) != 1 || o[0].ReceivedAt == "" {
		t.Errorf("got %+v, want it to time out with %s in", e.Data, canary)
	}
	if n := len(events.of(p.ID)); n != 1 {
		t.Errorf("%d events of a push that has one outcome", n)
	}
}
