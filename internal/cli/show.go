package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/control"
	"drover/internal/work"
)

type showOptions struct {
	remote
	item string
}

func newShow(sh *shell) *cobra.Command {
	var opts showOptions
	cmd := &cobra.Command{
		Use:     "show ITEM",
		Short:   "Show everything about an item",
		Long:    "Show where an item stands and why, its attempts, and its history.\nITEM is an id, or the beginning of one that no other item has.",
		Example: "  drover show 01jz\n  drover show 01jz -o json",
		Args:    arguments("ITEM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.item = args[0]
			return runShow(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	cmd.ValidArgsFunction = completeItems(sh)
	return cmd
}

func runShow(ctx context.Context, opts showOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	item, progress, err := client.Item(ctx, opts.item)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, control.Detail{Item: item, Progress: progress})
	}
	p := newPrinter(sh)
	p.item(item, time.Now())
	p.progress(progress, time.Now())
	p.attempts(item.Attempts, time.Now())
	p.history(item.History)
	return p.err
}

// field writes a line of a name and a value, if there is one.
func (p *printer) field(name, value string) {
	if value != "" {
		p.printf("%-12s  %s\n", name, p.paint(value))
	}
}

func (p *printer) item(item work.Item, now time.Time) {
	spec := item.Spec
	p.field("Item", item.ID)
	p.field("State", string(item.State))
	p.field("Reason", string(item.Reason))
	p.field("Why", item.Why)
	if item.State == work.StateQueued && item.NotBefore.After(now) {
		p.field("Not before", fmt.Sprintf("%s, in %s", clock(item.NotBefore), span(item.NotBefore.Sub(now))))
	}
	p.field("Age", fmt.Sprintf("%s, since %s", span(now.Sub(item.CreatedAt)), clock(item.CreatedAt)))
	p.field("Queue", queueOf(spec))
	p.field("Repository", spec.Repository)
	p.field("Base", spec.Base)
	p.field("Branch", item.Branch)
	p.field("Commit", item.Commit)
	p.field("Task", strings.ReplaceAll(strings.TrimSpace(spec.Task), "\n", "\n"+strings.Repeat(" ", 14)))
	p.field("Labels", labels(spec.Labels))
	p.field("Image", spec.Image)
	p.field("Command", strings.Join(spec.Command, " "))
	p.field("Resources", resources(spec.Resources, item.MemoryMB))
	p.field("Limits", fmt.Sprintf("%s an attempt, %d iterations, silence %s, idle %s, heartbeat %s", span(spec.Limits.Timeout.Std()), spec.Limits.MaxIterations,
		span(spec.Limits.SilenceTimeout.Std()), span(spec.Limits.IdleTimeout.Std()), span(spec.Limits.HeartbeatTTL.Std())))
	p.field("Spent", spent(item))
	p.field("Changes", changes(item))
	p.field("Tests", tests(item))
	p.field("PR", strings.Join(slices.DeleteFunc([]string{pullRequest(item.PR), item.PR.URL, item.PR.Error}, func(s string) bool { return s == "" }), "  "))
	if !item.PublishAt.IsZero() {
		p.field("PR again", fmt.Sprintf("%s, in %s", clock(item.PublishAt), span(max(0, item.PublishAt.Sub(now)))))
	}
	if item.PR.Body != "" && item.PR.URL == "" {
		p.printf("\n%s\n", strings.TrimSpace(item.PR.Body))
	}
}

func queueOf(spec work.Spec) string {
	if spec.Priority == nil {
		return spec.Queue
	}
	return fmt.Sprintf("%s, priority %d", spec.Queue, *spec.Priority)
}

func labels(of map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(of)) {
		pairs = append(pairs, key+"="+of[key])
	}
	return strings.Join(pairs, " ")
}

