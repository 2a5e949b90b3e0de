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
	file string
}

func newExport(sh *shell) *cobra.Command {
	var opts exportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write items as JSON lines, a backup",
		Long: `Write items as they are stored, with their history, one JSON object a line: all of them,
or those that flags select. What drover import makes of it is the same items again.`,
		Example: "  drover export > items.jsonl\n  drover export --queue slow --file slow.jsonl",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runExport(cmd.Context(), opts, sh) },
	}
	opts.bindServer(cmd, sh)
	opts.filterFlags.bind(cmd.Flags())
	cmd.Flags().StringVarP(&opts.file, "file", "f", stdinName, "file to write, which is replaced when all is there; - is standard output")
	return cmd
}

func runExport(ctx context.Context, opts exportOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	if opts.file == stdinName {
		return export(ctx, client, opts.filter(), sh.out)
	}
	partial := opts.file + ".partial"
	file, err := os.Create(partial)
	if err != nil {
		return fmt.Errorf("%v: %w", err, work.ErrInvalid)
	}
	err = errors.Join(export(ctx, client, opts.filter(), file), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(partial, opts.file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return nil
}

func export(ctx context.Context, service api.Service, f control.Filter, to io.Writer) error {
	buffer := bufio.NewWriter(to)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	if err := service.Export(ctx, f, func(item work.Item) error { return encoder.Encode(item) }); err != nil {
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
		Long: `Store items that drover export wrote, with their ids, states and history. All of them are
checked before the first is stored. An item that is there already is left as it is when it
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

// Bounds of the items that are sent in one call.
const (
	importItems = 1000
	importBytes = 16 << 20
)

func runImport(ctx context.Context, opts importOptions, sh *shell) error {
	batches, count, err := readBackup(opts.file, sh)
	if err != nil {
		return err
	}
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	done, err := importAll(ctx, client, batches, true, func(int) error { return nil })
	if err != nil {
		return err
	}
	if !opts.dryRun {
		bar := newProgress(count, sh)
		if done, err = importAll(ctx, client, batches, false, bar.Add); err != nil {
			return err
		}
		_ = bar.Finish() // a bar that can't be drawn stops nothing
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, done)
	}
	p := newPrinter(sh)
	verb := "stored"
	if opts.dryRun {
		verb = "to be stored"
	}
	p.printf("%d items %s, %d were there already\n", done.Stored, verb, done.Identical)
	return p.err
}

func importAll(ctx context.Context, service api.Service, batches [][]work.Item, dry bool, step func(int) error) (control.Import, error) {
	var sum control.Import
	for _, batch := range batches {
		done, err := service.Import(ctx, batch, dry)
		sum.Stored, sum.Identical = sum.Stored+done.Stored, sum.Identical+done.Identical
		if err != nil {
			return sum, err
		}
		_ = step(len(batch)) // a bar that can't be drawn stops nothing
	}
	return sum, nil
}

// readBackup returns the items of a backup, in batches, and how many they are.
func readBackup(name string, sh *shell) (batches [][]work.Item, count int, err error) {
	in := sh.in
	if name != stdinName {
		file, err := os.Open(name)
		if err != nil {
			return nil, 0, fmt.Errorf("%v: %w", err, work.ErrInvalid)
		}
		defer file.Close()
		in = file
	}
	from := inputName(name)
	reader := bufio.NewReader(in)
	var batch []work.Item
	size := 0
	for line := 1; ; line++ {
		text, err := reader.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("read %s: %w", from, err)
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			var item work.Item
			if err := work.DecodeStrict(trimmed, &item); err != nil {
				return nil, 0, fmt.Errorf("%s: line %d: %s: %w", from, line, clearer(reasonOf(err)), work.ErrInvalid)
			}
			if len(batch) == importItems || len(batch) > 0 && size+len(trimmed) > importBytes {
				batches, batch, size = append(batches, batch), nil, 0
			}
			batch, size, count = append(batch, item), size+len(trimmed), count+1
		}
		if err != nil {
			break
		}
	}
	if len(batch) > 0 {
		batches = append(batches, batch)
	}
	return batches, count, nil
}
