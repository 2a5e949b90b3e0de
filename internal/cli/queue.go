package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

func newQueue(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look at queues, and change them",
		Long: `Look at queues, and change them. The server's configuration declares queues; what
is set here is stored beside it, counts in place of the configuration field by field, and
outlives the server. A queue can be active (takes items and runs them), paused (takes items
and runs none) or draining (takes none and runs those it has).`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newQueueList(sh), newQueueShow(sh), newQueueSet(sh), newQueueDelete(sh),
		newQueueMove(sh, "pause", work.QueuePaused, "Dispatch nothing more of a queue; what runs goes on"),
		newQueueMove(sh, "resume", work.QueueActive, "Take and run items again, without waiting for a limit to reset"),
		newQueueMove(sh, "drain", work.QueueDraining, "Take no more items, and run those that are there"),
	)
	return cmd
}

func newQueueList(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use: "list", Short: "List the queues", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), opts, sh, (*api.Client).Queues, tellQueues)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func tellQueues(p *printer, queues []control.Queue) {
	rows := [][]string{{"QUEUE", "STATE", "QUEUED", "IN FLIGHT", "LIMIT", "OLDEST", "WAITS FOR"}}
	for _, q := range queues {
		oldest := none
		if !q.Oldest.IsZero() {
			oldest = span(time.Since(q.Oldest))
		}
		rows = append(rows, []string{
			q.Name, string(q.State), strconv.Itoa(q.Queued), strconv.Itoa(q.InFlight), limitOf(q.Settings.MaxInFlight), oldest, waitsFor(q.Waits),
		})
	}
	p.table("", rows)
}

// limitOf writes a limit, of which zero and none are the same.
func limitOf[T int | int64 | float64](limit *T) string {
	if limit == nil || *limit == 0 {
		return none
	}
	return fmt.Sprint(*limit)
}

func waitsFor(waits []control.Wait) string {
	if len(waits) == 0 {
		return none
	}
	return waits[0].Sentence
}

func newQueueShow(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use: "show QUEUE", Short: "Show a queue: its limits, where they come from, and what it waits for", Args: arguments("QUEUE"),
		RunE: func(cmd *cobra.Command, args []string) error { return runQueueShow(cmd.Context(), opts, args[0], sh) },
	}
	opts.bind(cmd, sh)
	return cmd
}

func runQueueShow(ctx context.Context, opts remote, name string, sh *shell) error {
	return ask(ctx, opts, sh, func(c *api.Client, ctx context.Context) (control.Queue, error) {
		return c.Queue(ctx, name)
	}, tellQueue)
}

func tellQueue(p *printer, q control.Queue) {
	state := string(q.State)
	if !q.Since.IsZero() {
		state += " since " + q.Since.UTC().Format(time.RFC3339)
	}
	if q.By != "" {
		state += " by " + q.By
	}
	declared := "stored"
	if q.Declared {
		declared = "declared by the configuration"
	}
	s := q.Settings
	rows := [][]string{
		{"Queue", q.Name + ", " + declared},
		{"State", state},
		{"Items", fmt.Sprintf("%d queued, %d in flight", q.Queued, q.InFlight)},
		{"Limit in flight", limitOf(s.MaxInFlight) + setBy(q.Stored.MaxInFlight != nil)},
		{"Dispatches a minute", limitOf(s.Rate) + setBy(q.Stored.Rate != nil)},
		{"Burst", limitOf(s.Burst) + setBy(q.Stored.Burst != nil)},
		{"Tokens", fmt.Sprintf("%d in the last hour of %s", q.Tokens, limitOf(s.TokensPerHour)) + setBy(q.Stored.TokensPerHour != nil)},
		{"Cost", fmt.Sprintf("%.2f USD in the last hour of %s", q.CostUSD, limitOf(s.CostUSDPerHour)) + setBy(q.Stored.CostUSDPerHour != nil)},
		{"Image", orNone(s.Image) + setBy(q.Stored.Image != "")},
		{"Agent", orNone(strings.TrimSpace(s.Agent+" "+strings.Join(s.Command, " "))) + setBy(q.Stored.Agent != "")},
	}
	if r := s.Resources; r != nil {
		rows = append(rows, []string{"Resources", fmt.Sprintf("memory %d MB, up to %d MB, %d cores, %d MHz, %d PIDs; 0 is the default's", r.MemoryMB, r.MemoryMaxMB, r.Cores, r.CPUMHz, r.PIDs) + setBy(q.Stored.Resources != nil)})
	}
	for _, w := range q.Waits {
		rows = append(rows, []string{"Waits", w.Sentence})
	}
	p.table("", rows)
}

// setBy marks what does not come from the configuration.
func setBy(stored bool) string {
	if stored {
		return " (set)"
	}
	return ""
}

type queueSetOptions struct {
	remote
	settings    work.QueueSettings
	unset       []string
	maxInFlight int
	rate        float64
	burst       int
	tokens      int64
	cost        float64
	resources   work.Resources
	retries     int
	actions     []string
}

