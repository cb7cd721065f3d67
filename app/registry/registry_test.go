package registry

import (
	"slices"
	"strings"
	"testing"
)

func TestParseStatic(t *testing.T) {
	got, err := ParseStatic([]string{"West Europe", " east-us", "JAPANEAST"})
	if want := (Static{"westeurope", "eastus", "japaneast"}); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for want, names := range map[string][]string{
		"no regions":                   nil,
		"no regions ":                  {""},
		"region 2 of 3 is empty":       {"eastus", " ", "westus"},
		"region eastus is there twice": {"eastus", "East US"},
		"is not the name of a region":  {"east/us"},
	} {
		if _, err := ParseStatic(names); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%q: %v, want %q", names, err, want)
		}
	}
}
