package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: allregions          runs the service, set up by its environment
       allregions check    checks what azd's environment has for the service
       allregions version  prints the release, or the commit
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "check":
		if err := check(); err != nil {
			fmt.Fprintf(stderr, "allregions: the service could not start:\n%v\n", err)
			return 1
		}
		return 0
	case len(args) == 1 && args[0] == "version":
		fmt.Fprintln(stdout, version())
		return 0
	case len(args) > 0:
		fmt.Fprint(stderr, usage)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	config, err := loadConfig()
	if err != nil {
		fmt.Fprintf(stderr, "allregions: cannot start:\n%v\n", err)
		return 1
	}
	if err := serve(ctx, config, log); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}