func newQueueSet(sh *shell) *cobra.Command {
	var opts queueSetOptions
	cmd := &cobra.Command{
		Use:   "set QUEUE [flags] [-- COMMAND [ARGUMENT …]]",
		Short: "Set limits and defaults of a queue, and make it where there is none",
		Long: `Set limits and defaults of a queue, and make it where there is none. What is not
given stays as it is. What follows -- is the command of the queue's agent.`,
		Example: `  drover queue set slow --max-in-flight 2 --rate 0.5
  drover queue set claude --agent claude-code --tokens-per-hour 2000000 --cost-usd-per-hour 20 -- claude
  drover queue set slow --unset rate`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				args = args[:dash]
			}
			return arguments("QUEUE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.settings.Command = args[1:]
			change, err := opts.change(cmd)
			if err != nil {
				return err
			}
			return runQueueSet(cmd.Context(), opts, args[0], change, sh)
		},
	}
	opts.bind(cmd, sh)
	flags := cmd.Flags()
	flags.IntVar(&opts.maxInFlight, "max-in-flight", 0, "attempts at a time; 0 is no limit of its own")
	flags.Float64Var(&opts.rate, "rate", 0, "dispatches a minute; 0 is no limit")
	flags.IntVar(&opts.burst, "burst", 0, "dispatches that may come together after a quiet while")
	flags.Int64Var(&opts.tokens, "tokens-per-hour", 0, "tokens that attempts may use in an hour before others start; 0 is no limit")
	flags.Float64Var(&opts.cost, "cost-usd-per-hour", 0, "cost that attempts may state in an hour before others start; 0 is no limit")
	flags.StringVar(&opts.settings.Image, "image", "", "worker image of items that name none")
	flags.StringVar(&opts.settings.Agent, "agent", "", "kind of agent of items that name none: "+strings.Join(work.Agents(), ", "))
	flags.IntVar(&opts.resources.MemoryMB, "memory-mb", 0, "memory limit of items that name none, in MB")
	flags.IntVar(&opts.resources.MemoryMaxMB, "memory-max-mb", 0, "to which the limit grows after running out of memory, in MB")
	flags.IntVar(&opts.resources.Cores, "cores", 0, "whole CPUs of items that name none")
	flags.IntVar(&opts.resources.CPUMHz, "cpu-mhz", 0, "share of CPU instead of cores")
	flags.IntVar(&opts.resources.PIDs, "pids", 0, "processes of items that name no limit")
	flags.IntVar(&opts.retries, "max-retries", 0, "retries of an item at most")
	flags.StringArrayVar(&opts.actions, "on", nil, "row of the retry table, as REASON=ACTION; may be repeated")
	flags.StringSliceVar(&opts.unset, "unset", nil, "field that is the configuration's again: "+strings.Join(work.QueueFields(), ", "))
	return cmd
}

// change is what the given flags ask for.
func (o *queueSetOptions) change(cmd *cobra.Command) (control.QueueChange, error) {
	set, given := o.settings, false
	var retry work.RetryOverride
	cmd.Flags().Visit(func(f *pflag.Flag) {
		given = given || !slices.Contains([]string{"address", "output"}, f.Name)
		switch f.Name {
		case "max-in-flight":
			set.MaxInFlight = &o.maxInFlight
		case "rate":
			set.Rate = &o.rate
		case "burst":
			set.Burst = &o.burst
		case "tokens-per-hour":
			set.TokensPerHour = &o.tokens
		case "cost-usd-per-hour":
			set.CostUSDPerHour = &o.cost
		case "memory-mb", "memory-max-mb", "cores", "cpu-mhz", "pids":
			set.Resources = &o.resources
		case "max-retries":
			retry.MaxRetries, set.Retry = &o.retries, &retry
		}
	})
	if !given && len(set.Command) == 0 {
		return control.QueueChange{}, usage(cmd, "say what to set")
	}
	for _, row := range o.actions {
		reason, action, ok := strings.Cut(row, "=")
		if !ok {
			return control.QueueChange{}, fmt.Errorf("--on %q: give it as REASON=ACTION: %w", row, work.ErrInvalid)
		}
		if retry.Actions == nil {
			retry.Actions = map[work.Reason]work.Action{}
		}
		retry.Actions[work.Reason(reason)] = work.Action(action)
		set.Retry = &retry
	}
	return control.QueueChange{Set: set, Unset: o.unset}, nil
}

func runQueueSet(ctx context.Context, opts queueSetOptions, name string, change control.QueueChange, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (control.Queue, error) {
		return c.SetQueue(ctx, name, change)
	}, tellQueue)
}

func newQueueMove(sh *shell, verb string, to work.QueueState, short string) *cobra.Command {
	var opts remote
	by := sh.getenv("USER")
	cmd := &cobra.Command{
		Use: verb + " QUEUE", Short: short, Args: arguments("QUEUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runQueueMove(cmd.Context(), opts, args[0], control.QueueTransition{State: to, By: by}, sh)
		},
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVar(&by, "by", by, "who wants it, for the record")
	return cmd
}

func runQueueMove(ctx context.Context, opts remote, name string, to control.QueueTransition, sh *shell) error {
	return ask(ctx, opts, sh, func(c *api.Client, ctx context.Context) (control.Queue, error) {
		return c.MoveQueue(ctx, name, to)
	}, func(p *printer, q control.Queue) {
		p.printf("queue %s is %s, %d items queued, %d in flight\n", q.Name, q.State, q.Queued, q.InFlight)
	})
}

func newQueueDelete(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use: "delete QUEUE", Short: "Delete a queue whose items are all over", Args: arguments("QUEUE"),
		RunE: func(cmd *cobra.Command, args []string) error { return runQueueDelete(cmd.Context(), opts, args[0], sh) },
	}
	opts.bind(cmd, sh)
	return cmd
}

func runQueueDelete(ctx context.Context, opts remote, name string, sh *shell) error {
	return ask(ctx, opts, sh, func(c *api.Client, ctx context.Context) (map[string]string, error) {
		return map[string]string{"name": name}, c.DeleteQueue(ctx, name)
	}, func(p *printer, _ map[string]string) {
		p.printf("queue %s is deleted\n", name)
	})
}
