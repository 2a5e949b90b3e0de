package testrun

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what is read of reports: they are written by the agent's code.
const (
	maxReports     = 2000
	maxReportBytes = 64 << 20
)

// clockSlack is by how much a file system's clock may lag behind the process's.
const clockSlack = time.Second

var (
	errEmpty  = errors.New("it is empty")
	errNoXML  = errors.New("it has no XML element")
	errTooBig = fmt.Errorf("it is larger than %d MiB", maxReportBytes>>20)
)

// CountReports counts the tests in the JUnit XML reports below dir whose slash-separated path matches pattern, and that
// were written since began: older ones are of another run. What can't be read is a fault of the counts.
func CountReports(dir, pattern string, began time.Time) (c Counts) {
	root, err := os.OpenRoot(dir) // no link leads out of it
	if err != nil {
		c.fault("reports: %v", err)
		return c
	}
	defer root.Close()
	files, err := reportFiles(root, pattern, began, &c)
	if err != nil {
		c.fault("find reports: %v", err)
	}
	for _, name := range files {
		counts, err := countReport(root, name)
		if err != nil {
			counts.fault("report %s: %v", name, err)
		}
		c.add(counts)
	}
	return c
}

// reportFiles returns the paths that match. A directory that can't be read is a fault if a report may be in it.
func reportFiles(root *os.Root, pattern string, began time.Time, c *Counts) (files []string, err error) {
	elements := strings.Split(pattern, "/")
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		parts := strings.Split(name, "/")
		switch {
		case name == ".":
			return err
		case entry.IsDir() && (entry.Name() == ".git" || !matchesBelow(elements, parts)):
			return fs.SkipDir
		case err != nil && entry.IsDir():
			c.fault("reports: %v", err)
			return fs.SkipDir
		case err != nil || !entry.Type().IsRegular() || !matches(elements, parts):
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || info.ModTime().Before(began.Add(-clockSlack)) {
			return err
		}
		if len(files) == maxReports {
			return fmt.Errorf("there are more than %d", maxReports)
		}
		files = append(files, name)
		return nil
	})
	return files, err
}

// countReport counts the tests of one report; none of a file that is another kind of XML.
func countReport(root *os.Root, name string) (Counts, error) {
	file, err := root.Open(name)
	if err != nil {
		return Counts{}, err
	}
	defer file.Close()
	return readReport(&limited{in: file, left: maxReportBytes})
}

// readReport counts the tests of a report. With an error, it returns what was counted until then.
func readReport(in io.Reader) (Counts, error) {
	text, err := xmlText(in)
	if err != nil {
		return Counts{}, err
	}
	decoder := xml.NewDecoder(text)
	decoder.Entity = xml.HTMLEntity
	r := &report{decoder: decoder}
	for err == nil {
		var token xml.Token
		if token, err = decoder.Token(); err == nil {
			err = r.token(token)
		}
	}
	c := r.tries.counts()
	switch {
	case !errors.Is(err, io.EOF):
		return c, err
	case r.root == "":
		return c, errNoXML
	case !r.isReport:
		return Counts{}, nil
	}
	c.Reports = 1
	c.Faults = r.faults
	c.Flaky += len(r.flaky)
	for _, name := range r.flaky {
		c.Rerun = appendName(c.Rerun, name)
	}
	return c, nil
}

// report is a report that is being read.
type report struct {
	decoder  *xml.Decoder
	root     string // name of the first element
	isReport bool
	suites   []suite // those that are open, outermost first
	tries    tries
	flaky    []string // keys of tests whose own element tells of tries that failed
	faults   []string
}

// suite is an element that holds tests.
type suite struct {
	name    string
	claimed int // failures and errors that its attributes count
	listed  int // failures that its tests tell of
}

// testCase is a test: the shapes of Ant, Surefire, Gradle, pytest, GoogleTest, CTest and Catch2.
type testCase struct {
	Name      string `xml:"name,attr"`
	Classname string `xml:"classname,attr"`
	File      string `xml:"file,attr"`
	Line      string `xml:"line,attr"`
	Status    string `xml:"status,attr"`
	Result    string `xml:"result,attr"`

	Failure  []struct{} `xml:"failure"`
	Error    []struct{} `xml:"error"`
	Skipped  *struct{}  `xml:"skipped"`
	Ignored  *struct{}  `xml:"ignored"`
	Disabled *struct{}  `xml:"disabled"`
	// Surefire tells so of tries before the last.
	FlakyFailure []struct{} `xml:"flakyFailure"`
	FlakyError   []struct{} `xml:"flakyError"`
	RerunFailure []struct{} `xml:"rerunFailure"`
	RerunError   []struct{} `xml:"rerunError"`
}

