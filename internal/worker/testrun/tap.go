package testrun

import (
	"regexp"
	"strconv"
	"strings"
)

// tap counts the test points of the Test Anything Protocol (testanything.org, versions 12 to 14). Subtests are
// indented and count as their parent. Lines that look like test points are common in other output: where neither a
// version nor a plan says that the protocol is spoken, only points that are numbered from 1 count.
type tap struct {
	spoken   bool // a version or a plan was seen
	planned  int
	plans    int
	all      tapPoints
	numbered tapPoints
	number   int    // of the last of the numbered ones
	bailed   string // why it was given up
	gaveUp   bool
}

// tapPoints are top-level test points.
type tapPoints struct {
	seen    int // those that don't count among them
	passed  int
	failed  int
	failing []string // names, the first of them
}

func (p *tapPoints) add(ok bool, description, name string) {
	p.seen++
	switch {
	case tapDirective.MatchString(description): // skipped, or still to be written
	case ok:
		p.passed++
	default:
		p.failed++
		p.failing = appendName(p.failing, name)
	}
}

var (
	tapVersion   = regexp.MustCompile(`^TAP version \d+\s*$`)
	tapPlan      = regexp.MustCompile(`^1\.\.(\d+)\s*(#.*)?$`)
	tapPoint     = regexp.MustCompile(`^(not )?ok(?:$|\s+)(\d*)(?:\s*-\s*)?(.*)$`)
	tapDirective = regexp.MustCompile(`(?i)(?:^|[^\\])#\s*(?:SKIP\S*|TODO\b)`)
	tapBail      = regexp.MustCompile(`^Bail out!\s*(.*)$`)
)

func (t *tap) line(line string) {
	if tapVersion.MatchString(line) {
		t.spoken = true
		return
	}
	if plan := tapPlan.FindStringSubmatch(line); plan != nil {
		n, err := strconv.Atoi(plan[1])
		if err != nil {
			return
		}
		t.spoken, t.plans, t.planned = true, t.plans+1, t.planned+n
		return
	}
	if bail := tapBail.FindStringSubmatch(line); bail != nil {
		t.gaveUp, t.bailed = true, strings.TrimSpace(bail[1])
		return
	}
	const goTestSummary = "ok  \t" // of a package
	if strings.HasPrefix(line, goTestSummary) {
		return
	}
	if point := tapPoint.FindStringSubmatch(line); point != nil {
		t.point(point[1] == "", point[2], point[3])
	}
}

func (t *tap) point(ok bool, number, description string) {
	name := strings.Join(strings.Fields(number+" "+description), " ")
	t.all.add(ok, description, name)
	if n, _ := strconv.Atoi(number); n == 1 || n > 1 && n == t.number+1 { // 1 begins another script's
		t.number = n
		t.numbered.add(ok, description, name)
	}
}

func (t *tap) counts() Counts {
	if !t.spoken {
		return t.numbered.counts()
	}
	c := t.all.counts()
	switch {
	case t.gaveUp:
		c.fault("TAP: the tests were given up: %s", strings.TrimSpace("Bail out! "+t.bailed))
	case t.plans == 0:
		c.fault("TAP: the output has no plan, so that its end may be missing")
	case t.all.seen < t.planned:
		c.fault("TAP: %d tests are planned, and only %d ran", t.planned, t.all.seen)
	}
	return c
}

func (p *tapPoints) counts() Counts {
	return Counts{Passed: p.passed, Failed: p.failed, Failing: p.failing}
}
