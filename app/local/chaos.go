package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"allregions/app/local/chaos"
)

func runChaos(ctx context.Context, args []string) error {
	o := chaos.Options{Regions: demoRegions, Log: os.Stderr}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	minutes := flags.Float64("minutes", 5, "how long webhooks are sent and things fail")
	flags.IntVar(&o.Soak, "soak", 0, "instead: send at least so many notifications to one replica, and kill everything every two minutes")
	flags.DurationVar(&o.Timeout, "timeout", 8*time.Second, "of notifications")
	flags.Uint64Var(&o.Seed, "seed", 0, "repeats the pushes and the faults of another run (default: a new one)")
	flags.BoolVar(&o.Keep, "keep", false, "keep the logs and the record although all was well")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *minutes < 0.25 || *minutes > 24*60 {
		return fmt.Errorf("-minutes: %v is not between 0.25 and a day", *minutes)
	}
	if o.Soak < 0 || o.Soak > 1_000_000 {
		return fmt.Errorf("-soak: %d is not between 0 and a million", o.Soak)
	}
	if o.Soak > 0 {
		o.Regions = o.Regions[:2]
	}
	o.Length = time.Duration(*minutes * float64(time.Minute))
	for o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	report, err := chaos.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Print(report)
	if n := len(report.Violations); n > 0 {
		return fmt.Errorf("%d promises were broken; logs and record: %s", n, report.Dir)
	}
	return nil
}
