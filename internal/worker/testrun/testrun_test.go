package testrun_test

import (
	"bytes"
	"fmt"
	"os"
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

func TestTestsAreCounted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines          []string
		passed, failed int
	}{
		"go test -json": {[]string{
			`{"Action":"run","Package":"a","Test":"TestX"}`, `{"Action":"pass","Package":"a","Test":"TestX"}`,
			`{"Action":"fail","Package":"a","Test":"TestY"}`, `{"Action":"skip","Package":"a","Test":"TestZ"}`, `{"Action":"fail","Package":"a"}`,
		}, 1, 1},
		"TAP":           {[]string{"TAP version 13", "1..5", "ok 1 - a", "not ok 2 - b", "ok 3", "ok 4 # SKIP no", "not ok 5 # TODO later", "    ok 1 - sub"}, 2, 1},
		"plain go test": {[]string{"ok  \texample.org/pkg\t0.1s", "--- FAIL: TestX (0.00s)"}, 0, 0},
	} {
		got, out := run(t, work.Test{Command: "printf '%s\\n' '" + strings.Join(c.lines, "' '") + "'"})
		if got.Status != work.TestPassed || got.Passed != c.passed || got.Failed != c.failed || got.Run != c.passed+c.failed {
			t.Errorf("%s: %+v", name, got)
		}
		if want := strings.Join(c.lines, "\n") + "\n"; out != want {
			t.Errorf("%s: output %q", name, out)
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
