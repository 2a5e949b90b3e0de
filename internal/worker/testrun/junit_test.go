package testrun_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"drover/internal/work"
	"drover/internal/worker/testrun"
)

// recorded is where the reports lie that tools wrote.
const recorded = "../../cases/testdata"

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
	const failing = "tests failed: a fails, a breaks"
	for name, c := range map[string]struct {
		command, glob  string
		status         work.TestStatus
		passed, failed int
		says           string
	}{
		"one":                 {write("report.xml"), "report.xml", work.TestFailed, 2, 2, failing},
		"several":             {write("a/build/one.xml") + write("b/c/build/two.xml") + write("b/two.xml"), "**/build/*.xml", work.TestFailed, 4, 4, failing},
		"they come first":     {write("report.xml") + "printf '1..1\nok 1 - tap\n'", "*.xml", work.TestFailed, 2, 2, failing},
		"of an earlier run":   {write("report.xml") + write("old.xml") + "touch -d '1 hour ago' old.xml", "*.xml", work.TestFailed, 2, 2, failing},
		"none, output counts": {"printf '1..1\nok 1 - tap\n'", "*.xml", work.TestPassed, 1, 0, "no JUnit report of this run matches *.xml"},
		"none at all":         {"true", "*.xml", work.TestError, 0, 0, "no JUnit report of this run matches *.xml"},
		"none, and failed":    {"exit 1", "*.xml", work.TestFailed, 0, 0, "exit code 1; no JUnit report"},
		"another XML":         {"echo '<project><modules/></project>' >pom.xml", "*.xml", work.TestError, 0, 0, "no JUnit report of this run matches *.xml"},
		"beside another XML":  {write("report.xml") + "echo '<project/>' >pom.xml", "*.xml", work.TestFailed, 2, 2, failing},
		"empty":               {": >report.xml", "*.xml", work.TestError, 0, 0, "report report.xml: it is empty"},
		"cut short":           {write("report.xml") + "head -c 420 report.xml >cut.xml; rm report.xml", "*.xml", work.TestError, 2, 0, "report cut.xml: XML syntax error"},
		"a link leading away": {write("report.xml") + "ln -s /etc/passwd link.xml", "*.xml", work.TestFailed, 2, 2, failing},
		"tests that fail":     {write("report.xml") + "echo broken; exit 1", "*.xml", work.TestFailed, 2, 2, "exit code 1; broken"},
		"cut short, failed":   {"echo '<testsuite>' >report.xml; exit 1", "*.xml", work.TestFailed, 0, 0, "report report.xml: XML syntax error"},
	} {
		got, _ := run(t, work.Test{Command: c.command, JUnit: c.glob})
		if got.Status != c.status || got.Passed != c.passed || got.Failed != c.failed || got.Run != c.passed+c.failed || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: outcome = %+v, want %s with %d passed, %d failed and %q", name, got, c.status, c.passed, c.failed, c.says)
		}
	}
}

// count counts one report.
func count(t *testing.T, text []byte) testrun.Counts {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "r.xml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return testrun.CountReports(dir, "r.xml", time.Now())
}

func checkCounts(t *testing.T, name string, got testrun.Counts, want string) {
	t.Helper()
	text := fmt.Sprintf("%d/%d", got.Passed, got.Failed)
	if got.Flaky > 0 {
		text += fmt.Sprintf(" flaky %s", strings.Join(got.Rerun, ", "))
	}
	if len(got.Faults) > 0 {
		text += " fault: " + strings.Join(got.Faults, "; ")
	}
	if text != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(text, strings.TrimSuffix(want, "…"))) {
		t.Errorf("%s: counts = %s, want %s", name, text, want)
	}
}

func TestJUnit_RecordedReports(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"bad-utf8-name.xml":       "2/1",
		"catch2-doctype.xml":      "1/0",
		"charref-esc.xml":         "2/1",
		"gtest-disabled.xml":      "1/0",
		"html-entity.xml":         "1/1",
		"pytest.xml":              "1/2",
		"raw-esc.xml":             "2/1",
		"retry-two-testcases.xml": "1/0 flaky acme.FlakyTest flaky()",
		"status-attr.xml":         "1/2",
		"surefire-flaky.xml":      "2/1 flaky MicrosoftTeamsCrudTest createWebhook",
		"truncated.xml":           "1/1 fault: report r.xml: XML syntax error…",
		"utf8-bom.xml":            "1/1",
	} {
		text, err := os.ReadFile(filepath.Join(recorded, "junit", name))
		if err != nil {
			t.Fatal(err)
		}
		checkCounts(t, name, count(t, text), want)
	}
}

func utf16Text(order binary.ByteOrder, mark bool, text string) []byte {
	var out bytes.Buffer
	units := utf16.Encode([]rune(text))
	if mark {
		units = append([]uint16{0xFEFF}, units...)
	}
	_ = binary.Write(&out, order, units) // into memory
	return out.Bytes()
}

