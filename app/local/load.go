package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"strings"

	"allregions/app/local/load"
)

// runLoad sends webhooks as fast as they are answered, and reports how that went.
func runLoad(ctx context.Context, args []string) error {
	var o load.Options
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.IntVar(&o.Notifications, "notifications", 1000, "how many notifications")
	flags.IntVar(&o.Concurrency, "concurrency", 16, "how many webhooks at a time")
	flags.StringVar(&o.Mode, "mode", load.Modes[0], strings.Join(load.Modes, ", ")+": see the README")
	regions := flags.String("regions", strings.Join(demoRegions, ","), "regions that must report, comma separated")
	flags.StringVar(&o.URL, "url", "", "of a running service (default: a new local stack, which is measured, too)")
	flags.StringVar(&o.Key, "key", "", "key of that service")
	flags.IntVar(&o.Open, "open", 0, "leave so many other notifications open before, and compare with a second stack without them")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	var err error
	if o.Stack, err = stackOptions(strings.Split(*regions, ",")); err != nil {
		return err
	}
	reports, err := load.Run(ctx, o)
	if err != nil {
		return err
	}
	if !*asJSON {
		load.Print(os.Stdout, reports)
		return nil
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(reports)
}
