package cli

import (
	"context"

	"github.com/spf13/cobra"
)

type cancelOptions struct {
	remote
	item string
	by   string
}

func newCancel(sh *shell) *cobra.Command {
	opts := cancelOptions{by: sh.getenv("USER")}
	cmd := &cobra.Command{
		Use:   "cancel ITEM",
		Short: "Cancel an item, and stop its attempt if one runs",
		Args:  arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			return runCancel(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVar(&opts.by, "by", opts.by, "who wants it, for the record")
	return cmd
}

func runCancel(ctx context.Context, opts cancelOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	item, err := client.Cancel(ctx, opts.item, opts.by)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, item)
	}
	p := newPrinter(sh)
	p.printf("%s %s: %s\n", item.ID, item.State, item.Why)
	return p.err
}
