package cli

import (
	"context"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
)

type explainOptions struct {
	remote
	item string
}

func newExplain(sh *shell) *cobra.Command {
	var opts explainOptions
	cmd := &cobra.Command{
		Use:   "explain ITEM",
		Short: "Say why an item is where it is, and what can be done",
		Long: `Say in sentences why an item is where it is at the moment: what it waits for and until when, what
keeps Nomad from placing it, what its attempt does, or why it ended; and what a person can do.`,
		Example: "  drover explain 01jz\n  drover explain 01jz -o json",
		Args:    arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			return runExplain(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func runExplain(ctx context.Context, opts explainOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (control.Explanation, error) {
		return c.Explain(ctx, opts.item)
	}, tellExplanation)
}

func tellExplanation(p *printer, e control.Explanation) {
	p.printf("%s is %s.\n", e.Item, p.paint(string(e.State)))
	for _, fact := range e.Facts {
		p.printf("%s\n", fact)
	}
	for i, next := range e.Next {
		if i == 0 {
			p.printf("\nWhat to do\n")
		}
		p.printf("- %s\n", next)
	}
}
