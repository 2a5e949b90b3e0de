package testrun

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzCounter counts tests in any text: never more than it has brackets and lines.
func FuzzCounter(f *testing.F) {
	for _, seed := range []string{
		"", `{"Action":"pass","Package":"a","Test":"TestX"}`, `{"Action":"fail","Test":1}`, "TAP version 13\n1..2\nok 1 - a\nnot ok 2 # TODO\n", "ok  \tpkg\t0.1s", "{", "ok", "not ok",
		`x {"Action":"run","Package":"a","Test":"T"}{"Action":"fail","Package":"a"}`, "1..9\nBail out!",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var events goTest
		var points tap
		lines := strings.Split(text, "\n")
		for _, line := range lines {
			events.line(line)
			points.line(line)
		}
		c := events.counts()
		c.add(points.counts())
		if most := len(lines) + strings.Count(text, "{"); c.Passed < 0 || c.Failed < 0 || c.Flaky < 0 || c.Flaky > c.Passed || c.Passed+c.Failed > most {
			t.Fatalf("counts = %+v, want at most %d", c, most)
		}
	})
}

// FuzzReport counts tests in any report: what can't be read is an error, and no
// more is counted than there are elements.
func FuzzReport(f *testing.F) {
	for _, seed := range []string{
		"", "<testsuite><testcase/></testsuite>", `<testsuites><testsuite><testcase name="a"><failure/></testcase><testcase><skipped/></testcase><testcase><error>x</error></testcase></testsuite></testsuites>`,
		"<testcase>", "<?xml version='1.0' encoding='latin-1'?><testcase/>", "<a><![CDATA[<testcase/>]]></a>", "<testcase><testcase/></testcase>",
		"<testsuite><failure/></testsuite>", "\xff\xfe<\x00a\x00", "<a>&#27;&nbsp;&x;&</a>", "<?xml version='1.1' encoding='gbk'?><testsuite failures='1'/>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := readReport(bytes.NewReader(data))
		most := len(data) / len("<error/>")
		if c.Passed < 0 || c.Failed < 0 || c.Passed+c.Failed > most {
			t.Fatalf("counts = %+v, %v, want at most %d", c, err, most)
		}
		if err == nil && len(bytes.TrimSpace(data)) == 0 {
			t.Fatal("an empty report is read without an error")
		}
	})
}
