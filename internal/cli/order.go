package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

const (
	// parallelOrders is how many items are acted on at a time.
	parallelOrders = 16
	// manyItems is from how many on progress is shown.
	manyItems = 50
)

// orderOptions are those of a verb that acts on items.
type orderOptions struct {
	remote
	selection
	order control.Order
}

// newOrder returns a verb that acts on items; its name is its first word.
func newOrder(sh *shell, verb control.Verb, cmd *cobra.Command, opts *orderOptions) *cobra.Command {
	opts.order.Verb = verb
	name, _, _ := strings.Cut(cmd.Use, " ")
	cmd.Use = name + " [flags] ITEM …"
	cmd.Long += "\n\nITEM is an id, or the beginning of one that no other item has. Instead of items, flags\ncan select them; what is selected is asked about first, unless --yes is given."
	cmd.Args = cobra.ArbitraryArgs
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if run != nil {
			if err := run(cmd, args); err != nil {
				return err
			}
		}
		if err := opts.take(cmd, args); err != nil {
			return err
		}
		return runOrder(cmd.Context(), *opts, name, sh)
	}
	opts.remote.bind(cmd, sh)
	opts.selection.bind(cmd, sh)
	cmd.Flags().StringVar(&opts.order.By, "by", sh.getenv("USER"), "who wants it, for the record")
	return cmd
}

func newCancel(sh *shell) *cobra.Command {
	return newOrder(sh, control.Cancel, &cobra.Command{
		Use: "cancel", Short: "Cancel items, and stop their attempts",
		Long:    "Cancel items for good. An attempt under way is stopped.",
		Example: "  drover cancel 01jz\n  drover cancel --queue slow --state queued --yes",
	}, &orderOptions{})
}

func newRetry(sh *shell) *cobra.Command {
	return newOrder(sh, control.Retry, &cobra.Command{
		Use: "retry", Short: "Have items that failed, got stuck or were cancelled tried again",
		Long:    "Queue ended items again, their retries, requeues and iterations counted anew.\nThey go on from their pushed branch. Completed items stay as they are.",
		Example: "  drover retry 01jz\n  drover retry --state failed --reason oom_killed --older-than 1h",
	}, &orderOptions{})
}

func newRequeue(sh *shell) *cobra.Command {
	return newOrder(sh, control.Requeue, &cobra.Command{
		Use: "requeue", Short: "Have items run again as soon as there is room, no retry spent",
		Long:    "End the attempt that is under way and queue its item again at once; no retry is spent.\nAn item that waits for its next attempt waits no longer.",
		Example: "  drover requeue 01jz\n  drover requeue --state in_progress --queue slow --yes",
	}, &orderOptions{})
}

func newKill(sh *shell) *cobra.Command {
	opts := &orderOptions{}
	cmd := newOrder(sh, control.Kill, &cobra.Command{
		Use: "kill", Short: "End the attempts of items",
		Long:    "End attempts that are under way, with the reason killed_by_operator. Their items are\nretried as the table of reasons says, unless told not to.",
		Example: "  drover kill 01jz\n  drover kill --no-retry 01jz",
	}, opts)
	cmd.Flags().BoolVar(&opts.order.NoRetry, "no-retry", false, "let the item fail instead of trying it again")
	return cmd
}

func newRemove(sh *shell) *cobra.Command {
	opts := &orderOptions{}
	cmd := newOrder(sh, control.Remove, &cobra.Command{
		Use: "rm", Short: "Forget items that have ended",
		Long:    "Remove ended items, their history and kept logs. Branches and pull requests stay.",
		Example: "  drover rm 01jz\n  drover rm --state completed --older-than 720h --yes\n  drover rm --force 01jz",
	}, opts)
	cmd.Flags().BoolVar(&opts.order.Force, "force", false, "cancel items that have not ended, then remove them")
	return cmd
}

func newPriority(sh *shell) *cobra.Command {
	opts, priority := &orderOptions{}, 0
	cmd := newOrder(sh, control.Prioritize, &cobra.Command{
		Use: "priority", Short: "Give items another priority",
		Long:    "Change the priority of items that have not ended; what waits is run in its order.",
		Example: "  drover priority --to 90 01jz\n  drover priority --to 10 --label team=web --state queued",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("to") {
				return usage(cmd, "--to is missing: the priority, 0 to %d", work.MaxPriority)
			}
			opts.order.Priority = &priority
			return nil
		},
	}, opts)
	cmd.Flags().IntVar(&priority, "to", work.DefaultPriority, fmt.Sprintf("0 to %d, the higher the sooner", work.MaxPriority))
	return cmd
}

func newEdit(sh *shell) *cobra.Command {
	opts := &orderOptions{}
	var set []string
	var file string
	cmd := newOrder(sh, control.Edit, &cobra.Command{
		Use: "edit", Short: "Change what items ask for",
		Long: `Change the specification of items that wait, or that ended without completing and are
to be retried. Fields are named as in a file of items; null leaves one open again. What
comes out is checked as a new item is.`,
		Example: "  drover edit 01jz --set limits.timeout=3h --set labels.team=web\n  drover edit -f change.yaml --queue slow --state queued",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			opts.order.Patch, err = readPatch(cmd, set, file, sh)
			return err
		},
	}, opts)
	cmd.Flags().StringArrayVar(&set, "set", nil, "FIELD=VALUE; VALUE is JSON, or else a text; may be repeated")
	cmd.Flags().StringVarP(&file, "file", "f", "", "file of the fields to change, JSON or YAML; - is standard input")
	return cmd
}

