package cli

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
)

type logLevelOptions struct {
	remote
	control.LogLevel
}

func newLogLevel(sh *shell) *cobra.Command {
	var opts logLevelOptions
	cmd := &cobra.Command{
		Use:   "log-level [[SUBSYSTEM] LEVEL]",
		Short: "Show or change what a server logs, while it runs",
		Long: `Show the log level of each subsystem of the server that is called, or set one. Without
a SUBSYSTEM, LEVEL is that of all which have none of their own. It lasts until the server
ends, or is told by SIGHUP to read its configuration anew.`,
		Example: "  drover log-level\n  drover log-level debug\n  drover log-level nomad trace",
		Args: func(cmd *cobra.Command, args []string) error {
			const most = 2
			if len(args) > most {
				return usage(cmd, "unexpected argument %q", args[most])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch len(args) {
			case 1:
				opts.Level = args[0]
			case 2:
				opts.Subsystem, opts.Level = args[0], args[1]
			}
			return runLogLevel(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func runLogLevel(ctx context.Context, opts logLevelOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (map[string]string, error) {
		if opts.Level == "" {
			return c.LogLevels(ctx)
		}
		return c.SetLogLevel(ctx, opts.LogLevel)
	}, tellLevels)
}

func tellLevels(p *printer, levels map[string]string) {
	rows := [][]string{{"SUBSYSTEM", "LEVEL"}}
	for _, subsystem := range slices.Sorted(maps.Keys(levels)) {
		rows = append(rows, []string{subsystem, levels[subsystem]})
	}
	p.table("", rows)
}
