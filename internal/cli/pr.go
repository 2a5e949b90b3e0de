package cli

import (
	"context"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/work"
)

func newPR(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pr",
		Short: "Act on items' pull requests",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPRRetry(sh))
	return cmd
}

type prRetryOptions struct {
	remote
	item string
}

func newPRRetry(sh *shell) *cobra.Command {
	var opts prRetryOptions
	cmd := &cobra.Command{
		Use:   "retry ITEM",
		Short: "Make the pull request of a completed item again",
		Long: `Make the pull request of a completed item again, when it failed. The server does so
by itself after 5 and 15 minutes, 1, 4 and 12 hours. A pull request that is there
after all is found, and not made twice. The item stays completed.`,
		Args: arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			return runPRRetry(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func runPRRetry(ctx context.Context, opts prRetryOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (work.Item, error) {
		return c.RetryPR(ctx, opts.item)
	}, func(p *printer, item work.Item) {
		p.printf("%s %s, pull request %s: %s\n", item.ID, item.State, item.PR.Status, item.Why)
	})
}
