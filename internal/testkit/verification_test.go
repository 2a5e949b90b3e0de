package testkit_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"drover/internal/testkit"
)

// goTest finds the runs of tests in a command: the pattern and the packages.
var goTest = regexp.MustCompile(`go test ([^&]*)`)

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// TestVerificationNamesTestsThatExist keeps docs/verification.md honest: go test
// is content with a pattern that matches nothing.
func TestVerificationNamesTestsThatExist(t *testing.T) {
	root := testkit.ModuleRoot(t)
	text, err := os.ReadFile(filepath.Join(root, "docs", "verification.md"))
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	for row := range strings.Lines(string(text)) {
		for _, command := range goTest.FindAllStringSubmatch(strings.ReplaceAll(row, "`", "&"), -1) {
			runs++
			checkRun(t, root, strings.Fields(command[1]))
		}
	}
	if runs == 0 {
		t.Fatal("no run of a test was found: this test reads the document wrongly")
	}
}

func checkRun(t *testing.T, root string, args []string) {
	t.Helper()
	pattern := ""
	for i, arg := range args {
		if arg == "-run" && i+1 < len(args) {
			pattern, _, _ = strings.Cut(strings.Trim(args[i+1], "'"), "/")
		}
	}
	for _, arg := range args {
		if !strings.HasPrefix(arg, "./") {
			continue
		}
		matched := false
		for _, name := range testsOf(t, filepath.Join(root, arg)) {
			matched = matched || regexp.MustCompile(pattern).MatchString(name)
		}
		if !matched {
			t.Errorf("go test %s: no test of %s matches %q", strings.Join(args, " "), arg, pattern)
		}
	}
}

func testsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testFunc.FindAllStringSubmatch(string(text), -1) {
			names = append(names, match[1])
		}
	}
	return names
}
