package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// maxInputBytes bounds a file of items.
const maxInputBytes = 256 << 20

// stdinName is the file name that stands for standard input.
const stdinName = "-"

type submitOptions struct {
	remote
	file      string
	flags     bool // the item is given by flags
	spec      work.Spec
	taskFile  string
	notBefore string
	labels    []string
	prompt    string
	loop      bool
	priority  int
	wait      bool
	dryRun    bool
}

func newSubmit(sh *shell) *cobra.Command {
	var opts submitOptions
	cmd := &cobra.Command{
		Use:   "submit [flags] [-- COMMAND [ARGUMENT …]]",
		Short: "Submit items",
		Long: `Submit one item by flags, or as many as a file holds: one JSON or YAML item each
document. All of them are checked before any is stored.
What follows -- is the agent's command; the server's default if there is none.`,
		Example: `  drover submit --repo https://github.com/example/shop --task "Fix the flaky checkout test" --test "make test"
  drover submit --repo git@example.com:shop.git --task-file task.md --priority 80 --label team=web
  drover submit -f items.yaml --wait
  drover submit --repo https://github.com/example/shop --task-file plan.md --agent claude-code --loop --budget-cost-usd 5
  generate-items | drover submit -f - -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
				return usage(cmd, "unexpected argument %q; the agent's command goes after --", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.spec.Command = args
			opts.flags = len(args) > 0
			cmd.Flags().Visit(func(f *pflag.Flag) {
				opts.flags = opts.flags || !slices.Contains([]string{"file", "address", "output", "wait", "dry-run"}, f.Name)
			})
			if opts.flags == (opts.file != "") {
				return usage(cmd, "give an item by flags (--repository and --task at least), or a file of items (-f), one of the two")
			}
			return runSubmit(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	opts.bindItem(cmd.Flags())
	return cmd
}

func (o *submitOptions) bindItem(flags *pflag.FlagSet) {
	s := &o.spec
	flags.StringVarP(&o.file, "file", "f", "", "file of items, JSON or YAML; - is standard input")
	flags.BoolVar(&o.dryRun, "dry-run", false, "have the server check the items and fill what they leave open, and store nothing")
	flags.BoolVar(&o.wait, "wait", false, "wait until every item has ended")
	flags.StringVar(&s.Repository, "repository", "", "URL of the repository to clone")
	flags.StringVar(&s.Task, "task", "", "what the agent is to do; - reads standard input")
	flags.StringVar(&o.taskFile, "task-file", "", "file that holds the task; - is standard input")
	flags.StringVar(&s.Base, "base", "", "branch to start from; the remote's default branch if not given")
	flags.StringVar(&s.Queue, "queue", "", "queue; \""+work.DefaultQueue+"\" if not given")
	flags.StringArrayVar(&s.Paths, "path", nil, "file, directory or glob of the repository that the item is to have for itself; may be repeated")
	flags.StringArrayVar(&s.DependsOn, "depends-on", nil, "id of an item that is to complete first; may be repeated")
	flags.StringVar(&s.UniqueKey, "unique-key", "", "key of the item in its queue: a submission that repeats it returns the item that has it")
	flags.IntVar(&o.priority, "priority", work.DefaultPriority, fmt.Sprintf("0 to %d, the higher the sooner", work.MaxPriority))
	flags.StringArrayVar(&o.labels, "label", nil, "label as KEY=VALUE; may be repeated")
	flags.StringVar(&o.notBefore, "not-before", "", "earliest start: a time (2026-01-31T08:00:00Z) or a duration from now (2h)")
	flags.StringVar(&s.Image, "image", "", "worker image")
	flags.StringVar(&s.Agent, "agent", "", "kind of agent: "+strings.Join(work.Agents(), ", "))
	flags.StringVar(&o.prompt, "prompt-file", "", "file with a template of what the agent is told; the task alone if not given")
	flags.BoolVar(&o.loop, "loop", false, "run the agent again until it says that it is done")
	flags.Int64Var(&s.Budget.Tokens, "budget-tokens", 0, "most tokens, read and written, over all attempts")
	flags.Float64Var(&s.Budget.CostUSD, "budget-cost-usd", 0, "most cost in USD that the agent may state, over all attempts")
	flags.TextVar(&s.Budget.Time, "budget-time", work.Duration(0), "most wall clock of the item, over all attempts")
	flags.StringVar(&s.Uncommitted, "uncommitted", "", "what becomes of work that the agent does not commit: commit, fail or ignore")
	flags.StringVar(&s.Test.Command, "test", "", "shell command that tests the agent's work")
	flags.TextVar(&s.Test.Timeout, "test-timeout", work.Duration(0), "time limit of the test command")
	flags.IntVar(&s.Resources.MemoryMB, "memory-mb", 0, "memory limit in MB")
	flags.IntVar(&s.Resources.MemoryMaxMB, "memory-max-mb", 0, "to which the limit grows after running out of memory, in MB")
	flags.IntVar(&s.Resources.Cores, "cores", 0, "whole CPUs")
	flags.TextVar(&s.Limits.Timeout, "timeout", work.Duration(0), "time limit of an attempt")
	flags.IntVar(&s.Limits.MaxIterations, "max-iterations", 0, "most runs of the agent, over all attempts")
	flags.StringVar(&s.PR.Provider, "pr-provider", "", "github, request-pull or none; guessed from the repository if not given")
	flags.StringVar(&s.PR.Title, "pr-title", "", "title of the pull request; the task's first line if not given")
}

func runSubmit(ctx context.Context, opts submitOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	var specs []work.Spec
	if opts.file == "" {
		specs, err = opts.flagSpecs(sh)
	} else {
		var data []byte
		if data, err = readInput(opts.file, sh); err != nil {
			return err
		}
		documents, err := readDocuments(inputName(opts.file), data)
		if err != nil {
			return err
		}
		if len(documents) > api.MaxSubmissions && !opts.dryRun {
			return opts.submitMany(ctx, client, documents, sh)
		}
		specs, err = decodeAll(inputName(opts.file), documents)
		if err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	items := submissions(specs, time.Now())
	if opts.dryRun {
		var checked []work.Item
		for some := range slices.Chunk(items, api.MaxSubmissions) {
			items, err := client.Check(ctx, some)
			if err != nil {
				return err
			}
			checked = append(checked, items...)
		}
		return opts.print(checked, sh)
	}
	stored, err := client.Submit(ctx, items)
	if err != nil {
		return err
	}
	for _, item := range stored {
		for _, warning := range item.Warnings {
			fmt.Fprintf(sh.err, "warning: item %s: %s\n", item.ID, warning)
		}
	}
	if err := sh.traceSubmission(ctx, stored); err != nil {
		return err
	}
	if opts.wait {
		if stored, err = waitFor(ctx, client, idsOf(stored), sh); err != nil && !errors.Is(err, errIncomplete) {
			return err
		}
	}
	return errors.Join(err, opts.print(stored, sh))
}

// submitMany submits the items of a file that holds more than one answer is to
// hold, and prints how many they were. The server checks them, all before it
// stores any; where it finds a fault, its place in the file is looked for here.
func (o submitOptions) submitMany(ctx context.Context, client *api.Client, documents []document, sh *shell) error {
	name := inputName(o.file)
	lines, err := linesOf(name, documents)
	if err != nil {
		return err
	}
	ids := make([]string, len(lines))
	body, to := io.Pipe()
	var writer sync.WaitGroup
	writer.Go(func() { to.CloseWithError(writeSubmissions(to, ids, lines, sh)) })
	done, err := client.SubmitStream(ctx, body)
	body.Close() // ends the writer, should the server have answered early
	writer.Wait()
	if errors.Is(err, work.ErrInvalid) {
		return placed(err, name, documents)
	}
	if err != nil {
		return err
	}
	if o.wait {
		if _, err = waitFor(ctx, client, ids, sh); err != nil && !errors.Is(err, errIncomplete) {
			return err
		}
	}
	if o.output == formatJSON {
		return errors.Join(err, printJSON(sh.out, done))
	}
	p := newPrinter(sh)
	p.printf("%d items stored, %s to %s\n", done.Stored, ids[0], ids[len(ids)-1])
	return errors.Join(err, p.err)
}

// writeSubmissions writes the lines of control.ReadSubmissions, makes the ids that
// they have, and draws a progress bar.
func writeSubmissions(to io.Writer, ids []string, specs [][]byte, sh *shell) error {
	bar := newProgress(len(ids), sh)
	defer func() { _ = bar.Finish() }() // a bar that can't be drawn stops nothing
	now := time.Now()
	var some []byte
	for i, spec := range specs {
		ids[i] = idAfter(now, i)
		some = fmt.Appendf(some, `{"id":%q,"spec":%s}`+"\n", ids[i], spec)
		if n := i + 1; n%linesPerWrite == 0 || n == len(ids) {
			if _, err := to.Write(some); err != nil {
				return err
			}
			some = some[:0]
			_ = bar.Set(n)
		}
	}
	return nil
}

// linesPerWrite is how many items are sent between two steps of the progress bar.
const linesPerWrite = 200

// idsOf returns the ids of items, each once: a unique key can have two
// submissions be one item.
func idsOf(items []work.Item) []string {
	var ids []string
	for _, item := range items {
		if !slices.Contains(ids, item.ID) {
			ids = append(ids, item.ID)
		}
	}
	return ids
}

func (o submitOptions) print(items []work.Item, sh *shell) error {
	switch {
	case o.output == formatJSON:
		return printJSON(sh.out, items)
	case o.wait:
		return printItems(sh, items, time.Now())
	}
	const taskWidth = 60
	rows := [][]string{{"ID", "QUEUE", "REPOSITORY", "TASK"}}
	for _, item := range items {
		rows = append(rows, []string{item.ID, item.Spec.Queue, item.Spec.Repository, short(item.Spec.Task, taskWidth)})
	}
	p := newPrinter(sh)
	p.table("", rows)
	return p.err
}

// submissions gives the items their ids, a millisecond apart, so that they sort
// in the order they were given.
func submissions(specs []work.Spec, now time.Time) []control.Submission {
	items := make([]control.Submission, len(specs))
	for i, spec := range specs {
		items[i] = control.Submission{ID: idAfter(now, i), Spec: spec}
	}
	return items
}

func idAfter(now time.Time, n int) string {
	return work.NewID(now.Add(time.Duration(n) * time.Millisecond))
}

// flagSpecs returns the valid item that the flags ask for.
func (o submitOptions) flagSpecs(sh *shell) ([]work.Spec, error) {
	spec, err := o.flagSpec(sh)
	if err == nil {
		err = spec.Validate()
	}
	return []work.Spec{spec}, err
}

// inputName is what people call a file that is read.
func inputName(name string) string {
	if name == stdinName {
		return "standard input"
	}
	return name
}

func (o submitOptions) flagSpec(sh *shell) (work.Spec, error) {
	spec := o.spec
	spec.Priority = &o.priority
	if spec.Task != "" && o.taskFile != "" {
		return spec, fmt.Errorf("give --task or --task-file, not both: %w", work.ErrInvalid)
	}
	if spec.Task == stdinName {
		o.taskFile = stdinName
	}
	if o.taskFile != "" {
		data, err := readInput(o.taskFile, sh)
		if err != nil {
			return spec, err
		}
		spec.Task = string(data)
	}
	if o.prompt != "" {
		data, err := readInput(o.prompt, sh)
		if err != nil {
			return spec, err
		}
		spec.Prompt = string(data)
	}
	if o.loop {
		spec.Loop.Mode = work.LoopUntil
	}
	for _, label := range o.labels {
		key, value, ok := strings.Cut(label, "=")
		if !ok {
			return spec, fmt.Errorf("label %q: give it as KEY=VALUE: %w", label, work.ErrInvalid)
		}
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		spec.Labels[key] = value
	}
	var err error
	if o.notBefore != "" {
		spec.NotBefore, err = parseWhen(o.notBefore, time.Now())
	}
	return spec, err
}

// parseWhen reads a time, or a duration from now on.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q: give it as 2026-01-31T08:00:00Z, or as a duration such as 2h: %w", text, work.ErrInvalid)
	}
	return t.UTC(), nil
}

func readInput(name string, sh *shell) ([]byte, error) {
	in, size := sh.in, int64(0)
	if name != stdinName {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, work.ErrInvalid)
		}
		defer file.Close()
		in = file
		if info, err := file.Stat(); err == nil {
			size = min(info.Size(), maxInputBytes)
		}
	}
	data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // its Grow would write to all of it first
	if _, err := data.ReadFrom(io.LimitReader(in, maxInputBytes+1)); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if data.Len() > maxInputBytes {
		return nil, fmt.Errorf("%s is over %d bytes: %w", name, maxInputBytes, work.ErrInvalid)
	}
	return data.Bytes(), nil
}
