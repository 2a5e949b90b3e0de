// Package archive keeps items that are removed from the store, as JSON lines: in
// a file, or wherever a command takes them.
package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"drover/internal/work"
)

const (
	// commandTimeout bounds one run of a command.
	commandTimeout = 5 * time.Minute
	filePerm       = 0o600 // items can hold what is not for everyone
	saidBytes      = 400   // of what a command said, in its error
)

// File appends to a file on the disk of the server that leads.
type File struct{ Path string }

// Keep returns once the items are on the disk. What a failed write left of a
// line is taken back.
func (f File) Keep(_ context.Context, items []work.Archived) (err error) {
	lines, err := encode(items)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, filePerm)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	before, err := file.Stat()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	_, err = file.Write(lines)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("archive: %w", err), file.Truncate(before.Size()))
	}
	return nil
}

// Command runs a program for every batch of items, and gives it their lines on
// its standard input. They count as kept when it exits with status 0.
type Command []string

// Keep returns when the program has ended, with what it said if it failed.
func (c Command) Keep(ctx context.Context, items []work.Archived) error {
	lines, err := encode(items)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, c[0], c[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(lines), &said, &said
	cmd.WaitDelay = time.Second // for what it started and left behind
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		return fmt.Errorf("archive command %s: %w: %s", c[0], err, text[max(0, len(text)-saidBytes):])
	}
	return nil
}

func encode(items []work.Archived) ([]byte, error) {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	for _, item := range items {
		if err := encoder.Encode(item); err != nil {
			return nil, fmt.Errorf("archive item %s: %w", item.Item.ID, err)
		}
	}
	return lines.Bytes(), nil
}
