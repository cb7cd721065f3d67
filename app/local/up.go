package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
	"allregions/app/registry"
)

// stackOptions are those of a stack with a new key.
func stackOptions(regions []string) (stack.Options, error) {
	if _, err := registry.ParseStatic(regions); err != nil {
		return stack.Options{}, fmt.Errorf("-regions: %w", err)
	}
	return stack.Options{Regions: regions, Key: strings.ToLower(rand.Text()), Progress: os.Stderr}, nil
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	regions := flags.String("regions", strings.Join(demoRegions, ","), "regions that must report, comma separated")
	timeout := flags.Duration("timeout", 2*time.Minute, "how long a notification waits for its regions")
	key := flags.String("key", "", "key that callers must use (default: a new one)")
	port := flags.Int("port", 8080, "port of the service; 0 for any free one")
	dir := flags.String("data", "", "directory in which state and reminders survive (default: a temporary one)")
	targets := flags.String("targets", "", "file with targets, as for NOTIFY_TARGETS")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *timeout < time.Second || *timeout > 30*24*time.Hour {
		return fmt.Errorf("-timeout: %s is not between 1s and 30 days", *timeout)
	}
	if strings.ContainsAny(*key, ", \t\r\n") {
		return errors.New("-key: one key, without commas and spaces")
	}
	o, err := stackOptions(strings.Split(*regions, ","))
	if err != nil {
		return err
	}
	o.Timeout, o.Port, o.Dir, o.Key = *timeout, *port, *dir, cmp.Or(*key, o.Key)
	if *targets != "" {
		path, err := filepath.Abs(*targets)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return fmt.Errorf("-targets: %w", err)
		}
		o.Settings = map[string]string{"NOTIFY_TARGETS": path}
	}
	o.ServiceLog = os.Stderr
	o.Events = func(event []byte) {
		var line bytes.Buffer
		if err := json.Compact(&line, event); err != nil {
			fmt.Fprintf(os.Stderr, "an event that is not JSON came out of the topic: %v\n", err)
			return
		}
		fmt.Println(&line)
	}
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()

	simulator := &acr.Registry{LoginServer: "contoso.azurecr.io"}
	fmt.Fprintf(os.Stderr, `
Ready. Webhook URL, one per region:

  %[1]s/webhooks/acr?region=%[2]s&code=%[3]s

Be the registry (again with the other regions, and the notification comes out on stdout):

  curl -i '%[1]s/webhooks/acr?region=%[2]s' -H 'Authorization: Bearer %[3]s' -H 'Content-Type: application/json' \
    -d '%[4]s'

State and logs: %[5]s. Ctrl-C stops everything.

`, s.URL, o.Regions[0], s.Key, simulator.Payload(acr.NewPush("shop/cart", "v1.4.2")), s.Dir)

	select {
	case <-ctx.Done():
		return nil
	case <-s.Failed():
		return s.Err()
	}
}
