package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/control"
	"drover/internal/work"
)

// defaultListLimit fills a screen or two.
const defaultListLimit = 50

type listOptions struct {
	remote
	filter control.Filter
}

func newList(sh *shell) *cobra.Command {
	var opts listOptions
	var state string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List items, the newest first",
		Example: "  drover list --state failed\n  drover list --queue slow -o json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.filter.State = work.State(state)
			return runList(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "", "only items in this state: queued, assigned, in_progress, completed, failed, stuck or cancelled")
	flags.StringVar(&opts.filter.Queue, "queue", "", "only items of this queue")
	flags.StringVar(&opts.filter.Repository, "repo", "", "only items whose repository's URL holds this")
	flags.IntVar(&opts.filter.Limit, "limit", defaultListLimit, "at most so many; 0 is all")
	return cmd
}

func runList(ctx context.Context, opts listOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	items, err := client.Items(ctx, opts.filter)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, items)
	}
	return printItems(sh, items, time.Now())
}

func printItems(sh *shell, items []work.Item, now time.Time) error {
	const repositoryWidth, whyWidth = 40, 60
	rows := [][]string{{"ID", "STATE", "REASON", "ATTEMPTS", "QUEUE", "REPOSITORY", "AGE", "PR", "WHY"}}
	for _, item := range items {
		rows = append(rows, []string{
			item.ID, string(item.State), orNone(string(item.Reason)), strconv.Itoa(len(item.Attempts)), item.Spec.Queue,
			tail(item.Spec.Repository, repositoryWidth), span(now.Sub(item.CreatedAt)), pullRequest(item.PR), short(item.Why, whyWidth),
		})
	}
	p := newPrinter(sh)
	p.table("", rows)
	return p.err
}

// tail cuts a URL from the left: repositories differ at the right.
func tail(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return "…" + string(r[len(r)-n+1:])
	}
	return text
}
