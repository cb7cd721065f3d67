package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"allregions/app/registry"
)

// removal is the part of the settings that deregister needs.
type removal struct {
	Registry  ResourceID `envconfig:"REGISTRY_RESOURCE_ID"`
	PublicURL PublicURL  `envconfig:"PUBLIC_URL"`
	Owner     Owner      `envconfig:"WEBHOOK_OWNER"`

	// RoleAssignment and Role are the resource ids of the service's right at the
	// registry and of its definition, if those go, too. They are outputs of
	// infra/allregions.bicep.
	RoleAssignment string `envconfig:"REGISTRY_ROLE_ASSIGNMENT_ID"`
	Role           string `envconfig:"REGISTRY_ROLE_ID"`
}

func loadRemoval() (r removal, err error) {
	if err = process(&r); err == nil && r.Registry.ID != nil && r.Owner.or(r.PublicURL) == "" {
		err = errors.New("WEBHOOK_OWNER: not set, and neither is PUBLIC_URL")
	}
	return r, err
}

// deregister deletes what the service has at the registry: its webhooks, then its
// role. It has the rights of whoever runs it, on the day when the service goes.
func deregister(ctx context.Context, out io.Writer) error {
	settings, err := loadRemoval()
	if err != nil {
		return err
	}
	if settings.Registry.ID == nil {
		fmt.Fprintln(out, "REGISTRY_RESOURCE_ID is not set: there is no registry with anything of ours")
		return nil
	}
	arm, err := azureRegistry(settings.Registry)
	if err != nil {
		return err
	}
	registration, err := registry.NewRegistration(arm, registry.Target{Owner: settings.Owner.or(settings.PublicURL)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	removed, err := registration.Remove(ctx)
	for _, name := range removed {
		fmt.Fprintln(out, "deleted webhook", name)
	}
	errs := []error{err}
	// In this order: a role that is assigned cannot be deleted.
	for _, id := range []string{settings.RoleAssignment, settings.Role} {
		if id == "" {
			continue
		}
		err := arm.RemoveRole(ctx, id)
		if err == nil {
			fmt.Fprintln(out, "deleted", id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
