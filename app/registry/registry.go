// Package registry knows which regions of a container registry must report, and what ACR's
// log has of their webhooks.
package registry

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"allregions/app/replication"
)

// Static is a list of regions that does not change.
type Static []replication.Region

// Fixed is the regions of any registry, where nobody asks Azure for them.
type Fixed struct{ Awaited replication.Awaited }

var validRegion = regexp.MustCompile(`^[a-z0-9]+$`)

// ParseStatic reads a list of region names, each in any of the ways in which
// Azure writes them. It refuses an empty list, an empty name and a repetition.
func ParseStatic(names []string) (Static, error) {
	if replication.ParseRegion(strings.Join(names, ",")) == "" {
		return nil, errors.New("no regions")
	}
	var regions Static
	for i, name := range names {
		r := replication.ParseRegion(name)
		switch {
		case r == "":
			return nil, fmt.Errorf("region %d of %d is empty", i+1, len(names))
		case slices.Contains(regions, r):
			return nil, fmt.Errorf("region %s is there twice", r)
		case !validRegion.MatchString(string(r)):
			return nil, fmt.Errorf("%q is not the name of a region: letters, digits, spaces and dashes only", name)
		}
		regions = append(regions, r)
	}
	return regions, nil
}

// Registry returns the host: a fixed list is for any registry, whatever a URL names.
func (f Fixed) Registry(_, host string) (string, error) { return host, nil }

// Expected returns what a notification that begins now waits for.
func (f Fixed) Expected(context.Context, string) (replication.Awaited, error) {
	return f.Awaited, nil
}

// Recheck tells whether the region is awaited; a fixed list never learns one.
func (f Fixed) Recheck(_ context.Context, _ string, region replication.Region) bool {
	return slices.Contains(f.Awaited.All(), region)
}

// await returns what is awaited of all regions if these are optional.
func (s Static) await(all []replication.Region) (replication.Awaited, error) {
	a := replication.Await(all, s)
	if len(a.Expected) == 0 {
		return a, fmt.Errorf("OPTIONAL_REGIONS leaves no region to wait for: the registry has %v", all)
	}
	return a, nil
}
