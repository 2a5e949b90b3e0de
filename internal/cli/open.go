package cli

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"drover/internal/work"
)

type openOptions struct {
	remote
	item  string
	print bool
}

func newOpen(sh *shell) *cobra.Command {
	var opts openOptions
	cmd := &cobra.Command{
		Use:     "open ITEM",
		Short:   "Open an item's pull request",
		Long:    "Print the address of an item's pull request and, on a terminal, open it in the browser\nthat BROWSER names, or that the system has.",
		Example: "  drover open 01jz\n  drover open --print 01jz",
		Args:    arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			return runOpen(cmd.Context(), opts, sh)
		},
		ValidArgsFunction: completeItems(sh),
	}
	opts.bind(cmd, sh)
	cmd.Flags().BoolVar(&opts.print, "print", false, "print the address alone")
	return cmd
}

func runOpen(ctx context.Context, opts openOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	item, _, err := client.Item(ctx, opts.item)
	if err != nil {
		return err
	}
	if item.PR.URL == "" {
		return fmt.Errorf("item %s has no pull request with an address (%s): %w", item.ID, item.PR.Status, work.ErrNotFound)
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, item.PR)
	}
	p := newPrinter(sh)
	p.printf("%s\n", item.PR.URL)
	if p.err != nil || opts.print || !isTerminal(sh.out) {
		return p.err
	}
	return browse(ctx, item.PR.URL, sh)
}

// browse opens an address, if there is anything to open it with.
func browse(ctx context.Context, address string, sh *shell) error {
	for _, name := range []string{sh.getenv("BROWSER"), "xdg-open", "open"} {
		if name == "" {
			continue
		}
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if err := exec.CommandContext(ctx, path, address).Run(); err != nil {
			return fmt.Errorf("open the address with %s: %w", filepath.Base(path), err)
		}
		return nil
	}
	return nil
}
