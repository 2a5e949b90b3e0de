package testrun

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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

var errTooMany = fmt.Errorf("more than %d reports", maxReports)

// testCase is a test in a JUnit XML report. Failures of tries that a later one
// made good have elements of other names.
type testCase struct {
	Failure *struct{} `xml:"failure"`
	Error   *struct{} `xml:"error"`
	Skipped *struct{} `xml:"skipped"`
}

// junit counts the tests in the JUnit XML reports below dir whose slash-separated
// path matches pattern, and that were written since began: older ones are of
// another run. It returns how many reports there were.
func (c *counter) junit(dir, pattern string, began time.Time) (reports int, err error) {
	root, err := os.OpenRoot(dir) // no link leads out of it
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var faults []error
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case !entry.Type().IsRegular() || !matches(strings.Split(pattern, "/"), strings.Split(name, "/")):
			return nil
		}
		info, err := entry.Info()
		if err != nil || info.ModTime().Before(began.Add(-clockSlack)) {
			return err
		}
		if reports++; reports > maxReports {
			return errTooMany
		}
		if err := c.report(root, name); err != nil {
			faults = append(faults, fmt.Errorf("report %s: %w", name, err))
		}
		return nil
	})
	return reports, errors.Join(append(faults, err)...)
}

// report counts the tests of one report.
func (c *counter) report(root *os.Root, name string) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	for decoder := xml.NewDecoder(io.LimitReader(file, maxReportBytes)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "testcase" {
			continue
		}
		var test testCase
		if err := decoder.DecodeElement(&test, &start); err != nil {
			return err
		}
		switch {
		case test.Failure != nil || test.Error != nil:
			c.failed++
		case test.Skipped == nil:
			c.passed++
		}
	}
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
