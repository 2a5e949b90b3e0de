package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// filterFlags are the flags that select items.
type filterFlags struct {
	states, reasons, labels []string
	queue, repository       string
	older, newer            time.Duration
}

func (f *filterFlags) bind(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.states, "state", nil, "only items in this state: "+stateNames()+"; may be repeated")
	flags.StringVar(&f.queue, "queue", "", "only items of this queue")
	flags.StringVar(&f.repository, "repository", "", "only items whose repository's URL holds this")
	flags.StringSliceVar(&f.reasons, "reason", nil, "only items whose last attempt ended for this reason; may be repeated")
	flags.StringArrayVar(&f.labels, "label", nil, "only items with this label, KEY or KEY=VALUE; may be repeated")
	flags.DurationVar(&f.older, "older-than", 0, "only items submitted longer ago than this, such as 36h")
	flags.DurationVar(&f.newer, "newer-than", 0, "only items submitted since then")
}

func stateNames() string {
	var names []string
	for _, state := range work.States() {
		names = append(names, string(state))
	}
	return strings.Join(names, ", ")
}

func (f filterFlags) filter() control.Filter {
	out := control.Filter{Queue: f.queue, Repository: f.repository, OlderThan: f.older, NewerThan: f.newer}
	for _, state := range f.states {
		out.States = append(out.States, work.State(state))
	}
	for _, reason := range f.reasons {
		out.Reasons = append(out.Reasons, work.Reason(reason))
	}
	for _, label := range f.labels {
		key, value, _ := strings.Cut(label, "=")
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[key] = value
	}
	return out
}

func (f filterFlags) empty() bool {
	return len(f.states)+len(f.reasons)+len(f.labels) == 0 && f.queue+f.repository == "" && f.older+f.newer == 0
}

// selection is which items a verb is about: those that are named, or those that
// a filter selects.
type selection struct {
	filterFlags
	ids []string
	yes bool
}

func (s *selection) bind(cmd *cobra.Command, sh *shell) {
	s.filterFlags.bind(cmd.Flags())
	cmd.Flags().BoolVar(&s.yes, "yes", false, "do not ask before acting on the items that a filter selects")
	cmd.ValidArgsFunction = completeItems(sh)
}

// take reads the arguments, all of which are items.
func (s *selection) take(cmd *cobra.Command, args []string) error {
	s.ids = args
	switch {
	case len(args) == 0 && s.empty():
		return usage(cmd, "ITEM is missing: name items, or select some with --state, --queue, --repository, --reason, --label or --older-than")
	case len(args) > 0 && !s.empty():
		return usage(cmd, "name items or select them with flags, not both")
	}
	return nil
}

// resolve returns the ids of the items, after asking whether those that a filter
// selects are meant.
func (s selection) resolve(ctx context.Context, service api.Service, what string, sh *shell) ([]string, error) {
	if len(s.ids) > 0 {
		return s.ids, nil
	}
	var ids []string
	err := eachItem(ctx, service, control.Query{Filter: s.filter(), Asc: true}, func(item work.Item) error {
		ids = append(ids, item.ID)
		return nil
	})
	if err != nil || len(ids) == 0 || s.yes {
		return ids, err
	}
	return ids, confirm(ctx, fmt.Sprintf("%s %d items?", what, len(ids)), sh)
}

// eachItem calls seen with every item that a query selects, page by page.
func eachItem(ctx context.Context, service api.Service, q control.Query, seen func(work.Item) error) error {
	q.Limit = control.MaxPage
	for {
		page, err := service.Items(ctx, q)
		if err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := seen(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		q.Cursor = page.Next
	}
}

// confirm asks a person. It returns errUsage where standard input is no terminal,
// or the answer is not yes, and the context's cause when it ends first.
func confirm(ctx context.Context, question string, sh *shell) error {
	if !isTerminal(sh.in) {
		return fmt.Errorf("%s Standard input is no terminal, so add --yes to confirm it: %w", question, errUsage)
	}
	fmt.Fprintf(sh.err, "%s [y/N] ", question)
	answered := make(chan error, 1)
	var line string
	go func() {
		var err error
		line, err = bufio.NewReader(sh.in).ReadString('\n')
		answered <- err
	}()
	var err error
	select {
	case err = <-answered:
	case <-ctx.Done(): // the read ends with the process
		fmt.Fprintln(sh.err)
		return context.Cause(ctx)
	}
	if err != nil && line == "" {
		fmt.Fprintln(sh.err) // the terminal's cursor stands behind the question
		if err != io.EOF {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("nothing was done: %w", errUsage)
}
