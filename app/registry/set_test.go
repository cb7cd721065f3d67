package registry

import (
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"allregions/app/replication"
)

// member is a registry that Azure has described, or not yet.
func member(name, loginServer string, regions ...replication.Region) Member {
	view := &View{Name: name, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	if loginServer != "" {
		r := record{LoginServer: loginServer}
		for _, region := range regions {
			r.Replicas.List = append(r.Replicas.List, replica{Region: region, State: "Succeeded", Counts: true})
		}
		view.learn(r)
	}
	return Member{Worker: NewWorker(view, "a", nil, nil)}
}

func TestRegistryOfAWebhook(t *testing.T) {
	one := Set{member("contoso", "contoso.azurecr.io")}
	several := append(one, member("Fabrikam", "fabrikam-a1b2c3.azurecr.io"), member("new", ""))
	for _, tt := range []struct {
		name        string
		set         Set
		named, host string
		want, wrong string
	}{
		{"the host of the only one", one, "", "contoso.azurecr.io", "contoso.azurecr.io", ""},
		{"a regional host", one, "", "contoso.westeurope.geo.azurecr.io", "contoso.azurecr.io", ""},
		{"a host with a port", one, "", "contoso.azurecr.io:443", "contoso.azurecr.io", ""},
		{"no host and one registry", one, "", "", "contoso.azurecr.io", ""},
		{"a foreign host", one, "", "evil.azurecr.io", "", "the registry evil.azurecr.io is none of contoso"},
		{"the name of the only one", one, "contoso", "evil.azurecr.io", "contoso.azurecr.io", ""},
		{"a foreign name", one, "evil", "contoso.azurecr.io", "", `the URL names the registry "evil", which is none of contoso`},
		{"the name counts", several, "FABRIKAM", "contoso.azurecr.io", "fabrikam-a1b2c3.azurecr.io", ""},
		{"a login server for a name", several, "fabrikam-a1b2c3.azurecr.io", "", "fabrikam-a1b2c3.azurecr.io", ""},
		{"the host of one of several", several, "", "fabrikam-a1b2c3.azurecr.io", "fabrikam-a1b2c3.azurecr.io", ""},
		{"nothing, and several registries", several, "", "", "", "?registry=R with R one of contoso, Fabrikam, new"},
		{"a foreign host, and several", several, "", "evil.azurecr.io", "", "none of contoso, Fabrikam, new"},
		{"one that Azure has not described", several, "", "new-d4.azurecr.cn", "new-d4.azurecr.cn", ""},
		{"its name alone", several, "new", "", "new.azurecr.io", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.set.Registry(tt.named, tt.host)
			if got != tt.want || (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("got %q, %v; want %q, %q", got, err, tt.want, tt.wrong)
			}
		})
	}
}

// Each registry has its regions; one of which nothing is known stops only itself.
func TestSet(t *testing.T) {
	s := Set{member("new", ""), member("contoso", "contoso.azurecr.io", "westeurope", "eastus"), member("fabrikam", "fabrikam.azurecr.io", "uksouth")}
	for registry, want := range map[string][]replication.Region{"contoso.azurecr.io": {"westeurope", "eastus"}, "fabrikam.azurecr.io": {"uksouth"}, "new.azurecr.io": nil, "evil.azurecr.io": nil} {
		if got, err := s.Expected(t.Context(), registry); !slices.Equal(got.Expected, want) || (err == nil) != (want != nil) {
			t.Errorf("expected of %s: got %v, %v, want %v", registry, got, err, want)
		}
		if got := s.Replicas(registry, []replication.Region{"uksouth"}); len(got) == 1 != slices.Contains(want, "uksouth") {
			t.Errorf("replicas of %s: got %v", registry, got)
		}
	}
	if s.Recheck(t.Context(), "evil.azurecr.io", "uksouth") {
		t.Error("a region of a foreign registry is expected")
	}
	if _, err := s.Fired(t.Context(), "evil.azurecr.io", "n1", t0, nil); !errors.Is(err, errNoMember) {
		t.Errorf("log of a foreign registry: %v", err)
	}
	if err := s.Known(t.Context()); err != nil {
		t.Errorf("ready with one that is not known: %v", err)
	}
	if err := s[:1].Known(t.Context()); err == nil || !strings.Contains(err.Error(), "new: ") {
		t.Errorf("ready with nothing known: %v", err)
	}
	s.Wake("fabrikam")
	for i, want := range []int{0, 0, 1} {
		if got := len(s[i].wake); got != want {
			t.Errorf("%s was woken %d times, want %d", s[i].Name, got, want)
		}
	}
	if got := s.Registries(); len(got) != 3 || got[2].Name != "fabrikam" || got[2].Regions[0].Region != "uksouth" {
		t.Errorf("%+v", got)
	}
}

// With several registries, the URL of a webhook names its own.
func TestURLOfAWebhook(t *testing.T) {
	u := &url.URL{Scheme: "https", Host: "allregions.example.com", Path: "/hooks"}
	for registry, want := range map[string]string{
		"":        "https://allregions.example.com/hooks/webhooks/acr?region=eastus",
		"contoso": "https://allregions.example.com/hooks/webhooks/acr?region=eastus&registry=contoso",
	} {
		if got := (Target{URL: u, Registry: registry}).uri("eastus"); got != want {
			t.Errorf("registry %q: got %s, want %s", registry, got, want)
		}
	}
}