// readPatch makes a JSON merge patch of a file, or of fields that are set.
func readPatch(cmd *cobra.Command, set []string, file string, sh *shell) (json.RawMessage, error) {
	if (file != "") == (len(set) > 0) {
		return nil, usage(cmd, "say what to change: by --set, or by a file (-f), one of the two")
	}
	if file != "" {
		data, err := readInput(file, sh)
		if err != nil {
			return nil, err
		}
		patch, err := yaml.YAMLToJSON(data) // JSON is YAML
		if err != nil {
			_, says := yamlFault(err)
			return nil, fmt.Errorf("%s: %s: %w", file, says, work.ErrInvalid)
		}
		return patch, nil
	}
	patch := map[string]any{}
	for _, assignment := range set {
		path, text, ok := strings.Cut(assignment, "=")
		if !ok || path == "" {
			return nil, usage(cmd, "--set %q: give it as FIELD=VALUE", assignment)
		}
		value := any(text)
		if json.Valid([]byte(text)) {
			value = json.RawMessage(text)
		}
		into, names := patch, strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			inner, isMap := into[name].(map[string]any)
			if !isMap {
				inner = map[string]any{}
				into[name] = inner
			}
			into = inner
		}
		into[names[len(names)-1]] = value
	}
	return json.Marshal(patch)
}

// outcome is what became of an order about one item of many.
type outcome struct {
	ID    string     `json:"id"`
	State work.State `json:"state,omitempty"`
	Why   string     `json:"why,omitempty"`
	Error string     `json:"error,omitempty"`
	err   error
}

func runOrder(ctx context.Context, opts orderOptions, name string, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	ids, err := opts.resolve(ctx, client, capital(name), sh)
	if err != nil {
		return err
	}
	if len(opts.ids) == 1 {
		item, err := client.Order(ctx, ids[0], keyed(opts.order))
		if err != nil {
			return err
		}
		return printOutcome(opts, item, sh)
	}
	outcomes := orderAll(ctx, client, opts.order, ids, sh)
	if err := printOutcomes(opts.output, outcomes, sh); err != nil {
		return err
	}
	var first *outcome
	failed := 0
	for i := range outcomes {
		if outcomes[i].err != nil {
			failed++
			first = firstOf(first, &outcomes[i])
		}
	}
	if failed > 0 {
		return fmt.Errorf("%s: %d of %d items: the first: %w", name, failed, len(outcomes), first.err)
	}
	return nil
}

func firstOf(a, b *outcome) *outcome {
	if a != nil {
		return a
	}
	return b
}

func capital(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

// keyed gives an order a name, so that it can be sent again when an answer is lost.
func keyed(order control.Order) control.Order {
	order.Key = work.NewID(time.Now())
	return order
}

// orderAll orders the same about many items, some at a time.
func orderAll(ctx context.Context, service api.Service, order control.Order, ids []string, sh *shell) []outcome {
	outcomes := make([]outcome, len(ids))
	bar := newProgress(len(ids), sh)
	var group errgroup.Group
	group.SetLimit(parallelOrders)
	for i, id := range ids {
		group.Go(func() error {
			item, err := service.Order(ctx, id, keyed(order))
			outcomes[i] = outcome{ID: id, State: item.State, Why: item.Why, err: err}
			if err == nil {
				outcomes[i].ID = item.ID
			} else {
				outcomes[i].Error = message(err)
			}
			_ = bar.Add(1) // a bar that can't be drawn stops nothing
			return nil
		})
	}
	_ = group.Wait() // every error is in its outcome
	_ = bar.Finish()
	return outcomes
}

// newProgress returns a bar on standard error: of long work, on a terminal alone.
func newProgress(steps int, sh *shell) *progressbar.ProgressBar {
	to := io.Writer(io.Discard)
	if steps >= manyItems && isTerminal(sh.err) {
		to = sh.err
	}
	return progressbar.NewOptions(steps, progressbar.OptionSetWriter(to), progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
}

func printOutcome(opts orderOptions, item work.Item, sh *shell) error {
	if opts.output == formatJSON {
		return printJSON(sh.out, item)
	}
	p := newPrinter(sh)
	if opts.order.Verb == control.Remove {
		p.printf("%s removed\n", item.ID)
		return p.err
	}
	p.printf("%s %s: %s\n", item.ID, item.State, lastWord(item))
	return p.err
}

// lastWord is what was last written into an item's history.
func lastWord(item work.Item) string {
	if n := len(item.History); n > 0 {
		return item.History[n-1].Cause
	}
	return item.Why
}

func printOutcomes(format string, outcomes []outcome, sh *shell) error {
	if format == formatJSON {
		return printJSON(sh.out, outcomes)
	}
	p := newPrinter(sh)
	failed := 0
	for _, o := range outcomes {
		if o.err != nil {
			failed++
			p.printf("%s not done: %s\n", o.ID, o.Error)
		} else {
			p.printf("%s %s\n", o.ID, p.paint(string(o.State)))
		}
	}
	p.printf("%s done, %s not\n", strconv.Itoa(len(outcomes)-failed), strconv.Itoa(failed))
	return p.err
}
