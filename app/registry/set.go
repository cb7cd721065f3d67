package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"allregions/app/replication"
)

// Member is one registry of a Set.
type Member struct {
	*Worker
	EventLog *EventLog
}

// Set is the registries that the service works for; no two have one name. Of a webhook, a
// notification, and an image, the registry is told by its login server.
type Set []Member

// Run does the work on each registry until ctx ends.
func (s Set) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, m := range s {
		running.Go(func() { m.Follow(ctx) })
		running.Go(func() { m.Worker.Run(ctx) })
	}
	running.Wait()
}

// Wake makes the worker of the actor with that id ask for work. It does not block.
func (s Set) Wake(id string) {
	for _, m := range s {
		if actorID(m.Name) == id {
			m.Worker.Wake()
		}
	}
}

// Known is nil while the regions of a registry are known: one that Azure does not answer
// for does not stop the others.
func (s Set) Known(ctx context.Context) error {
	var errs []error
	for _, m := range s {
		_, err := m.Expected(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
	}
	return errors.Join(errs...)
}

// Registry returns the login server of the registry that a webhook is of: the one that its
// URL names, or else that of the host that its body names, or else the only one. The error
// is for whoever has sent it.
func (s Set) Registry(named, host string) (loginServer string, err error) {
	host, _, _ = strings.Cut(host, ":")
	host = replication.LoginServer(host)
	for _, m := range s {
		server, known := m.loginServer()
		isHost := m.isHost(host)
		switch {
		case named != "" && !strings.EqualFold(named, m.Name) && !replication.NamesRegistry(named, server):
		case named == "" && !isHost && (host != "" || len(s) > 1):
		case isHost && !known:
			return host, nil
		default:
			return server, nil
		}
	}
	names := strings.Join(s.names(), ", ")
	switch {
	case named != "":
		return "", fmt.Errorf("the URL names the registry %q, which is none of %s", named, names)
	case host != "":
		return "", fmt.Errorf("the registry %s is none of %s", host, names)
	}
	return "", fmt.Errorf("the URL must name the registry: ?registry=R with R one of %s", names)
}

func (s Set) names() (names []string) {
	for _, m := range s {
		names = append(names, m.Name)
	}
	return names
}

// errNoMember is about a notification of a registry that has gone from the settings.
var errNoMember = errors.New("its registry is not in the settings")

func (s Set) of(loginServer string) (Member, error) {
	if i := slices.IndexFunc(s, func(m Member) bool { return m.isHost(loginServer) }); i >= 0 {
		return s[i], nil
	}
	return Member{}, errNoMember
}

// Expected returns what a notification of the registry that begins now waits for.
func (s Set) Expected(ctx context.Context, registry string) (replication.Awaited, error) {
	m, err := s.of(registry)
	if err != nil {
		return replication.Awaited{}, err
	}
	return m.Expected(ctx)
}

// Recheck is that of the registry's Worker.
func (s Set) Recheck(ctx context.Context, registry string, region replication.Region) bool {
	m, err := s.of(registry)
	return err == nil && m.Recheck(ctx, region)
}

// Replicas is that of the registry's View.
func (s Set) Replicas(registry string, regions []replication.Region) map[replication.Region]string {
	m, err := s.of(registry)
	if err != nil {
		return nil
	}
	return m.Replicas(regions)
}

// Fired is that of the registry's EventLog.
func (s Set) Fired(ctx context.Context, registry, id string, began time.Time, regions []replication.Region) ([]replication.Event, error) {
	m, err := s.of(registry)
	if err != nil {
		return nil, err
	}
	return m.EventLog.Fired(ctx, id, began, regions)
}

// Registries is what this process knows of each.
func (s Set) Registries() (known []Status) {
	for _, m := range s {
		known = append(known, m.Status())
	}
	return known
}
