package testrun

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// counter counts tests: in the output of go test -json, in TAP and in JUnit's reports.
type counter struct {
	passed, failed int
}

// orReports returns the counts of the reports, if the tests write some, and else
// its own. The error says why reports don't count.
func (c counter) orReports(o Options, began time.Time) (counter, error) {
	if o.Test.JUnit == "" {
		return c, nil
	}
	var reported counter
	reports, err := reported.junit(o.Dir, o.Test.JUnit, began)
	if reports > 0 {
		return reported, err
	}
	if err == nil {
		err = fmt.Errorf("no report of this run matches %s", o.Test.JUnit)
	}
	return c, err
}

func (c *counter) line(line string) {
	if strings.HasPrefix(line, "{") {
		c.goTest(line)
		return
	}
	c.tap(line)
}

// goTest reads an event of go test -json. Events without a test are about a package.
func (c *counter) goTest(line string) {
	var event struct{ Action, Package, Test string }
	if json.Unmarshal([]byte(line), &event) != nil || event.Test == "" {
		return
	}
	switch event.Action {
	case "pass":
		c.passed++
	case "fail":
		c.failed++
	}
}

// tap reads a line of the Test Anything Protocol. Subtests are indented and
// counted by their parent; skipped tests and those still to be written don't count.
func (c *counter) tap(line string) {
	upper := strings.ToUpper(line)
	if strings.Contains(upper, "# SKIP") || strings.Contains(upper, "# TODO") {
		return
	}
	switch {
	case line == "ok" || strings.HasPrefix(line, "ok ") && tapPoint(line[len("ok "):]):
		c.passed++
	case line == "not ok" || strings.HasPrefix(line, "not ok "):
		c.failed++
	}
}

// tapPoint tells a test point ("ok 3 - adds") from a line of plain go test ("ok  	example.org/pkg	0.1s").
func tapPoint(rest string) bool {
	return rest != "" && (rest[0] >= '0' && rest[0] <= '9' || rest[0] == '-')
}
