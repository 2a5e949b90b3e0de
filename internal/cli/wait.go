package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

type waitOptions struct {
	remote
	selection
	timeout time.Duration
}

func newWait(sh *shell) *cobra.Command {
	var opts waitOptions
	cmd := &cobra.Command{
		Use:   "wait [flags] ITEM …",
		Short: "Wait until items have ended",
		Long: `Wait until items have ended, and say on standard error how they move. The exit status
tells whether all of them completed. Instead of items, flags can select them.`,
		Example: "  drover wait 01jz\n  drover wait --label batch=7 --timeout 2h",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.yes = true // waiting harms nothing
			if err := opts.take(cmd, args); err != nil {
				return err
			}
			return runWait(cmd.Context(), opts, sh)
		},
	}
	opts.remote.bind(cmd, sh)
	opts.filterFlags.bind(cmd.Flags())
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 0, "wait so long at most; for ever if not given")
	cmd.ValidArgsFunction = completeItems(sh)
	return cmd
}

// errTimeout ends a wait that has a limit.
var errTimeout = fmt.Errorf("the time to wait is over: %w", errIncomplete)

func runWait(ctx context.Context, opts waitOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	ids, err := opts.resolve(ctx, client, "Wait for", sh)
	if err != nil {
		return err
	}
	for i, id := range ids { // a beginning of an id is enough
		if len(opts.ids) > 0 {
			item, _, err := client.Item(ctx, id)
			if err != nil {
				return err
			}
			ids[i] = item.ID
		}
	}
	if opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.timeout, errTimeout)
		defer cancel()
	}
	items, err := waitFor(ctx, client, ids, sh)
	if err != nil && !errors.Is(err, errIncomplete) {
		return err
	}
	if opts.output == formatJSON {
		return errors.Join(err, printJSON(sh.out, items))
	}
	return errors.Join(err, printItems(sh, items, time.Now()))
}

// lookAtATime is how many items are asked for in one call.
const lookAtATime = 100

// waitFor follows items until all have ended, says on standard error how they
// move, and returns them. It returns errIncomplete when one ended otherwise than
// completed, or is not there any more.
func waitFor(ctx context.Context, service api.Service, ids []string, sh *shell) ([]work.Item, error) {
	states := make(map[string]work.State, len(ids))
	for _, id := range ids {
		states[id] = ""
	}
	open := len(states)
	moved := func(id string, state work.State, why string) {
		before, ours := states[id]
		if !ours || before == state || before.Terminal() && before != "" {
			return
		}
		if before != "" || state.Terminal() {
			fmt.Fprintf(sh.err, "%s %s: %s\n", id, state, why)
		}
		states[id] = state
		if state.Terminal() {
			open--
		}
	}
	look := func() error {
		for some := range slices.Chunk(ids, lookAtATime) {
			page, err := service.Items(ctx, control.Query{Filter: control.Filter{IDs: some}, Limit: lookAtATime})
			if err != nil {
				return err
			}
			for _, item := range page.Items {
				moved(item.ID, item.State, item.Why)
			}
		}
		for id, state := range states {
			if state == "" {
				return fmt.Errorf("item %s: %w", id, work.ErrNotFound)
			}
		}
		return nil
	}
	err := follow(ctx, service, func(e control.Event) error {
		switch e.Type {
		case control.EventResync:
			if err := look(); err != nil {
				return err
			}
		case control.EventItem:
			moved(e.Item, e.State, e.Why)
		case control.EventRemoved:
			moved(e.Item, e.State, "removed")
		}
		if open == 0 {
			return errAllEnded
		}
		return nil
	})
	if !errors.Is(err, errAllEnded) && !errors.Is(err, errTimeout) {
		return nil, err
	}
	return ended(context.WithoutCancel(ctx), service, ids, err)
}

// errAllEnded ends a wait: there is nothing left to wait for.
var errAllEnded = errors.New("all items have ended")

// ended returns the items as they are after a wait, and whether they completed.
func ended(ctx context.Context, service api.Service, ids []string, why error) ([]work.Item, error) {
	items := make([]work.Item, 0, len(ids))
	completed := 0
	for some := range slices.Chunk(ids, lookAtATime) {
		page, err := service.Items(ctx, control.Query{Filter: control.Filter{IDs: some}, Limit: lookAtATime, Asc: true})
		if err != nil {
			return items, err
		}
		for _, item := range page.Items {
			if item.State == work.StateCompleted {
				completed++
			}
		}
		items = append(items, page.Items...)
	}
	switch {
	case completed == len(ids):
		return items, nil
	case errors.Is(why, errTimeout):
		return items, why
	}
	return items, fmt.Errorf("%d of %d items did not complete: %w", len(ids)-completed, len(ids), errIncomplete)
}

// reconnectPause is the time between two tries to follow what happens.
const reconnectPause = time.Second

// follow calls seen with what happens, over breaks of the connection and changes
// of the leader, until ctx ends or seen returns an error, which it returns.
func follow(ctx context.Context, service api.Service, seen func(control.Event) error) error {
	after := ""
	for {
		var stop error
		err := service.Events(ctx, after, func(e control.Event) error {
			if stop = seen(e); stop == nil {
				after = e.ID
			}
			return stop
		})
		switch {
		case stop != nil:
			return stop
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, work.ErrUnavailable) && !errors.Is(err, work.ErrNoLeader):
			return err
		}
		if err := wait.For(ctx, reconnectPause); err != nil {
			return err
		}
	}
}
