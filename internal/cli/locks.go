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

func newLocks(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Look at the paths that attempts have locked, and break locks",
		Long: `Look at the paths that attempts have locked, and break locks. An attempt locks the
paths that its item declares, and more as its agent asks for them; no attempt of another item
that declares or asks for what overlaps them runs meanwhile. All of them go when the attempt
ends, whatever ends it.`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLocksList(sh), newLocksRelease(sh))
	return cmd
}

type locksListOptions struct {
	remote
	repository string
}

func newLocksList(sh *shell) *cobra.Command {
	var opts locksListOptions
	cmd := &cobra.Command{
		Use: "list", Short: "List the paths that are locked, and by whom", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runLocksList(cmd.Context(), opts, sh) },
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVar(&opts.repository, "repo", "", "only those of this repository: its URL, or host/path")
	return cmd
}

func runLocksList(ctx context.Context, opts locksListOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) ([]work.Lock, error) {
		return c.Locks(ctx, opts.repository)
	}, tellLocks)
}

// tellLocks prints a row for each path.
func tellLocks(p *printer, locks []work.Lock) {
	now := time.Now()
	rows := [][]string{{"REPOSITORY", "PATH", "ITEM", "ATTEMPT", "SINCE", "AGE", "HELD"}}
	for _, lock := range locks {
		held := "yes"
		if lock.Lost {
			held = fmt.Sprintf("lost, free within %s", work.LockDelay)
		}
		for _, p := range lock.Paths {
			rows = append(rows, []string{
				lock.Repository, p.Path, lock.Item, fmt.Sprint(lock.Attempt.Number()), moment(p.Since), span(now.Sub(p.Since)), held,
			})
		}
	}
	p.table("", rows)
}

type locksReleaseOptions struct {
	remote
	control.LockRelease
}

func newLocksRelease(sh *shell) *cobra.Command {
	opts := locksReleaseOptions{LockRelease: control.LockRelease{By: sh.getenv("USER")}}
	cmd := &cobra.Command{
		Use:   "release ITEM",
		Short: "Break the locks of an item's attempt, which ends the attempt",
		Long: fmt.Sprintf(`Break the locks of an item's attempt, which ends the attempt: nothing may work on paths
that are not its own any more. Its session in Consul is ended, its worker stops the agent and
pushes nothing more, and the item is retried as after any kill by an operator. Others can have the
paths within %s, when the last push of that worker is sure to be over. ITEM is an item, or one
attempt of it.`, work.LockDelay),
		Args: arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ID = args[0]
			return runLocksRelease(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVar(&opts.By, "by", opts.By, "who wants it, for the record")
	return cmd
}

func runLocksRelease(ctx context.Context, opts locksReleaseOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (control.ReleasedLocks, error) {
		return c.ReleaseLocks(ctx, opts.LockRelease)
	}, tellReleased)
}

func tellReleased(p *printer, released control.ReleasedLocks) {
	for _, lock := range released.Locks {
		p.printf("%s: %s\n", lock.Repository, lock.PathSet())
	}
	p.printf("%s\n", released.Means)
}
