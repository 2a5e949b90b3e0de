package testrun_test

import (
	"strings"
	"testing"

	"drover/internal/work"
)

// report is of the shape that Maven's Surefire, Gradle and pytest --junitxml write.
const report = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites><testsuite name="a" tests="5" failures="1" errors="1" skipped="1">
  <properties><property name="k" value="v"/></properties>
  <testcase classname="a" name="passes" time="0.1"><system-out>said</system-out></testcase>
  <testcase classname="a" name="passes again"><rerunFailure message="at first"/></testcase>
  <testcase classname="a" name="fails"><failure message="no">at line 3</failure></testcase>
  <testcase classname="a" name="breaks"><error type="E"/></testcase>
  <testcase classname="a" name="is left out"><skipped/></testcase>
</testsuite></testsuites>`

func TestJUnitReportsAreCounted(t *testing.T) {
	t.Parallel()
	write := func(path string) string {
		return "mkdir -p $(dirname " + path + ") && cat >" + path + " <<'END'\n" + report + "\nEND\n"
	}
	for name, c := range map[string]struct {
		command, glob  string
		passed, failed int
		says           string
	}{
		"one":                 {write("report.xml"), "report.xml", 2, 2, ""},
		"several":             {write("a/build/one.xml") + write("b/c/build/two.xml") + write("b/two.xml"), "**/build/*.xml", 4, 4, ""},
		"they come first":     {write("report.xml") + "echo 'ok 1 - tap'", "*.xml", 2, 2, ""},
		"of an earlier run":   {write("report.xml") + write("old.xml") + "touch -d '1 hour ago' old.xml", "*.xml", 2, 2, ""},
		"none":                {"echo 'ok 1 - tap'", "*.xml", 1, 0, "no report of this run matches *.xml"},
		"cut short":           {write("report.xml") + "head -c 420 report.xml >cut.xml; rm report.xml", "*.xml", 2, 0, "report cut.xml: XML syntax error"},
		"a link leading away": {write("report.xml") + "ln -s /etc/passwd link.xml", "*.xml", 2, 2, ""},
		"tests that fail":     {write("report.xml") + "echo broken; exit 1", "*.xml", 2, 2, "exit code 1; broken"},
	} {
		got, _ := run(t, work.Test{Command: c.command, JUnit: c.glob})
		if got.Passed != c.passed || got.Failed != c.failed || got.Run != c.passed+c.failed || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: %+v", name, got)
		}
		if c.says == "" && got.Detail != "" {
			t.Errorf("%s: %s", name, got.Detail)
		}
	}
}
