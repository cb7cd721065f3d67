package stack

import (
	"net/http"
	"testing"

	"allregions/app/notification/conformance"
)

// One of so many cases of the crash matrix runs on a real sidecar: near a hundred. It is
// a prime, so that each kind of failure is among them.
const stride = 97

// The crash matrix on what the real sidecar stores, in both stores. Reminders,
// topic and clock are fakes in it, so that a deadline takes no time.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"SQLite": {}, "Cosmos": {Cosmos: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t, o)
			cases := conformance.Run(t, &conformance.Backend{
				Store:     s.Dapr().Actors("Notification"),
				Documents: s.Dapr().Documents("images"),
				// Dapr gives state only to an actor that is active.
				Activate: func(id string) error {
					request(t, http.MethodGet, s.URL+"/notifications/"+id, s.Key)
					return nil
				},
			}, stride)
			if cases < 50 {
				t.Errorf("only %d cases", cases)
			}
		})
	}
}
