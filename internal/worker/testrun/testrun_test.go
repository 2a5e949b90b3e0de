package testrun_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker/testrun"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func run(t *testing.T, test work.Test) (work.TestOutcome, string) {
	t.Helper()
	var out bytes.Buffer
	outcome := testrun.Run(t.Context(), testrun.Options{
		Test: test, Dir: t.TempDir(), Env: []string{"PATH=" + os.Getenv("PATH")}, Output: &out, Alive: func() {},
		Redact: func(s string) string { return strings.ReplaceAll(s, "secret", "*") },
	})
	return outcome, out.String()
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command string
		status  work.TestStatus
		detail  string
	}{
		{"", work.TestSkipped, "no test command"},
		{"true", work.TestPassed, ""},
		{"echo the secret is out; exit 3", work.TestFailed, "exit code 3; the * is out"},
		{"kill -KILL $$", work.TestFailed, "signal 9"},
		{"no-such-test-command", work.TestError, "not found"},
		{"echo begun; sleep 600", work.TestTimeout, "begun"},
	} {
		got, _ := run(t, work.Test{Command: c.command, Timeout: work.Duration(time.Second)})
		if got.Status != c.status || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%q: %+v, want %s with %q", c.command, got, c.status, c.detail)
		}
	}
}

// printLines is a command that prints lines.
func printLines(lines ...string) string {
	var quoted []string
	for _, line := range lines {
		quoted = append(quoted, "'"+strings.ReplaceAll(line, "'", `'\''`)+"'")
	}
	return "printf '%s\\n' " + strings.Join(quoted, " ")
}

// goEvents are lines of go test -json: "run a.TestX".
func goEvents(events ...string) []string {
	var lines []string
	for _, e := range events {
		action, of, _ := strings.Cut(e, " ")
		pkg, test, _ := strings.Cut(of, ".")
		lines = append(lines, fmt.Sprintf(`{"Time":"2026-11-30T00:00:00Z","Action":%q,"Package":%q,"Test":%q}`, action, pkg, test))
	}
	return lines
}

func TestPrintedTestsAreCounted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines          []string
		status         work.TestStatus
		passed, failed int
		says           string
	}{
		"go test -json":                {goEvents("run a.TestX", "pass a.TestX", "run a.TestY", "fail a.TestY", "skip a.TestZ", "fail a"), "failed", 1, 1, "tests failed: a TestY"},
		"rerun":                        {goEvents("run a.TestX", "fail a.TestX", "fail a", "run a.TestX", "pass a.TestX", "pass a"), "passed", 1, 0, "passed only when run again: a TestX"},
		"rerun that fails":             {goEvents("fail a.TestX", "fail a", "fail a.TestX", "fail a"), "failed", 0, 1, "a TestX"},
		"same name, another package":   {goEvents("fail a.TestX", "pass b.TestX"), "failed", 1, 1, "a TestX"},
		"-count=2":                     {goEvents("pass a.TestX", "pass a.TestX", "pass a"), "passed", 2, 0, ""},
		"never ended":                  {goEvents("run a.TestX", "run a.TestX/sub", "pass a.TestX/sub", "fail a"), "failed", 1, 1, "a TestX"},
		"never ended, and cut short":   {goEvents("start a", "run a.TestX"), "failed", 0, 1, "a TestX"},
		"never ended, rerun passes":    {goEvents("start a", "run a.TestX", "fail a", "start a", "run a.TestX", "pass a.TestX", "pass a"), "passed", 1, 0, "a TestX"},
		"restarted without an end":     {goEvents("start a", "run a.TestX", "start a", "run a.TestY", "pass a.TestY", "pass a"), "failed", 1, 1, "a TestX"},
		"benchmarks have no end":       {goEvents("run a.TestX", "pass a.TestX", "run a.BenchmarkX", "bench a.BenchmarkX", "pass a"), "passed", 1, 0, ""},
		"benchmark that panics":        {goEvents("run a.BenchmarkX", "fail a"), "failed", 0, 1, "tests failed: a"},
		"package without tests fails":  {goEvents("start a", "fail a", "start b", "pass b.TestX", "pass b"), "failed", 1, 1, "tests failed: a"},
		"package passes when rerun":    {goEvents("start a", "fail a", "start a", "pass a.TestX", "pass a"), "passed", 1, 0, ""},
		"paused tests of a panic":      {goEvents("run a.TestX", "pause a.TestX", "run a.TestY", "fail a"), "failed", 0, 2, "a TestX, a TestY"},
		"TAP":                          {[]string{"TAP version 13", "1..5", "ok 1 - a", "not ok 2 - b", "ok 3", "ok 4 # SKIP no", "not ok 5 # TODO later", "    ok 1 - sub"}, "failed", 2, 1, "tests failed: 2 b"},
		"TAP, plan last":               {[]string{"ok 1 - a", "ok 2 b", "1..2"}, "passed", 2, 0, ""},
		"TAP, bats":                    {[]string{"1..2", "ok 1 adds", "not ok 2 subtracts", "# (in test file x.bats, line 3)"}, "failed", 1, 1, "2 subtracts"},
		"TAP, no numbers":              {[]string{"1..2", "ok", "not ok - b"}, "failed", 1, 1, "tests failed: b"},
		"TAP, all skipped":             {[]string{"1..0 # SKIP no database"}, "passed", 0, 0, ""},
		"TAP, escaped hash":            {[]string{"1..2", `ok 1 - a \# SKIP b`, "not ok 2 - c #todo"}, "passed", 1, 0, ""},
		"TAP, two scripts":             {[]string{"1..1", "ok 1", "1..2", "ok 1", "ok 2"}, "passed", 3, 0, ""},
		"TAP, tests missing":           {[]string{"1..3", "ok 1"}, "error", 1, 0, "3 tests are planned, and only 1 ran"},
		"TAP, bailed out":              {[]string{"1..1", "ok 1", "Bail out! database is gone"}, "error", 1, 0, "Bail out! database is gone"},
		"TAP, no plan":                 {[]string{"TAP version 14", "ok 1"}, "error", 1, 0, "no plan"},
		"plain go test":                {[]string{"ok  \texample.org/pkg\t0.1s", "--- FAIL: TestX (0.00s)"}, "passed", 0, 0, ""},
		"plain go test beside TAP":     {[]string{"1..1", "ok 1", "ok  \texample.org/pkg\t0.1s"}, "passed", 1, 0, ""},
		"looks like TAP":               {[]string{"ok", "ok 1 - real", "ok 200 GET /health", "not ok", "not ok, but going on", "ok - x"}, "passed", 1, 0, ""},
		"TAP without a plan":           {[]string{"ok 1 - a", "not ok 2 - b", "ok 1 - c", "not ok 2 - later # TODO"}, "failed", 2, 1, "2 b"},
		"an event that is no test's":   {[]string{`{"Action":"pass","Test":"x","level":"info"}`, `{"Action":"pass","Package":1,"Test":"x"}`, `{"Action":"pass"`}, "passed", 0, 0, ""},
		"an event in a string of JSON": {[]string{`{"Action":"output","Package":"a","Test":"TestX","Output":"{\"Action\":\"fail\",\"Package\":\"b\",\"Test\":\"T\"}\n"}`}, "passed", 0, 0, ""},
	} {
		got, out := run(t, work.Test{Command: printLines(c.lines...)})
		if got.Status != c.status || got.Passed != c.passed || got.Failed != c.failed || got.Run != c.passed+c.failed || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: outcome = %+v, want %s with %d passed, %d failed and %q", name, got, c.status, c.passed, c.failed, c.says)
		}
		if want := strings.Join(c.lines, "\n") + "\n"; out != want {
			t.Errorf("%s: output = %q, want %q", name, out, want)
		}
	}
}

