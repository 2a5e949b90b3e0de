package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

type exportOptions struct {
	remote
	filterFlags
	file   string
	noLogs bool
}

func newExport(sh *shell) *cobra.Command {
	var opts exportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write items as JSON lines, a backup",
		Long: `Write items as they are stored, with their history, one JSON object a line: all of them,
or those that flags select. What drover kept of their attempts' output follows, one
{"kept_logs": ...} a line: at most 100 lines of each stream of an attempt, without secrets.
drover import makes the same items of it again.`,
		Example: "  drover export > items.jsonl\n  drover export --queue slow --file slow.jsonl\n  drover export --no-logs > items.jsonl",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runExport(cmd.Context(), opts, sh) },
	}
	opts.bindServer(cmd, sh)
	opts.filterFlags.bind(cmd.Flags())
	cmd.Flags().StringVarP(&opts.file, "file", "f", stdinName, "file to write, which is replaced when all is there; - is standard output")
	cmd.Flags().BoolVar(&opts.noLogs, "no-logs", false, "leave out what was kept of the attempts' output")
	return cmd
}

func runExport(ctx context.Context, opts exportOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	if opts.file == stdinName {
		return export(ctx, client, opts, sh.out)
	}
	partial := opts.file + ".partial"
	file, err := os.Create(partial)
	if err != nil {
		return fmt.Errorf("%v: %w", err, work.ErrInvalid)
	}
	err = errors.Join(export(ctx, client, opts, file), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(partial, opts.file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return nil
}

// keptLine is a line of a backup that holds kept output.
type keptLine struct {
	KeptLogs *work.KeptLogs `json:"kept_logs"`
}

// keptPrefix begins such a line, and no item's.
const keptPrefix = `{"kept_logs":`

func export(ctx context.Context, service api.Service, opts exportOptions, to io.Writer) error {
	buffer := bufio.NewWriter(to)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	items := map[string]bool{}
	err := service.Export(ctx, opts.filter(), func(item work.Item) error {
		items[item.ID] = true
		return encoder.Encode(item)
	})
	if err == nil && !opts.noLogs {
		err = service.ExportLogs(ctx, opts.filter(), func(logs work.KeptLogs) error {
			if !items[logs.Attempt.Item()] {
				return nil // the item came since
			}
			return encoder.Encode(keptLine{&logs})
		})
	}
	if err != nil {
		return err
	}
	return buffer.Flush()
}

type importOptions struct {
	remote
	file   string
	dryRun bool
}

func newImport(sh *shell) *cobra.Command {
	var opts importOptions
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Store items of a backup again",
		Long: `Store items that drover export wrote, with their ids, states and history, and what was kept
of their attempts' output. All of it is checked before the first is stored. An item that is there already is left as it is when it
is the same, and has the whole backup refused when it is not. An item that was in progress
goes on as one whose Nomad job is gone: as the table of reasons says.`,
		Example: "  drover import --file items.jsonl\n  drover import --dry-run < items.jsonl",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImport(cmd.Context(), opts, sh) },
	}
	opts.bind(cmd, sh)
	cmd.Flags().StringVarP(&opts.file, "file", "f", stdinName, "file to read; - is standard input")
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "check it, and store nothing")
	return cmd
}

// Bounds of what is sent in one call.
const (
	importItems = 1000
	importBytes = 16 << 20
)

func runImport(ctx context.Context, opts importOptions, sh *shell) error {
	backup, err := readBackup(opts.file, sh)
	if err != nil {
		return err
	}
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	none := func(int) error { return nil }
	check := func(items []work.Item) (control.Import, error) { return client.Import(ctx, items, true) }
	done, err := importAll(backup.items, check, none)
	if err != nil {
		return err
	}
	logs := control.Import{Stored: backup.logs.count}
	if !opts.dryRun {
		bar := newProgress(backup.items.count+backup.logs.count, sh)
		store := func(items []work.Item) (control.Import, error) { return client.Import(ctx, items, false) }
		if done, err = importAll(backup.items, store, bar.Add); err != nil {
			return err
		}
		keep := func(kept []work.KeptLogs) (control.Import, error) { return client.ImportLogs(ctx, kept) }
		if logs, err = importAll(backup.logs, keep, bar.Add); err != nil {
			return err
		}
		_ = bar.Finish() // a bar that can't be drawn stops nothing
	}
	return printImport(done, logs, opts, sh)
}

