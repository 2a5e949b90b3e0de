// Command drover-worker is the supervisor of one attempt, and the first process of its container.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"drover/internal/worker/launch"
)

// version is set when a release is built.
var version = "dev"

const usage = `drover-worker runs one attempt of a drover work item. Nomad starts it, with the
dispatch payload in $NOMAD_TASK_DIR/item.json.

  drover-worker            run the attempt
  drover-worker version    print the version
  drover-worker probe      examine whether an attempt could work here: what drover doctor
                           runs as a job; prints its findings as JSON lines

What its agent may call, see drover-worker lock --help:

  drover-worker lock PATH…           take paths of the repository for the attempt
  drover-worker unlock PATH…|--all   give them up
  drover-worker locks                show what is locked

ENVIRONMENT
  DROVER_HEALTH_ADDR   address (host:port) to serve /health and /metrics on; if it is not set,
                       the port labelled health of the Nomad job's network, if there is one

EXIT STATUS
  0   the attempt's result is reported, or the attempt is another allocation's; the probe
      has printed its findings
  1   no result: stopped by a signal, or the attempt could not be claimed
  2   wrong usage
  75  no result: the worker lost its session in Consul, and could not take the attempt back
  76  no result: the worker never reached Consul
`

func main() {
	switch args := os.Args[1:]; {
	case len(args) > 0 && lockVerbs[args[0]].call != nil:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		os.Exit(runLocks(ctx, args, os.Environ(), os.Stdout, os.Stderr))
	case len(args) > 1 && args[0] == execArgument:
		os.Exit(launch.Exec(args[1:]))
	case len(args) == 1 && args[0] == "version":
		fmt.Println("drover-worker", version)
	case len(args) > 0 && args[0] == countArgument:
		os.Exit(countReports(args[1:], os.Stdout, os.Stderr))
	case len(args) == 0, slices.Equal(args, []string{probeArgument}):
		os.Exit(first(os.Args, os.Environ()))
	case slices.Equal(args, []string{attemptArgument}), slices.Equal(args, []string{attemptArgument, probeArgument}):
		hide()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		do := run
		if len(args) > 1 {
			do = runProbe
		}
		os.Exit(do(ctx, os.Environ(), os.Stdout, os.Stderr))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(exitUsage)
	}
}