func TestPrintedTests_RecordedOutput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		exit           int
		status         work.TestStatus
		passed, failed int
		says           string
	}{
		"gotest/build-failure-1.24.jsonl": {1, "failed", 1, 1, "exit code 1"},
		"gotest/interleaved.txt":          {0, "passed", 3, 0, ""},
		"gotest/panic-goroutine.jsonl":    {1, "failed", 0, 1, "exit code 1"},
		"gotest/real-a.jsonl":             {1, "failed", 1, 1, "exit code 1"},
		"gotest/real-c.jsonl":             {1, "failed", 0, 1, "exit code 1"},
		"gotest/real-d.jsonl":             {1, "failed", 1, 1, "exit code 1"},
		"gotest/real-e.jsonl":             {1, "failed", 0, 1, "exit code 1"},
		"gotest/rerun-fails.jsonl":        {0, "passed", 1, 0, "passed only when run again: x TestFlaky"},
		"tap/node-test.tap":               {1, "failed", 1, 1, "exit code 1"},
		"tap/plain-output.txt":            {0, "passed", 1, 0, ""},
		"tap/tap14-subtests.tap":          {0, "error", 1, 1, "Bail out! database is gone"},
	} {
		text, err := os.ReadFile(filepath.Join(recorded, name))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := run(t, work.Test{Command: printLines(strings.TrimSuffix(string(text), "\n")) + fmt.Sprintf("; exit %d", c.exit)})
		if got.Status != c.status || got.Passed != c.passed || got.Failed != c.failed || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: outcome = %+v, want %s with %d passed, %d failed and %q", name, got, c.status, c.passed, c.failed, c.says)
		}
	}
}

func TestLongOutputKeepsItsEnd(t *testing.T) {
	t.Parallel()
	got, out := run(t, work.Test{Command: "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1"})
	if !strings.HasSuffix(got.Detail, "line 2999") || len(got.Detail) > 2200 || !strings.Contains(out, "line 0\n") {
		t.Errorf("detail of %d bytes: %s", len(got.Detail), fmt.Sprintf("%.80s", got.Detail))
	}
}