func resources(r work.Resources, memoryMB int) string {
	cpu := fmt.Sprintf("%d cores", r.Cores)
	if r.CPUMHz > 0 {
		cpu = fmt.Sprintf("%d MHz", r.CPUMHz)
	}
	text := fmt.Sprintf("%d MB, %s, %d processes", memoryMB, cpu, r.PIDs)
	if r.MemoryMaxMB > 0 {
		text += fmt.Sprintf(", up to %d MB after running out", r.MemoryMaxMB)
	}
	return text
}

func spent(item work.Item) string {
	cost := ""
	if item.CostUSD > 0 {
		cost = fmt.Sprintf(", %.2f USD", item.CostUSD)
	}
	return fmt.Sprintf("%d iterations, tokens %d in and %d out%s, %d retries, %d requeues in a row",
		item.Iteration, item.Tokens.In, item.Tokens.Out, cost, item.Retries, item.Requeues)
}

// changes tells the scope of the latest attempt that reported one.
func changes(item work.Item) string {
	for _, a := range slices.Backward(item.Attempts) {
		if a.Result != nil && a.Result.Changes != (work.Changes{}) {
			c := a.Result.Changes
			return fmt.Sprintf("%d commits, %d files, +%d -%d lines", c.Commits, c.Files, c.Added, c.Removed)
		}
	}
	return ""
}

func tests(item work.Item) string {
	t := item.Test
	text := string(t.Status)
	if t.Run > 0 {
		text += fmt.Sprintf(", %d run, %d passed, %d failed", t.Run, t.Passed, t.Failed)
	}
	if t.Flaky > 0 {
		text += fmt.Sprintf(", %d flaky", t.Flaky)
	}
	if t.Detail != "" {
		const width = 200
		text += ": " + short(t.Detail, width)
	}
	return text
}

func (p *printer) progress(progress *work.Progress, now time.Time) {
	if progress == nil {
		return
	}
	p.printf("\nNow\n")
	p.printf("  attempt %d is %s, iteration %d, tokens %d in and %d out", progress.Attempt.Number(), progress.Phase,
		progress.Iteration, progress.Tokens.In, progress.Tokens.Out)
	if progress.LastTool != "" {
		p.printf(", last tool %s", progress.LastTool)
	}
	p.printf(", %s ago\n", span(now.Sub(progress.At)))
}

func (p *printer) attempts(attempts []work.Attempt, now time.Time) {
	if len(attempts) == 0 {
		return
	}
	rows := [][]string{{"NO", "STATE", "REASON", "NODE", "MEMORY", "DURATION", "CHILD", "DETAIL"}}
	for _, a := range attempts {
		rows = append(rows, []string{
			strconv.Itoa(a.Number), string(a.State), orNone(string(a.Reason)), orNone(a.Node), memoryOf(a),
			durationOf(a, now), orNone(a.Child), orNone(strings.Join(strings.Fields(a.Detail), " ")),
		})
	}
	p.printf("\nAttempts\n")
	p.table("  ", rows)
}

// memoryOf is the limit of an attempt, and its peak where the worker saw it.
func memoryOf(a work.Attempt) string {
	if a.Result != nil && a.Result.PeakMemoryMB > 0 {
		return fmt.Sprintf("%d/%d MB", a.Result.PeakMemoryMB, a.MemoryMB)
	}
	return fmt.Sprintf("%d MB", a.MemoryMB)
}

func durationOf(a work.Attempt, now time.Time) string {
	switch {
	case a.StartedAt.IsZero():
		return none
	case a.EndedAt.IsZero():
		return span(now.Sub(a.StartedAt))
	}
	return span(a.EndedAt.Sub(a.StartedAt))
}

// history writes every transition: when it was, how long after the one before,
// from where to where, and why.
func (p *printer) history(history []work.Transition) {
	rows := [][]string{{"TIME", "AFTER", "FROM", "TO", "CAUSE"}}
	for i, t := range history {
		after := none
		if i > 0 {
			after = span(t.At.Sub(history[i-1].At))
		}
		rows = append(rows, []string{clock(t.At), after, orNone(string(t.From)), string(t.To), strings.Join(strings.Fields(t.Cause), " ")})
	}
	p.printf("\nHistory\n")
	p.table("  ", rows)
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