// What the attributes status and result say of a test that did not run, and of one that failed.
var (
	notRun  = []string{"notrun", "not_run", "disabled", "skipped", "skip", "suppressed", "ignored", "pending", "todo"}
	badEnds = []string{"fail", "failed", "failure", "error", "errored", "broken", "timeout"}
)

func (t *testCase) failed() bool {
	return len(t.Failure)+len(t.Error) > 0 || slices.Contains(badEnds, strings.ToLower(t.Status)) || slices.Contains(badEnds, strings.ToLower(t.Result))
}

func (t *testCase) left() bool {
	return t.Skipped != nil || t.Ignored != nil || t.Disabled != nil ||
		slices.Contains(notRun, strings.ToLower(t.Status)) || slices.Contains(notRun, strings.ToLower(t.Result))
}

func (t *testCase) tries() int {
	return len(t.FlakyFailure) + len(t.FlakyError) + len(t.RerunFailure) + len(t.RerunError)
}

func (r *report) token(token xml.Token) error {
	switch t := token.(type) {
	case xml.StartElement:
		return r.start(t)
	case xml.EndElement:
		if isSuite(t.Name.Local) {
			r.endSuite()
		}
	}
	return nil
}

func isSuite(name string) bool { return name == "testsuite" || name == "testsuites" }

func (r *report) start(element xml.StartElement) error {
	name := element.Name.Local
	r.root = cmp.Or(r.root, name)
	switch {
	case isSuite(name):
		r.isReport = true
		r.suites = append(r.suites, newSuite(element))
	case name == "testcase":
		r.isReport = true
		var test testCase
		if err := r.decoder.DecodeElement(&test, &element); err != nil {
			return err
		}
		r.test(test)
	case len(r.suites) > 0 && (name == "failure" || name == "error"): // of the suite itself: it could not be set up
		r.listed(1)
		r.tries.add("", false)
		return r.decoder.Skip()
	case name == "properties" || name == "system-out" || name == "system-err":
		return r.decoder.Skip()
	}
	return nil
}

func newSuite(element xml.StartElement) suite {
	var s suite
	for _, a := range element.Attr {
		switch a.Name.Local {
		case "name":
			s.name = a.Value
		case "failures", "errors":
			n, _ := strconv.Atoi(strings.TrimSpace(a.Value)) // what is no number claims nothing
			s.claimed += max(n, 0)
		}
	}
	return s
}

// endSuite finds fault with a suite that counts failures and lists none: they must not vanish.
func (r *report) endSuite() {
	s := r.suites[len(r.suites)-1]
	r.suites = r.suites[:len(r.suites)-1]
	if s.claimed > 0 && s.listed == 0 && len(r.faults) < maxFaults {
		r.faults = append(r.faults, fmt.Sprintf("the suite %q counts %d failures and lists none", s.name, s.claimed))
		r.listed(1) // the suites around it need not say so again
	}
}

func (r *report) listed(n int) {
	for i := range r.suites {
		r.suites[i].listed += n
	}
}

func (r *report) test(t testCase) {
	failed := t.failed()
	if failed {
		r.listed(1)
	} else {
		r.listed(t.tries())
	}
	k := ""
	if t.Name != "" {
		parts := make([]string, 0, len(r.suites)+4)
		for _, s := range r.suites {
			if s.name != t.Classname {
				parts = append(parts, s.name)
			}
		}
		k = key(append(parts, t.File, t.Line, t.Classname, t.Name)...)
	}
	switch {
	case failed:
		r.tries.add(k, false)
	case t.left():
	default:
		r.tries.add(k, true)
		if t.tries() > 0 {
			r.flaky = append(r.flaky, k)
		}
	}
}

// limited reads at most so many bytes; more are an error, where io.LimitReader would cut the report short.
type limited struct {
	in   io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if l.left -= n; l.left < 0 {
		return 0, errTooBig
	}
	return n, err
}

// matches reports whether the elements of a path match those of a pattern, of
// which ** stands for any number.
func matches(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == "**":
		return matches(pattern[1:], name) || (len(name) > 0 && matches(pattern, name[1:]))
	case len(name) == 0:
		return false
	}
	ok, _ := path.Match(pattern[0], name[0]) // a malformed pattern was refused with the item, and matches nothing
	return ok && matches(pattern[1:], name[1:])
}

// matchesBelow reports whether a path below the directory dir may match.
func matchesBelow(pattern, dir []string) bool {
	switch {
	case len(dir) == 0:
		return len(pattern) > 0
	case len(pattern) == 0:
		return false
	case pattern[0] == "**":
		return true
	}
	ok, _ := path.Match(pattern[0], dir[0]) // as above
	return ok && matchesBelow(pattern[1:], dir[1:])
}
