package main

import (
	"context"
	"os"
	"strings"
	"time"

	"allregions/app/local/load"
)

// runLoad sends webhooks as fast as they are answered, and reports how that went.
func runLoad(ctx context.Context, args []string) error {
	var o load.Options
	flags, stackOptions := stackFlags("load")
	flags.IntVar(&o.Notifications, "notifications", 1000, "how many notifications")
	flags.IntVar(&o.Concurrency, "concurrency", 16, "how many webhooks at a time")
	flags.StringVar(&o.Mode, "mode", load.Modes[0], strings.Join(load.Modes, ", ")+": see the README")
	flags.StringVar(&o.URL, "url", "", "of a running service (default: a new local stack, which is measured, too)")
	flags.StringVar(&o.Key, "key", "", "key of that service")
	if err := parse(flags, args); err != nil {
		return err
	}
	o.Stack = *stackOptions
	// The outcome of a notification that is open for long costs a call more, for its
	// reminder is far ahead.
	o.Stack.Timeout = 2 * time.Minute
	report, err := load.Run(ctx, o)
	if err != nil {
		return err
	}
	report.Print(os.Stdout)
	return nil
}