func TestJUnit_Encodings(t *testing.T) {
	t.Parallel()
	const body = `<testsuite name="ä"><testcase name="日"/><testcase name="b"><failure message="ß"/></testcase></testsuite>`
	declared := func(encoding string) string { return `<?xml version="1.0" encoding="` + encoding + `"?>` }
	for name, text := range map[string][]byte{
		"UTF-16LE with a mark":         utf16Text(binary.LittleEndian, true, declared("utf-16")+body),
		"UTF-16BE with a mark":         utf16Text(binary.BigEndian, true, declared("UTF-16")+body),
		"UTF-16LE without a mark":      utf16Text(binary.LittleEndian, false, declared("UTF-16LE")+body),
		"UTF-16BE without declaration": utf16Text(binary.BigEndian, false, body),
		"UTF-8 that says UTF-16":       []byte(declared("utf-16") + body),
		"Latin 1":                      []byte(declared("ISO-8859-1") + "<testsuite name=\"\xe4\"><testcase name=\"a\"/><testcase name=\"b\"><failure/></testcase></testsuite>"),
		"Shift JIS":                    []byte(declared("Shift_JIS") + "<testsuite><testcase name=\"\x93\xfa\"/><testcase name=\"b\"><failure/></testcase></testsuite>"),
		"XML 1.1":                      []byte(`<?xml version="1.1"?>` + body),
		"leading space":                []byte("\n  " + declared("UTF-8") + body),
		"no declaration":               []byte(body),
		"cut in a character":           []byte(strings.Replace(body, "ß", "\xc3", 1)),
		"NUL":                          []byte(strings.Replace(body, "ß", "\x00\x01", 1)),
		"reference to NUL":             []byte(strings.Replace(body, "ß", "&#0;&#xFFFF;&#xD800;", 1)),
		"reference out of range":       []byte(strings.Replace(body, "ß", "&#99999999999;", 1)),
		"bare ampersand":               []byte(strings.Replace(body, "ß", "a && b & c&d;", 1)),
		"entity of a DOCTYPE":          []byte(`<!DOCTYPE t [<!ENTITY own "x">]>` + strings.Replace(body, "ß", "&own;", 1)),
		"CDATA":                        []byte(strings.Replace(body, `<failure message="ß"/>`, "<failure><![CDATA[\x1b[31m & <b>]]></failure>", 1)),
	} {
		checkCounts(t, name, count(t, text), "1/1")
	}
	checkCounts(t, "unknown encoding", count(t, []byte(declared("x-none")+body)), `0/0 fault: report r.xml: its encoding "x-none" is not known`)
}

func TestJUnit_Elements(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`<testsuite><testcase name="a" status="notrun"/><testcase name="b" status="run"/></testsuite>`:                                                              "1/0",
		`<testsuite><testcase name="a" status="fail"/><testcase name="b" status="run" result="completed"/></testsuite>`:                                             "1/1",
		`<testsuite><testcase name="a"><ignored/></testcase><testcase name="b"><disabled/></testcase></testsuite>`:                                                  "0/0",
		`<testsuite><testcase name="a" result="Skipped"/><testcase name="b" status="DISABLED"/></testsuite>`:                                                        "0/0",
		`<testsuite><testcase name="a"><skipped/><failure/></testcase></testsuite>`:                                                                                 "0/1",
		`<testsuite><testcase name="a"><flakyError/><rerunError/></testcase></testsuite>`:                                                                           "1/0 flaky a",
		`<testsuite name="s"><testcase name="a"><failure/></testcase><testcase name="a"><error/></testcase></testsuite>`:                                            "0/1",
		`<testsuite name="s"><testcase name="a"/><testcase name="a"><failure/></testcase></testsuite>`:                                                              "1/1",
		`<testsuite name="s"><testcase name="a"/><testcase name="a"/></testsuite>`:                                                                                  "2/0",
		`<testsuites><testsuite name="s"><testcase name="a"><failure/></testcase></testsuite><testsuite name="s"><testcase name="a"/></testsuite></testsuites>`:     "1/0 flaky s a",
		`<testsuites><testsuite name="s"><testcase name="a"><failure/></testcase></testsuite><testsuite name="other"><testcase name="a"/></testsuite></testsuites>`: "1/1",
		`<testsuite><testcase name="a" file="x"><failure/></testcase><testcase name="a" file="y"/></testsuite>`:                                                     "1/1",
		`<testsuite><testcase><failure/></testcase><testcase/></testsuite>`:                                                                                         "1/1",
		`<testsuite errors="1"><error>no database</error></testsuite>`:                                                                                              "0/1",
		`<testsuite name="s" failures="2"><testcase name="a"/></testsuite>`:                                                                                         `1/0 fault: the suite "s" counts 2 failures and lists none`,
		`<testsuites failures="1"><testsuite name="s" errors="1"/></testsuites>`:                                                                                    `0/0 fault: the suite "s" counts 1 failures and lists none`,
		`<testsuite failures="x"><testcase name="a"/></testsuite>`:                                                                                                  "1/0",
		`<testrun><testcase name="a"/></testrun>`:                                                                                                                   "1/0",
		`<testsuite><testcase name="a"></testsuite>`:                                                                                                                "0/0 fault: report r.xml: XML syntax error…",
		`<testsuite/><testsuite><testcase name="a"><failure>`:                                                                                                       "0/0 fault: report r.xml: XML syntax error…",
		`not XML`: "0/0 fault: report r.xml: it has no XML element",
		" \n":     "0/0 fault: report r.xml: it has no XML element",
		"":        "0/0 fault: report r.xml: it is empty",
	} {
		checkCounts(t, text, count(t, []byte(text)), want)
	}
}
