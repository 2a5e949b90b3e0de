package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

type options struct {
	old      string // path of an old drover; the one in bin/ if empty
	only     string // ids
	inFlight int
	verbose  bool
}

func main() {
	var opts options
	flag.StringVar(&opts.old, "old", "", "run on this `drover`, its drover-worker beside it, and list the rows that are wrong there")
	flag.StringVar(&opts.only, "only", "", "run these rows alone: `ids`, separated by commas")
	flag.IntVar(&opts.inFlight, "in-flight", 8, "run this many items at a time")
	flag.BoolVar(&opts.verbose, "v", false, "print how long each row took, and the items that ended wrong")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wrong, err := runTable(ctx, os.Stdout, table(), opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cases:", err)
	}
	if err != nil || wrong > 0 && opts.old == "" {
		os.Exit(1)
	}
}

// result is what running one row came to.
type result struct {
	row    row
	faults []string
	took   time.Duration
	seen   *seen
}

// runTable runs the rows and prints those that are wrong. It returns how many are.
func runTable(ctx context.Context, out io.Writer, rows []row, opts options) (wrong int, err error) {
	tableFaults := faults(rows)
	rows, err = only(rows, opts.only)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "drover-cases-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	results, err := runRows(ctx, dir, rows, opts)
	if err != nil {
		return 0, err
	}
	for _, r := range results {
		if len(r.faults) > 0 {
			wrong++
			fmt.Fprintf(out, "%s (%s): %s\n", r.row.ID, r.row.Kind, strings.Join(r.faults, "; "))
		}
		if opts.verbose {
			r.describe(out)
		}
	}
	if opts.only == "" && opts.old == "" {
		for _, fault := range tableFaults {
			fmt.Fprintln(out, fault)
		}
		wrong += len(tableFaults)
	}
	if opts.old != "" {
		fmt.Fprintf(out, "%d cases, %d wrong on %s\n", len(rows), wrong, opts.old)
		return wrong, nil
	}
	fmt.Fprintf(out, "%d cases, %d wrong\n", len(rows), wrong)
	return wrong, nil
}

// runRows runs the rows, grouped by the configuration they need, and returns their results in the rows' order.
func runRows(ctx context.Context, dir string, rows []row, opts options) ([]result, error) {
	binary, err := filepath.Abs("bin/drover")
	if err != nil {
		return nil, err
	}
	if opts.old != "" {
		if binary, err = filepath.Abs(opts.old); err != nil {
			return nil, err
		}
	}
	results := make([]result, len(rows))
	var configs []string
	for i, r := range rows {
		results[i].row = r
		if !slices.Contains(configs, r.Config) {
			configs = append(configs, r.Config)
		}
	}
	for i, config := range configs {
		err := runGroup(ctx, filepath.Join(dir, fmt.Sprint(i)), binary, config, opts.inFlight, results)
		switch {
		case err != nil && opts.old == "":
			return nil, err
		case err != nil: // it does not know a setting
			for j := range results {
				if results[j].row.Config == config && results[j].took == 0 {
					results[j].faults = append(results[j].faults, err.Error())
				}
			}
		}
	}
	return results, nil
}

// runGroup runs the rows with a configuration on a drover of their own, and fills their results.
func runGroup(ctx context.Context, dir, binary, config string, inFlight int, results []result) (err error) {
	var rows []row
	for _, r := range results {
		if r.row.Config == config {
			rows = append(rows, r.row)
		}
	}
	rig, err := startRig(ctx, dir, binary, config, rows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rig.stop()) }()
	var group errgroup.Group
	group.SetLimit(inFlight)
	for i := range results {
		r := &results[i]
		if r.row.Config != config {
			continue
		}
		group.Go(func() error {
			started := time.Now()
			r.seen, r.faults = rig.run(ctx, r.row)
			r.took = time.Since(started)
			return ctx.Err()
		})
	}
	return group.Wait()
}

// describe prints how long a row took and, if it is wrong, what its item was.
func (r result) describe(out io.Writer) {
	fmt.Fprintf(out, "%6.1fs %s\n", r.took.Seconds(), r.row.ID)
	if len(r.faults) == 0 || r.seen == nil {
		return
	}
	for _, a := range r.seen.Item.Attempts {
		fmt.Fprintf(out, "\tattempt %d: %s %s: %s\n", a.Number, a.State, a.Reason, a.Detail)
	}
	for _, t := range r.seen.Item.History {
		fmt.Fprintf(out, "\t%s %s: %s\n", t.At.Format("15:04:05.000"), t.To, t.Cause)
	}
	fmt.Fprintf(out, "\ttest: %+v\n\tpull request: %+v\n\trefs: %s\n", r.seen.Item.Test, r.seen.Item.PR, strings.Join(r.seen.Refs, " "))
}
