// Local runs the whole service on one machine, with the real Dapr around it:
// no server, no container, no account.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"allregions/app/local/dapr"
	"allregions/app/local/stack"
)

const usage = `usage: go run ./app/local COMMAND [FLAGS]

  up        run the service with the real Dapr around it; every CloudEvent that
            comes out of the topic is a line on stdout
  demo      run it for half a minute with a simulated geo-replicated registry
  chaos     run three replicas while processes are killed and the store fails, and
            see that no promise is broken; needs redis-server
  load      send webhooks as fast as they are answered, to a new stack or a
            running service, and report how that went
  build     build Dapr, if that was not done before

Flags of a command: go run ./app/local COMMAND -h
`

var commands = map[string]func(context.Context, []string) error{
	"up": up, "demo": demo, "chaos": runChaos, "load": runLoad, "build": build,
}

// errUsage means that the flag package has said what is wrong.
var errUsage = errors.New("usage")

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code: 0 for success, 1 for a failure that one line on
// stderr explains, 2 for a command line that is wrong.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go parentGone(cancel)
	if len(args) == 0 {
		args = []string{""}
	}
	if commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		if slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
			return 0
		}
		return 2
	}
	switch err := commands[args[0]](ctx, args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "local: interrupted")
		return 1
	default:
		fmt.Fprintf(os.Stderr, "local: %v\n", err)
		return 1
	}
}

func build(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("build", flag.ContinueOnError), args); err != nil {
		return err
	}
	root, err := stack.Root(ctx)
	if err != nil {
		return err
	}
	programs, err := dapr.Find(ctx, root, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Dapr %s: %s, %s, %s\n", programs.Version, programs.Daprd, programs.Placement, programs.Scheduler)
	return nil
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s takes no argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}

// parentGone calls cancel when the process that started this one has ended. The go
// tool, which runs this program under `go run`, passes a Ctrl-C on, but not a SIGTERM
// or SIGKILL.
func parentGone(cancel func()) {
	parent := os.Getppid()
	for os.Getppid() == parent {
		time.Sleep(500 * time.Millisecond)
	}
	cancel()
}
