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

// Static is a list of expected regions that does not change.
type Static []replication.Region

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
func (s Static) Registry(_, host string) (string, error) { return host, nil }

// Expected returns the regions that a notification that begins now waits for.
func (s Static) Expected(context.Context, string) ([]replication.Region, error) { return s, nil }

// Recheck tells whether the region is expected; a fixed list never learns one.
func (s Static) Recheck(_ context.Context, _ string, region replication.Region) bool {
	return slices.Contains(s, region)
}
