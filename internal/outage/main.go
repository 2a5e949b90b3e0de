// Command outage proves that outages are nobody's fault: it kills Consul, Nomad and drover's servers under running
// items, and workers and agents among them, and compares every ending with what really happened. It needs the binaries
// in bin/, and a consul on the PATH or in build/bin. It ends with exit status 1 when anything is wrong.
//
// docs/reliability.md says what each run does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"drover/internal/work"
)

func main() {
	seed := flag.Uint64("seed", 0, "of the schedule; a new one if 0")
	real := flag.Bool("real", false, "use the nomad on the PATH instead of the embedded one")
	consulAway := flag.Bool("consul", false, "kill Consul alone: once for -outage, and once for longer than -grace")
	outage := flag.Duration("outage", 5*time.Minute, "for which Consul is away")
	grace := flag.Duration("grace", time.Minute, "that the second, longer outage exceeds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	var err error
	if *consulAway {
		err = runBothAways(ctx, os.Stdout, *real, *outage, *grace)
	} else {
		err = runSeed(ctx, os.Stdout, *real, *seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "outage:", err)
		os.Exit(1)
	}
}

// runSeed makes the run with random outages.
func runSeed(ctx context.Context, out io.Writer, real bool, seed uint64) error {
	fmt.Fprintf(out, "SEED=%d\n", seed)
	return report(out, real, repositories*itemsPerRepo, func(o options) ([]string, error) { return runStorm(ctx, out, o, seed) })
}

// runBothAways makes a run with an outage of Consul that the agents survive, and one that they do not.
func runBothAways(ctx context.Context, out io.Writer, real bool, outage, grace time.Duration) error {
	const items, steps, delay = 16, 8, 5 * time.Second
	for _, a := range []away{
		{items: items, length: outage, ttl: work.DefaultHeartbeatTTL.Std(), grace: work.DefaultFenceGrace.Std(), delay: delay, steps: steps},
		{items: items, length: grace * 5 / 2, ttl: min(30*time.Second, grace), grace: grace, delay: delay, steps: steps},
	} {
		if err := report(out, real, items, func(o options) ([]string, error) { return runAway(ctx, out, o, a) }); err != nil {
			return err
		}
	}
	return nil
}

// report prepares a run, and prints what is wrong. The logs stay where something is.
func report(out io.Writer, real bool, items int, run func(options) ([]string, error)) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "drover-outage-")
	if err != nil {
		return err
	}
	wrong, err := run(options{root: root, bin: filepath.Join(root, "bin"), dir: dir, real: real})
	if err != nil {
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	for _, line := range wrong {
		fmt.Fprintln(out, "WRONG", line)
	}
	fmt.Fprintf(out, "%d items, %d wrong\n", items, len(wrong))
	if len(wrong) > 0 {
		return fmt.Errorf("logs are in %s", dir)
	}
	return os.RemoveAll(dir)
}
