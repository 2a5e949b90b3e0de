// Package testrun runs an item's test command and counts what it tested.
package testrun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
	// CountAs is the command line that counts reports as the agent's user, who may read what the worker may not. What
	// CountReports takes is added to it, and it prints Counts as JSON. This process counts if it is empty.
	CountAs []string
	Alive   func()
	Redact  func(string) string  // applied to what the result keeps
	Grace   func() time.Duration // see process.Command
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
	limited, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	began := time.Now()
	var events goTest
	var points tap
	lines := &process.Lines{Line: func(line string) {
		events.line(line)
		points.line(line)
	}}
	tail := &process.Tail{Max: 4 * maxDetailBytes}       // more than is kept, so that no secret is cut before it is seen
	output := &serial{w: io.MultiWriter(o.Output, tail)} // both streams end up in it
	exit, err := process.Run(limited, process.Command{
		Args: []string{"sh", "-c", o.Test.Command}, Dir: o.Dir, Env: o.Env,
		Stdout: io.MultiWriter(output, lines), Stderr: output, Alive: o.Alive, Grace: o.Grace, Starter: o.Agent, Sweep: true,
	})
	lines.Flush()
	printed := events.counts()
	printed.add(points.counts())
	counts := o.reported(ctx, printed, began)
	end := o.Redact(strings.TrimSpace(tail.String()))
	end = strings.ToValidUTF8(end[max(0, len(end)-maxDetailBytes):], "")
	outcome := work.TestOutcome{Run: counts.Passed + counts.Failed, Passed: counts.Passed, Failed: counts.Failed, Flaky: counts.Flaky}
	switch {
	case err != nil:
		outcome.Status, outcome.Detail = work.TestError, o.Redact(err.Error())
	case limited.Err() != nil:
		outcome.Status, outcome.Detail = work.TestTimeout, fmt.Sprintf("stopped: %v (limit %s); %s", context.Cause(limited), timeout, end)
	case exit.Code == exitNotFound || exit.Code == exitNotExecutable:
		outcome.Status, outcome.Detail = work.TestError, end
	case exit.Code != 0:
		outcome.Status, outcome.Detail = work.TestFailed, join(exit.String(), end)
	default:
		outcome.Status, outcome.Detail = counts.verdict()
	}
	outcome.Detail = o.Redact(join(outcome.Detail, counts.remarks()))
	return outcome
}

// verdict is what the counts make of tests whose command ended well: some ignore failures, and a report that can't be
// read whole may have more of them.
func (c *Counts) verdict() (work.TestStatus, string) {
	switch {
	case len(c.Faults) > 0:
		return work.TestError, "the command ended well, but not all of what it tested is known"
	case c.Failed > 0:
		return work.TestFailed, "the command ended well, but tests failed: " + named(c.Failing, c.Failed)
	}
	return work.TestPassed, ""
}

// remarks are what else there is to say of the counts.
func (c *Counts) remarks() string {
	flaky := ""
	if c.Flaky > 0 {
		flaky = "passed only when run again: " + named(c.Rerun, c.Flaky)
	}
	return join(c.problem(), flaky, c.Note)
}

func join(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "; ")
}

// reported returns what the tests wrote into their reports, if they are to write some, and else what they printed.
// Where they wrote none, what they printed counts; where they printed nothing either, that is a fault.
func (o Options) reported(ctx context.Context, printed Counts, began time.Time) Counts {
	if o.Test.JUnit == "" {
		return printed
	}
	counts, err := o.countReports(ctx, began)
	switch {
	case err != nil:
		counts.fault("count reports: %v", err)
	case counts.Reports > 0 || len(counts.Faults) > 0:
	case printed.Passed+printed.Failed > 0:
		printed.Note = "no JUnit report of this run matches " + o.Test.JUnit
		return printed
	default:
		counts.fault("no JUnit report of this run matches %s", o.Test.JUnit)
	}
	return counts
}

// countLimit bounds how long reports are counted.
const countLimit = 2 * time.Minute

func (o Options) countReports(ctx context.Context, began time.Time) (counts Counts, err error) {
	if len(o.CountAs) == 0 {
		return CountReports(o.Dir, o.Test.JUnit, began), nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, countLimit, fmt.Errorf("not done within %s", countLimit))
	defer cancel()
	const most = 64 << 10 // of both streams: names and faults are bounded
	stdout, stderr := &process.Tail{Max: most}, &process.Tail{Max: most}
	exit, err := process.Run(ctx, process.Command{
		Args: append(slices.Clone(o.CountAs), o.Dir, o.Test.JUnit, began.Format(time.RFC3339Nano)), Dir: o.Dir, Env: o.Env,
		Stdout: stdout, Stderr: stderr, Alive: o.Alive, Grace: o.Grace, Starter: o.Agent, Sweep: true,
	})
	switch {
	case err != nil:
		return counts, err
	case ctx.Err() != nil:
		return counts, context.Cause(ctx)
	case exit.Code != 0:
		return counts, fmt.Errorf("%s: %s", exit, strings.TrimSpace(stderr.String()))
	}
	return counts, json.Unmarshal([]byte(stdout.String()), &counts)
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
