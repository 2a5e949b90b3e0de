package testrun

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzCounter counts tests in any text: never more than there are lines.
func FuzzCounter(f *testing.F) {
	for _, seed := range []string{
		"", `{"Action":"pass","Package":"a","Test":"TestX"}`, `{"Action":"fail","Test":1}`, "TAP version 13\n1..2\nok 1 - a\nnot ok 2 # TODO\n", "ok  \tpkg\t0.1s", "{", "ok", "not ok",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c counter
		lines := strings.Split(text, "\n")
		for _, line := range lines {
			c.line(line)
		}
		if c.passed < 0 || c.failed < 0 || c.passed+c.failed > len(lines) {
			t.Fatalf("%+v in %d lines", c, len(lines))
		}
	})
}

// FuzzReport counts tests in any report: what can't be read is an error, and no
// more is counted than there are elements.
func FuzzReport(f *testing.F) {
	for _, seed := range []string{
		"", "<testsuite><testcase/></testsuite>", `<testsuites><testsuite><testcase name="a"><failure/></testcase><testcase><skipped/></testcase><testcase><error>x</error></testcase></testsuite></testsuites>`,
		"<testcase>", "<?xml version='1.0' encoding='latin-1'?><testcase/>", "<a><![CDATA[<testcase/>]]></a>", "<testcase><testcase/></testcase>",
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { root.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "report.xml"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		var c counter
		err := c.report(root, "report.xml")
		if tests := strings.Count(string(data), "testcase"); c.passed < 0 || c.failed < 0 || c.passed+c.failed > tests {
			t.Fatalf("%+v of %d, %v", c, tests, err)
		}
	})
}