func printImport(done, logs control.Import, opts importOptions, sh *shell) error {
	if opts.output == formatJSON {
		return printJSON(sh.out, struct {
			control.Import
			KeptLogs control.Import `json:"kept_logs"`
		}{done, logs})
	}
	p := newPrinter(sh)
	verb := "stored"
	if opts.dryRun {
		verb = "to be stored"
	}
	p.printf("%d items %s, %d were there already\n", done.Stored, verb, done.Identical)
	if logs != (control.Import{}) {
		p.printf("kept output of %d attempts %s, that of %d was there already\n", logs.Stored, verb, logs.Identical)
	}
	return p.err
}

func importAll[T any](from batches[T], send func([]T) (control.Import, error), step func(int) error) (control.Import, error) {
	var sum control.Import
	for _, batch := range from.all {
		done, err := send(batch)
		sum.Stored, sum.Identical = sum.Stored+done.Stored, sum.Identical+done.Identical
		if err != nil {
			return sum, err
		}
		_ = step(len(batch)) // a bar that can't be drawn stops nothing
	}
	return sum, nil
}

// batches are values in parts that fit a call each.
type batches[T any] struct {
	all   [][]T
	size  int // bytes of the last part
	count int // of the values
}

func (b *batches[T]) add(value T, size int) {
	last := len(b.all) - 1
	if last < 0 || len(b.all[last]) == importItems || b.size+size > importBytes {
		b.all, b.size, last = append(b.all, nil), 0, last+1
	}
	b.all[last], b.size, b.count = append(b.all[last], value), b.size+size, b.count+1
}

// backup is what a file of drover export holds.
type backup struct {
	items batches[work.Item]
	logs  batches[work.KeptLogs]

	attempts map[work.AttemptID]bool // of the items so far
}

// readBackup reads a backup and checks what a server would only find when it is
// half stored.
func readBackup(name string, sh *shell) (*backup, error) {
	in := sh.in
	if name != stdinName {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, work.ErrInvalid)
		}
		defer file.Close()
		in = file
	}
	from := inputName(name)
	reader := bufio.NewReader(in)
	b := &backup{attempts: map[work.AttemptID]bool{}}
	for line := 1; ; line++ {
		text, err := reader.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read %s: %w", from, err)
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			if err := b.add(trimmed); err != nil {
				return nil, fmt.Errorf("%s: line %d: %s: %w", from, line, clearer(reasonOf(err)), work.ErrInvalid)
			}
		}
		if err != nil {
			return b, nil
		}
	}
}

func (b *backup) add(line []byte) error {
	if !bytes.HasPrefix(line, []byte(keptPrefix)) {
		var item work.Item
		if err := work.DecodeStrict(line, &item); err != nil {
			return err
		}
		for _, a := range item.Attempts {
			b.attempts[a.ID] = true
		}
		b.items.add(item, len(line))
		return nil
	}
	var kept keptLine
	err := work.DecodeStrict(line, &kept)
	if err == nil && kept.KeptLogs == nil {
		err = fmt.Errorf("kept_logs is empty: %w", work.ErrInvalid)
	}
	if err == nil {
		err = kept.KeptLogs.Check()
	}
	if err == nil && !b.attempts[kept.KeptLogs.Attempt] {
		err = fmt.Errorf("kept output of attempt %s: no item before it has that attempt: %w", kept.KeptLogs.Attempt, work.ErrInvalid)
	}
	if err != nil {
		return err
	}
	b.logs.add(*kept.KeptLogs, len(line))
	return nil
}
