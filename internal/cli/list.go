package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// defaultListLimit fills a screen or two.
const defaultListLimit = 50

type listOptions struct {
	remote
	filterFlags
	query control.Query
	watch bool
}

func newList(sh *shell) *cobra.Command {
	var opts listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List items, the newest first",
		Long: `List a page of the items, or of those that flags select. Where there are more, the cursor
of the next page is printed on standard error, and is "next" in JSON.`,
		Example: "  drover list --state failed,stuck --older-than 24h\n  drover list --queue slow --sort updated -o json\n  drover list --label team=web --watch",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(control.Sorts(), opts.query.Sort) {
				return usage(cmd, "sort %q: use one of %s", opts.query.Sort, strings.Join(control.Sorts(), ", "))
			}
			if opts.query.Limit < 0 || opts.watch && (opts.query.Limit == 0 || opts.query.Cursor != "" || opts.output == formatJSON) {
				return usage(cmd, "--watch shows one page as a table: leave --cursor, -o json and --limit 0 out")
			}
			opts.query.Filter = opts.filter()
			return runList(cmd.Context(), opts, sh)
		},
	}
	opts.remote.bind(cmd, sh)
	opts.filterFlags.bind(cmd.Flags())
	flags := cmd.Flags()
	flags.IntVar(&opts.query.Limit, "limit", defaultListLimit, "at most so many; 0 is all")
	flags.StringVar(&opts.query.Cursor, "cursor", "", "go on after the page that gave this cursor")
	flags.StringVar(&opts.query.Sort, "sort", control.SortCreated, "what to sort by: "+strings.Join(control.Sorts(), ", "))
	flags.BoolVar(&opts.query.Asc, "asc", false, "the oldest, or least, first")
	flags.BoolVarP(&opts.watch, "watch", "w", false, "print the list anew whenever an item changes")
	return cmd
}

func runList(ctx context.Context, opts listOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	if opts.watch {
		return watchList(ctx, client, opts.query, sh)
	}
	page, err := listPages(ctx, client, opts.query)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, page)
	}
	if err := printItems(sh, page.Items, time.Now()); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(sh.err, "%d of %d items; more with --cursor %s\n", len(page.Items), page.Total, page.Next)
	}
	return nil
}

// listPages returns as many items as are wanted, from as many pages as that takes.
func listPages(ctx context.Context, service api.Service, q control.Query) (control.Page, error) {
	wanted, all := q.Limit, control.Page{Items: []work.Item{}}
	for {
		q.Limit = control.MaxPage
		if wanted > 0 {
			q.Limit = min(control.MaxPage, wanted-len(all.Items))
		}
		page, err := service.Items(ctx, q)
		if err != nil {
			return all, err
		}
		all.Items, all.Total, all.Next = append(all.Items, page.Items...), page.Total, page.Next
		if page.Next == "" || len(all.Items) == wanted {
			return all, nil
		}
		q.Cursor = page.Next
	}
}

// watchInterval is the shortest time between two prints of a list.
const watchInterval = 500 * time.Millisecond

// watchList prints a page, and prints it anew, over the old one on a terminal,
// whenever something changed, until ctx ends.
func watchList(ctx context.Context, service api.Service, q control.Query, sh *shell) error {
	ctx, cancel := context.WithCancelCause(ctx)
	changed := make(chan struct{}, 1)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		cancel(follow(ctx, service, func(control.Event) error {
			select {
			case changed <- struct{}{}:
			default: // one that is not seen yet is enough
			}
			return nil
		}))
	}()
	defer func() { cancel(nil); <-followed }()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		page, err := service.Items(ctx, q)
		if err != nil {
			return err
		}
		const clearScreen = "\x1b[H\x1b[2J"
		if isTerminal(sh.out) {
			fmt.Fprint(sh.out, clearScreen)
		}
		if err := printItems(sh, page.Items, time.Now()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func printItems(sh *shell, items []work.Item, now time.Time) error {
	const repositoryWidth, whyWidth = 40, 60
	rows := [][]string{{"ID", "STATE", "REASON", "ATTEMPTS", "QUEUE", "REPOSITORY", "AGE", "PR", "WHY"}}
	for _, item := range items {
		rows = append(rows, []string{
			item.ID, string(item.State), orNone(string(item.Reason)), strconv.Itoa(item.AttemptCount()), item.Spec.Queue,
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
