package work_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"drover/internal/work"
)

func TestKeptLogsCheck(t *testing.T) {
	id := work.AttemptID("01m8n6wp8xqjgwtb8sqfq4rttw.1")
	lines := func(n int) []string { return slices.Repeat([]string{"x"}, n) }
	for name, c := range map[string]struct {
		logs work.KeptLogs
		ok   bool
	}{
		"as captured":     {work.KeptLogs{Attempt: id, Stdout: lines(work.MaxKeptLines), Stderr: lines(work.MaxKeptLines), Events: lines(10)}, true},
		"none":            {work.KeptLogs{Attempt: id, Missing: "it was never placed on a node"}, true},
		"no attempt":      {work.KeptLogs{Stdout: lines(1)}, false},
		"another's name":  {work.KeptLogs{Attempt: "../items/x"}, false},
		"too many lines":  {work.KeptLogs{Attempt: id, Stderr: lines(work.MaxKeptLines + 1)}, false},
		"too many events": {work.KeptLogs{Attempt: id, Events: lines(work.MaxKeptLines + 1)}, false},
		"one huge line":   {work.KeptLogs{Attempt: id, Stdout: []string{strings.Repeat("x", work.MaxKeptBytes+1)}}, false},
	} {
		if err := c.logs.Check(); (err == nil) != c.ok || err != nil && !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v, want valid %t", name, err, c.ok)
		}
	}
}
