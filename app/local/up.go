package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/dapr"
	"allregions/app/local/stack"
	"allregions/app/registry"
)

// finishOptions checks what the flags of up and demo have set, and sets the rest.
func finishOptions(o *stack.Options, regions []string) error {
	o.Regions = regions
	if _, err := registry.ParseStatic(o.Regions); err != nil {
		return fmt.Errorf("-regions: %w", err)
	}
	if o.Timeout < time.Second || o.Timeout > 30*24*time.Hour {
		return fmt.Errorf("-timeout: %s is not between 1s and 30 days", o.Timeout)
	}
	if o.Port < 0 || o.Port > 65535 {
		return fmt.Errorf("-port: %d is not a TCP port", o.Port)
	}
	if strings.ContainsAny(o.Key, ", \t\r\n") {
		return errors.New("-key: one key, without commas and spaces")
	}
	if o.Key == "" {
		o.Key = strings.ToLower(rand.Text())
	}
	o.Progress = dapr.ShowProgress(os.Stderr)
	return nil
}

func up(ctx context.Context, args []string) error {
	o := stack.Options{Port: 8080, Timeout: 2 * time.Minute}
	var regions, targets string
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.StringVar(&regions, "regions", "westeurope,eastus,japaneast", "regions that must report, comma separated")
	flags.DurationVar(&o.Timeout, "timeout", o.Timeout, "how long a notification waits for its regions")
	flags.StringVar(&o.Key, "key", "", "key that callers must use (default: a new one)")
	flags.IntVar(&o.Port, "port", o.Port, "port of the service; 0 for any free one")
	flags.StringVar(&o.Dir, "data", "", "directory in which state and reminders survive (default: a temporary one)")
	flags.StringVar(&targets, "targets", "", "file with targets, as for NOTIFY_TARGETS")
	if err := parse(flags, args); err != nil {
		return err
	}
	if targets != "" {
		path, err := filepath.Abs(targets)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return fmt.Errorf("-targets: %w", err)
		}
		o.Settings = map[string]string{"NOTIFY_TARGETS": path}
	}
	if err := finishOptions(&o, strings.Split(regions, ",")); err != nil {
		return err
	}
	o.ServiceLog = os.Stderr
	var stdout sync.Mutex
	o.Events = func(event []byte) {
		var line bytes.Buffer
		if err := json.Compact(&line, event); err != nil {
			fmt.Fprintf(os.Stderr, "an event that is not JSON came out of the topic: %v\n", err)
			return
		}
		line.WriteByte('\n')
		stdout.Lock()
		defer stdout.Unlock()
		os.Stdout.Write(line.Bytes())
	}
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()

	registry := &acr.Registry{LoginServer: "contoso.azurecr.io"}
	o.Progress(fmt.Sprintf(`
Ready. Webhook URL, one per region:

  %[1]s/webhooks/acr?region=%[2]s&code=%[3]s

Be the registry (again with the other regions, and the notification comes out on stdout):

  curl -i '%[1]s/webhooks/acr?region=%[2]s' -H 'Authorization: Bearer %[3]s' -H 'Content-Type: application/json' \
    -d '%[4]s'

State and logs: %[5]s. Ctrl-C stops everything.
`, s.URL, o.Regions[0], s.Key, registry.Payload(acr.NewPush("shop/cart", "v1.4.2")), s.Dir), false)

	return untilEnd(ctx, s)
}

// untilEnd returns nil when the user ends the stack, and an error when the
// stack ends itself.
func untilEnd(ctx context.Context, s *stack.Stack) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.Failed():
		return s.Err()
	}
}
