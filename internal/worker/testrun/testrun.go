// Package testrun runs an item's test command and counts what it tested.
package testrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"drover/internal/work"
	"drover/internal/worker/process"
)

// maxDetailBytes is how much of the output's end a result keeps.
const maxDetailBytes = 2 << 10

// What the shell exits with when it could not run the command.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Options of a test run.
type Options struct {
	Test   work.Test
	Dir    string
	Env    []string
	Output io.Writer
	Agent  process.Starter // of the command; nil makes it a child of this process
	Alive  func()
	Redact func(string) string  // applied to what the result keeps
	Grace  func() time.Duration // see process.Command
}

var errTimeout = errors.New("tests took too long")

// Run runs the test command to its end, its timeout or the end of ctx.
func Run(ctx context.Context, o Options) work.TestOutcome {
	if o.Test.Command == "" {
		return work.TestOutcome{Status: work.TestSkipped, Detail: "no test command"}
	}
	timeout := o.Test.Timeout.Std()
	if timeout == 0 {
		timeout = work.DefaultTestTimeout.Std()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	began := time.Now()
	var counter counter
	lines := &process.Lines{Line: counter.line}
	tail := &process.Tail{Max: 4 * maxDetailBytes}       // more than is kept, so that no secret is cut before it is seen
	output := &serial{w: io.MultiWriter(o.Output, tail)} // both streams end up in it
	exit, err := process.Run(ctx, process.Command{
		Args: []string{"sh", "-c", o.Test.Command}, Dir: o.Dir, Env: o.Env,
		Stdout: io.MultiWriter(output, lines), Stderr: output, Alive: o.Alive, Grace: o.Grace, Starter: o.Agent, Sweep: true,
	})
	lines.Flush()
	counter, report := counter.orReports(o, began)
	outcome := work.TestOutcome{Run: counter.passed + counter.failed, Passed: counter.passed, Failed: counter.failed}
	end := o.Redact(strings.TrimSpace(tail.String()))
	end = strings.ToValidUTF8(end[max(0, len(end)-maxDetailBytes):], "")
	switch {
	case err != nil:
		outcome.Status, outcome.Detail = work.TestError, o.Redact(err.Error())
	case ctx.Err() != nil:
		outcome.Status, outcome.Detail = work.TestTimeout, fmt.Sprintf("stopped: %v (limit %s); %s", context.Cause(ctx), timeout, end)
	case exit.Code == exitNotFound || exit.Code == exitNotExecutable:
		outcome.Status, outcome.Detail = work.TestError, end
	case exit.Code != 0:
		outcome.Status, outcome.Detail = work.TestFailed, fmt.Sprintf("%s; %s", exit, end)
	default:
		outcome.Status = work.TestPassed
	}
	if report != nil {
		outcome.Detail = strings.TrimPrefix(outcome.Detail+"; "+o.Redact(report.Error()), "; ")
	}
	return outcome
}

// serial lets several goroutines write to one writer.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
