package testrun

import (
	"fmt"
	"strings"
)

// Bounds of what is kept of tests: names and numbers come from the agent's code.
const (
	maxKeys   = 32 << 20 // bytes of tests' names; tests that come after them are counted without looking for reruns
	maxNames  = 10       // of a list
	maxFaults = 5
	maxName   = 200 // bytes
	maxFault  = 400 // bytes
)

// Counts are what the tests of a run reported.
type Counts struct {
	Reports int      `json:"reports,omitempty"` // JUnit reports that were counted
	Passed  int      `json:"passed,omitempty"`
	Failed  int      `json:"failed,omitempty"`
	Flaky   int      `json:"flaky,omitempty"`   // of the passed ones: failed at first, and passed when they were run again
	Failing []string `json:"failing,omitempty"` // names of failed tests, the first of them
	Rerun   []string `json:"rerun,omitempty"`   // names of flaky tests, the first of them
	Faults  []string `json:"faults,omitempty"`  // why this is not the whole of what was tested
	Note    string   `json:"note,omitempty"`    // what else there is to say
}

func (c *Counts) fault(format string, args ...any) {
	if len(c.Faults) <= maxFaults {
		c.Faults = append(c.Faults, cut(fmt.Sprintf(format, args...), maxFault))
	}
}

func (c *Counts) add(more Counts) {
	c.Reports += more.Reports
	c.Passed += more.Passed
	c.Failed += more.Failed
	c.Flaky += more.Flaky
	c.Failing = append(c.Failing, more.Failing...)[:min(maxNames, len(c.Failing)+len(more.Failing))]
	c.Rerun = append(c.Rerun, more.Rerun...)[:min(maxNames, len(c.Rerun)+len(more.Rerun))]
	for _, fault := range more.Faults {
		c.fault("%s", fault)
	}
}

// problem joins the faults.
func (c *Counts) problem() string {
	if len(c.Faults) > maxFaults {
		return strings.Join(c.Faults[:maxFaults], "; ") + "; and more"
	}
	return strings.Join(c.Faults, "; ")
}

// named lists the names of n things of which names are the first.
func named(names []string, n int) string {
	text := strings.Join(names, ", ")
	if n > len(names) {
		text += fmt.Sprintf(" and %d more", n-len(names))
	}
	return text
}

// tries are the outcomes of tests that may be run more than once, in the order of the tests' first outcomes.
type tries struct {
	order    []string
	outcomes map[string]*tried
	kept     int // bytes of keys
	unnamed  tried
}

// tried is how the tries of one test ended.
type tried struct {
	passed, failed int
	last           bool // the last one passed
}

// add adds the outcome of one try. A test without a key is a test of its own.
func (t *tries) add(key string, passed bool) {
	test := t.outcomes[key]
	switch {
	case test != nil:
	case key == "" || t.kept+len(key) > maxKeys:
		test = &t.unnamed
	default:
		if t.outcomes == nil {
			t.outcomes = map[string]*tried{}
		}
		test = &tried{}
		t.outcomes[key] = test
		t.order = append(t.order, key)
		t.kept += len(key)
	}
	if test.last = passed; passed {
		test.passed++
	} else {
		test.failed++
	}
}

// counts counts the tests: one that failed and passed when it was run again is passed and flaky; one whose last try
// failed is failed once, however often it failed.
func (t *tries) counts() Counts {
	c := Counts{Passed: t.unnamed.passed, Failed: t.unnamed.failed}
	for _, key := range t.order {
		test := t.outcomes[key]
		c.Passed += test.passed
		switch {
		case !test.last:
			c.Failed++
			c.Failing = appendName(c.Failing, key)
		case test.failed > 0:
			c.Flaky++
			c.Rerun = appendName(c.Rerun, key)
		}
	}
	return c
}

// appendName adds a test's name: the last two parts of its key, which are its package or class and its own name.
func appendName(names []string, key string) []string {
	if len(names) >= maxNames {
		return names
	}
	parts := strings.FieldsFunc(key, func(r rune) bool { return r == '\x00' })
	name := strings.Join(parts[max(0, len(parts)-2):], " ")
	return append(names, cut(name, maxName))
}

// cut keeps the beginning of a text.
func cut(text string, most int) string { return strings.ToValidUTF8(text[:min(len(text), most)], "") }

// keySeparator separates the parts of a test's key. No name has it.
const keySeparator = "\x00"

func key(parts ...string) string { return strings.Join(parts, keySeparator) }
