package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"allregions/app/target"
)

// deployment is what a user sets with `azd env set` and only the service can read. Its
// other settings infra/settings.bicep checks.
type deployment struct {
	Targets      string    `envconfig:"NOTIFY_TARGETS"`
	Secrets      string    `envconfig:"TARGET_SECRETS"`
	PublicURL    PublicURL `envconfig:"CUSTOM_URL"`
	Registration Switch    `envconfig:"WEBHOOK_REGISTRATION"`
	Actions      Actions   `envconfig:"WEBHOOK_ACTIONS"`
	Timeout      Timeout   `envconfig:"WEBHOOK_TIMEOUT"`
	OTLP         Collector `envconfig:"OTLP_ENDPOINT"`
	Cloud        Cloud     `envconfig:"AZURE_CLOUD"`
}

// check says what would end the service at start, before it is deployed: infra/hooks
// run it. The secrets of targets are in the vault then, or not yet: their variables
// only must be named.
func check() error {
	var d deployment
	errs := append(unknownSettings(os.Environ(), settingNames[Config]()), process(&d))
	var variables []string
	for pair := range strings.SplitSeq(d.Secrets, ",") {
		name, _, _ := strings.Cut(pair, "=")
		variables = append(variables, strings.TrimSpace(name))
	}
	if err := target.Check(d.Targets, variables); err != nil {
		errs = append(errs, fmt.Errorf("NOTIFY_TARGETS: %w", err))
	}
	return errors.Join(errs...)
}
