package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// Bounds of kept output.
const (
	keptLines     = work.MaxKeptLines
	keptBytes     = 64 << 10 // of each stream, before it is cut to lines
	flushTries    = 4
	flushPause    = 150 * time.Millisecond
	recentlyEnded = 3 * time.Second
)

// Bounds of what the next attempt is told of the last one's output.
const (
	toldLines     = 20 // of each stream
	toldLineBytes = 160
)

// lastLog returns the end of the output of the attempt before the item's current
// one, as it is kept: empty where there is none. A retry does without it rather
// than wait for it.
func (o *Orchestrator) lastLog(ctx context.Context, item *work.Item) string {
	last := item.Attempt(len(item.Attempts) - 1)
	if last == nil {
		return ""
	}
	kept, err := o.store.Logs(ctx, last.ID)
	o.complain("end of the last attempt's output not read", last.ID, err)
	if err != nil || kept == nil {
		return ""
	}
	var told []string
	for _, lines := range [][]string{kept.Stdout, kept.Stderr} {
		for _, line := range lines[max(0, len(lines)-toldLines):] {
			if len(line) > toldLineBytes {
				line = strings.ToValidUTF8(line[:toldLineBytes], "") + "…"
			}
			told = append(told, line)
		}
	}
	return strings.Join(told, "\n")
}

// keepLogs stores the end of the output of a child's first allocation, the one
// that ran the attempt, and what Nomad tells of it.
func (o *Orchestrator) keepLogs(ctx context.Context, a work.AttemptID, child work.Child) error {
	logs := &work.KeptLogs{Attempt: a, CapturedAt: time.Now().UTC()}
	if len(child.Allocations) == 0 {
		logs.Missing = "it was never placed on a node"
	} else {
		ran := child.Allocations[0]
		logs.Events = ran.Ending().Events
		if err := o.capture(ctx, ran, logs); err != nil {
			return err
		}
	}
	if before, err := o.store.Logs(ctx, a); err != nil {
		return err
	} else if before != nil && logs.Missing != "" {
		return nil // what was captured earlier is better than nothing
	}
	if err := o.ledger.Commit(ctx, work.Change{PutLogs: logs}); err != nil {
		return err
	}
	o.observer.LogsKept(sizeOf(logs))
	return nil
}

func (o *Orchestrator) capture(ctx context.Context, a work.Allocation, logs *work.KeptLogs) error {
	for stream, to := range map[string]*[]string{"stdout": &logs.Stdout, "stderr": &logs.Stderr} {
		data, err := o.readLog(ctx, a, stream)
		if errors.Is(err, work.ErrNotFound) {
			logs.Missing = err.Error()
			continue
		}
		if err != nil {
			return err
		}
		*to = lastLines(data)
	}
	return nil
}

// readLog reads the end of a stream. Nomad's log collector can be a moment
// behind the end of the task, so a fresh one is read until it stays the same.
func (o *Orchestrator) readLog(ctx context.Context, a work.Allocation, stream string) ([]byte, error) {
	data, err := o.cluster.Logs(ctx, a.ID, stream, keptBytes)
	for try := 1; err == nil && try < flushTries && time.Since(a.Task.Finished) < recentlyEnded; try++ {
		if err := wait.For(ctx, flushPause); err != nil {
			return nil, err
		}
		var again []byte
		if again, err = o.cluster.Logs(ctx, a.ID, stream, keptBytes); bytes.Equal(again, data) {
			break
		}
		data = again
	}
	return data, err
}

func sizeOf(logs *work.KeptLogs) int {
	size := 0
	for _, lines := range [][]string{logs.Stdout, logs.Stderr} {
		for _, line := range lines {
			size += len(line) + 1
		}
	}
	return size
}

// lastLines cuts output to whole lines, at most keptLines of them, without
// what looks like a secret.
func lastLines(data []byte) []string {
	text := strings.ToValidUTF8(strings.TrimRight(string(data), "\n"), "�")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	if len(data) >= keptBytes && len(lines) > 1 {
		lines = lines[1:] // the first is likely the end of a longer one
	}
	lines = lines[max(0, len(lines)-keptLines):]
	for i, line := range lines {
		lines[i] = work.RedactSecrets(line)
	}
	return lines
}
