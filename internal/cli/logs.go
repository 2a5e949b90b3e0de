package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/control"
	"drover/internal/work"
)

type logsOptions struct {
	remote
	item    string
	attempt int
	follow  bool
	stdout  bool // alone
	stderr  bool // alone
}

func newLogs(sh *shell) *cobra.Command {
	var opts logsOptions
	cmd := &cobra.Command{
		Use:   "logs ITEM",
		Short: "Print the output of an attempt",
		Long: `Print the end of an attempt's output: of the latest, unless told otherwise.
What the attempt wrote to standard error comes on standard error, and so does, for an
attempt that did not complete, how it ended and what Nomad saw of it.`,
		Example: "  drover logs 01jz\n  drover logs 01jz --attempt 1 --stderr\n  drover logs -f 01jz",
		Args:    arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			if opts.follow && (opts.output == formatJSON || opts.attempt != 0) {
				return usage(cmd, "--follow goes neither with --attempt nor with -o json")
			}
			if opts.stdout && opts.stderr {
				return usage(cmd, "give --stdout or --stderr, not both")
			}
			if opts.attempt < 0 {
				return usage(cmd, "attempts are numbered from 1")
			}
			return runLogs(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	cmd.ValidArgsFunction = completeItems(sh)
	flags := cmd.Flags()
	flags.IntVar(&opts.attempt, "attempt", 0, "number of the attempt; 0 is the latest")
	flags.BoolVarP(&opts.follow, "follow", "f", false, "print the running attempt's output as it comes")
	flags.BoolVar(&opts.stdout, "stdout", false, "standard output alone")
	flags.BoolVar(&opts.stderr, "stderr", false, "standard error alone")
	return cmd
}

func runLogs(ctx context.Context, opts logsOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	stdout, stderr := sh.out, sh.err
	if opts.stdout {
		stderr = io.Discard
	}
	if opts.stderr {
		stdout = io.Discard
	}
	if opts.follow {
		err := client.Follow(ctx, opts.item, stdout, stderr)
		if !errors.Is(err, work.ErrNotFound) {
			return err
		}
		// No attempt runs: what was kept of the last one is what there is.
	}
	logs, err := client.Logs(ctx, opts.item, opts.attempt)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, logs)
	}
	if err := printLogs(logs, stdout, stderr, sh.err); err != nil || opts.stdout || opts.stderr {
		return err
	}
	return printEnd(logs, sh.err)
}

// printEnd says how an attempt that did not complete ended, and what Nomad saw of it.
func printEnd(logs control.Logs, notes io.Writer) error {
	end := logs.End
	if end == nil || end.State == work.AttemptCompleted {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "drover: attempt %d %s: %s: %s\n", logs.Attempt.Number(), end.State, end.Reason, end.Detail)
	if end.ExitCode != nil {
		fmt.Fprintf(&b, "drover: exit code %d", *end.ExitCode)
		if end.Signal != 0 {
			fmt.Fprintf(&b, ", signal %d", end.Signal)
		}
		if end.PeakMemoryMB != 0 {
			fmt.Fprintf(&b, ", peak memory %d of %d MB", end.PeakMemoryMB, end.MemoryMB)
		}
		b.WriteByte('\n')
	}
	for _, event := range logs.Events {
		fmt.Fprintf(&b, "nomad: %s\n", event)
	}
	if _, err := io.WriteString(notes, b.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func printLogs(logs control.Logs, stdout, stderr, notes io.Writer) error {
	for _, stream := range []struct {
		to    io.Writer
		lines []string
	}{{stdout, logs.Stdout}, {stderr, logs.Stderr}} {
		for _, line := range stream.lines {
			if _, err := fmt.Fprintln(stream.to, line); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
	}
	if logs.Missing != "" {
		if _, err := fmt.Fprintf(notes, "drover: no output of attempt %s: %s\n", logs.Attempt, logs.Missing); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}
