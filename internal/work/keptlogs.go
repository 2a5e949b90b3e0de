package work

import "fmt"

// Bounds of the kept output of one attempt, as it is captured and as a backup may hold it.
const (
	MaxKeptLines = 100       // of each stream, and of events
	MaxKeptBytes = 512 << 10 // in all: a captured stream is 64 KiB at most, which masks and replacement characters can lengthen
)

// Check returns ErrInvalid for kept output that no server would have captured.
func (l KeptLogs) Check() error {
	if _, err := ParseAttemptID(string(l.Attempt)); err != nil {
		return err
	}
	size := len(l.Missing)
	for _, lines := range [][]string{l.Stdout, l.Stderr, l.Events} {
		if len(lines) > MaxKeptLines {
			return fmt.Errorf("kept output of attempt %s: %d lines of one stream, limit %d: %w", l.Attempt, len(lines), MaxKeptLines, ErrInvalid)
		}
		for _, line := range lines {
			size += len(line)
		}
	}
	if size > MaxKeptBytes {
		return fmt.Errorf("kept output of attempt %s: %d bytes, limit %d: %w", l.Attempt, size, MaxKeptBytes, ErrInvalid)
	}
	return nil
}
