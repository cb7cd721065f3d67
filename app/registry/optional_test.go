package registry

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

// The registry's regions without the optional ones are waited for; what is left out, and
// what does not exist, is told.
func TestOptionalRegionsOfARegistry(t *testing.T) {
	for name, tt := range map[string]struct {
		optional            Static
		expected, optionals []replication.Region
		fails, warns        string
	}{
		"none":              {nil, []replication.Region{"westeurope", "eastus"}, nil, "", ""},
		"one":               {Static{"eastus"}, []replication.Region{"westeurope"}, []replication.Region{"eastus"}, "", ""},
		"all":               {Static{"eastus", "westeurope"}, nil, []replication.Region{"westeurope", "eastus"}, "OPTIONAL_REGIONS", ""},
		"one and no region": {Static{"eastus", "mars"}, []replication.Region{"westeurope"}, []replication.Region{"eastus"}, "", "mars"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			m := member("contoso", "")
			m.Optional, m.Log = tt.optional, slog.New(slog.NewTextHandler(&log, nil))
			r := record{LoginServer: "contoso.azurecr.io"}
			for _, region := range []replication.Region{"westeurope", "eastus"} {
				r.Replicas.List = append(r.Replicas.List, replica{Region: region, State: "Succeeded", Counts: true, Since: time.Time{}})
			}
			m.learn(r)
			m.learn(r)
			got, err := m.Expected(t.Context())
			if !slices.Equal(got.Expected, tt.expected) || !slices.Equal(got.Optional, tt.optionals) || (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("got %+v, %v", got, err)
			}
			if n := strings.Count(log.String(), "level=WARN"); n != min(1, len(tt.warns)) || !strings.Contains(log.String(), tt.warns) {
				t.Errorf("%d warnings in\n%s", n, &log)
			}
			for _, region := range m.Status().Regions {
				if region.Optional != slices.Contains(tt.optional, region.Region) {
					t.Errorf("GET /regions has %+v", region)
				}
			}
		})
	}
}
