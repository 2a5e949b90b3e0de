package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

func newBreaker(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "breaker",
		Short: "Look at the breakers of repositories, and trip or reset them",
		Long: `Look at the breakers of repositories, and trip or reset them. The breaker of a
repository opens when too many of its attempts fail: its items wait. After a pause one attempt
passes; when that completes the breaker closes, otherwise the pause gets longer.`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBreakerList(sh), newBreakerTrip(sh), newBreakerReset(sh))
	return cmd
}

func newBreakerList(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use: "list", Short: "List the breakers that are not closed, or count failures", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), opts, sh, (*api.Client).Breakers, tellBreakers)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func tellBreakers(p *printer, breakers []work.Breaker) {
	rows := [][]string{{"REPOSITORY", "STATE", "SINCE", "UNTIL", "FAILED", "WHY"}}
	for _, b := range breakers {
		failed := 0
		for _, o := range b.Outcomes {
			if o.Weight > 0 {
				failed++
			}
		}
		rows = append(rows, []string{
			b.Repository, string(b.State), moment(b.Since), moment(b.Until), fmt.Sprintf("%d of %d", failed, len(b.Outcomes)), orNone(b.Why),
		})
	}
	p.table("", rows)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

type breakerTripOptions struct {
	remote
	control.Trip
}

func newBreakerTrip(sh *shell) *cobra.Command {
	opts := breakerTripOptions{Trip: control.Trip{By: sh.getenv("USER")}}
	cmd := &cobra.Command{
		Use:   "trip REPOSITORY",
		Short: "Have the items of a repository wait",
		Long: `Have the items of a repository wait: until the breaker is reset, or for a time, after
which one attempt passes to see whether it is any better. The repository is its URL, or host/path.`,
		Example: `  drover breaker trip https://github.com/example/shop --for 1h --why "the registry is down"`,
		Args:    arguments("REPOSITORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Repository = args[0]
			return runBreakerTrip(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	flags := cmd.Flags()
	flags.TextVar(&opts.For, "for", work.Duration(0), "time after which one attempt passes")
	flags.StringVar(&opts.Why, "why", "", "what for, for those who wonder")
	flags.StringVar(&opts.By, "by", opts.By, "who wants it, for the record")
	return cmd
}

func runBreakerTrip(ctx context.Context, opts breakerTripOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (work.Breaker, error) {
		return c.TripBreaker(ctx, opts.Trip)
	}, tellBreaker)
}

func newBreakerReset(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use: "reset REPOSITORY", Short: "Close a breaker, and forget the failures it counted", Args: arguments("REPOSITORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBreakerReset(cmd.Context(), opts, args[0], sh)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func runBreakerReset(ctx context.Context, opts remote, repository string, sh *shell) error {
	return ask(ctx, opts, sh, func(c *api.Client, ctx context.Context) (work.Breaker, error) {
		return c.ResetBreaker(ctx, repository)
	}, tellBreaker)
}

func tellBreaker(p *printer, b work.Breaker) {
	if b.Closed() {
		p.printf("the breaker of %s is closed\n", b.Repository)
	} else {
		p.printf("%s\n", b.Sentence())
	}
}
