package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
	"allregions/app/registry"
)

// stackFlags are the flags of a command that starts a stack, and the options that they
// set: those of a stack with new keys.
func stackFlags(command string) (*flag.FlagSet, *stack.Options) {
	o := &stack.Options{Regions: demoRegions, Key: strings.ToLower(rand.Text()), ReadKey: strings.ToLower(rand.Text()), Settings: map[string]string{}}
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.Func("regions", "regions that must report, comma separated (default "+strings.Join(demoRegions, ",")+")", func(list string) error {
		o.Regions = strings.Split(list, ",")
		_, err := registry.ParseStatic(o.Regions)
		return err
	})
	return flags, o
}

// upOptions are what the command line says, and targets that print what they get.
func upOptions(args []string) (*stack.Options, error) {
	flags, o := stackFlags("up")
	flags.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "how long a notification waits for its regions")
	flags.IntVar(&o.Port, "port", 8080, "port of the service; 0 for any free one")
	flags.StringVar(&o.Dir, "data", "", "directory in which state and reminders survive (default: a temporary one)")
	flags.Func("key", "key that callers must use (default: a new one)", func(key string) error {
		o.Key = key
		if key == "" || strings.ContainsAny(key, ", \t\r\n") {
			return errors.New("one key, without commas and spaces")
		}
		return nil
	})
	flags.Func("targets", "file with targets, as for NOTIFY_TARGETS", func(file string) (err error) {
		if o.Settings["NOTIFY_TARGETS"], err = filepath.Abs(file); err == nil {
			_, err = os.Stat(file)
		}
		return err
	})
	flags.Func("receiver", "run a target instead, which prints what it gets and answers with this HTTP `status`; 503 shows retries", func(s string) error {
		status, err := strconv.Atoi(s)
		if err != nil || status < 200 || status > 599 {
			return errors.New("not an HTTP status from 200 to 599")
		}
		o.Settings["NOTIFY_TARGETS"], err = startReceiver(status, os.Stderr)
		return err
	})
	if err := parse(flags, args); err != nil {
		return nil, err
	}
	if o.Timeout < time.Second || o.Timeout > 30*24*time.Hour {
		return nil, fmt.Errorf("-timeout: %s is not between 1s and 30 days", o.Timeout)
	}
	return o, nil
}

func up(ctx context.Context, args []string) error {
	o, err := upOptions(args)
	if err != nil {
		return err
	}
	o.ServiceLog = os.Stderr
	o.Events = func(event []byte) { fmt.Printf("%s\n", event) }
	s, err := stack.Start(ctx, *o)
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

Ask, with a key that may only read:

  curl '%[1]s/images/shop/cart?tag=v1.4.2' -H 'Authorization: Bearer %[6]s'

State and logs: %[5]s. Ctrl-C stops everything.

`, s.URL, o.Regions[0], s.Key, simulator.Payload(acr.NewPush("shop/cart", "v1.4.2")), s.Dir, o.ReadKey)

	select {
	case <-ctx.Done():
		return nil
	case <-s.Failed():
		return s.Err()
	}
}
