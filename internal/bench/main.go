// Command bench measures what drover promises about time, each beside a yardstick taken in the same run. It prints one
// line a figure, writes the raw results below build/bench/, and ends with exit status 1 when a target is missed.
// docs/performance.md says what each figure means.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// benchmark is one measurement.
type benchmark struct {
	name string
	// run measures on the embedded servers, or on the real nomad and consul of the PATH.
	run func(ctx context.Context, real bool) ([]figure, error)
}

var benchmarks = []benchmark{
	{name: "oom_visible", run: oomVisible},
	{name: "leader_handover", run: handover},
	{name: "leader_failover", run: failover},
	{name: "locks", run: locks},
	{name: "submit_100k", run: submit100k},
}

func main() {
	only := flag.String("only", "", "run the benchmark of this name alone: "+strings.Join(names(benchmarks), ", "))
	real := flag.Bool("real", false, "use the nomad and consul on the PATH instead of the embedded servers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, benchmarks, *only, *real); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the benchmarks, or only one. It returns an error when one fails or misses its target.
func run(ctx context.Context, out io.Writer, all []benchmark, only string, real bool) error {
	if only != "" && !slices.Contains(names(all), only) {
		return fmt.Errorf("no benchmark %q, there are: %s", only, strings.Join(names(all), ", "))
	}
	var missed []string
	for _, b := range all {
		if only != "" && b.name != only {
			continue
		}
		figures, err := b.run(ctx, real)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		for _, f := range figures {
			fmt.Fprintln(out, f)
			if !f.met() {
				missed = append(missed, f.name)
			}
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("targets missed: %s", strings.Join(missed, ", "))
	}
	return nil
}

func names(all []benchmark) []string {
	var names []string
	for _, b := range all {
		names = append(names, b.name)
	}
	return names
}
