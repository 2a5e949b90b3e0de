package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/work"
)

type debugOptions struct {
	remote
	file string
}

func newDebug(sh *shell) *cobra.Command {
	var opts debugOptions
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Save what a report of a fault needs: state, metrics, goroutines, log, configuration",
		Long: `Save a compressed tar archive of the server that is called: how it stands, its newest
items, metrics, goroutines, last lines of log and configuration. Tokens are left out of it, and what
has the form of a secret is replaced; it holds tasks and names of repositories, so look
through it before you publish it.`,
		Example: "  drover debug\n  drover debug --file fault.tar.gz",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDebug(cmd.Context(), opts, sh) },
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVarP(&opts.file, "file", "f", "", "file to write (drover-debug-TIME.tar.gz if not given)")
	return cmd
}

func runDebug(ctx context.Context, opts debugOptions, sh *shell) (err error) {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	if opts.file == "" {
		opts.file = "drover-debug-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
	}
	const private = 0o600
	file, err := os.OpenFile(opts.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, private)
	if err != nil {
		return fmt.Errorf("%v: %w", err, work.ErrInvalid)
	}
	err = errors.Join(client.Debug(ctx, file), file.Close())
	if err != nil {
		return errors.Join(err, os.Remove(opts.file))
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, map[string]string{"file": opts.file})
	}
	p := newPrinter(sh)
	p.printf("%s\n", opts.file)
	return p.err
}
