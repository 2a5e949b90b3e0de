package work_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"drover/internal/work"
)

func paths(t interface{ Fatal(...any) }, texts ...string) work.PathSet {
	set, err := work.NewPathSet(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestPathsAreNormalised(t *testing.T) {
	for given, want := range map[string]string{
		"a": "a", "./a": "a", "a//b": "a/b", "a/": "a", "a/./b": "a/b", "A/b": "A/b", ".": ".", "./": ".", "**": ".", "**/**": ".",
		"a/**": "a", "a/**/**/b": "a/**/b", "**/*.go": "**/*.go", ".github": ".github", "a b/ü": "a b/ü", "..a/b..": "..a/b..",
		"{{cookiecutter.name}}/x": "{{cookiecutter.name}}/x",
	} {
		if got := paths(t, given).Strings(); !slices.Equal(got, []string{want}) {
			t.Errorf("%q became %q, want %q", given, got, want)
		}
	}
	if got := paths(t, "b", "a/", "./b", "a").String(); got != "a, b" {
		t.Error(got)
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	for given, says := range map[string]string{
		"": "empty", "/a": "leading slash", "..": ".. is not", "a/../b": ".. is not", "a/..": ".. is not", "a\x00b": "no text", "a\nb": "no text",
		"a\xff": "no text", `a\b`: "separate", strings.Repeat("a", work.MaxPathBytes+1): "513 bytes", "{a/b,c}/d": "one name",
	} {
		_, err := work.NewPathSet("fine", given)
		if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v", given, err)
		}
		spec := work.Spec{Repository: "https://forge.example/a/b.git", Task: "x", Paths: []string{given}}
		if err := spec.Validate(); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "paths: path ") {
			t.Errorf("item with %.20q: %v", given, err)
		}
	}
	var many []string
	for i := range work.MaxPaths + 1 {
		many = append(many, fmt.Sprint("dir/", i))
	}
	if _, err := work.NewPathSet(many...); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "65 paths") {
		t.Error(err)
	}
	if got := paths(t, many[:work.MaxPaths]...).Strings(); len(got) != work.MaxPaths {
		t.Error(len(got))
	}
}

func TestOverlapOfPaths(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b/c", true}, {"a/b", "a/c", false}, {"a", "ab", false}, {"A", "a", false},
		{".", "a/b", true}, {".", ".", true}, {"a/*", "a/b", true}, {"a/*", "b/c", false}, {"a/*", "a", true},
		{"*.go", "main.go", true}, {"*.go", "main.js", false}, {"*.go", "a/main.go", false}, {"**/*.go", "a/b/main.go", true},
		{"**/*.go", "a/b/main.js", true} /* which may be a directory */, {"**/*.go", "a/b", true}, {"src/*.go", "src/*.js", false}, {"src/a*", "src/*b", true},
		{"src/?", "src/ab", false}, {"src/??", "src/a*", true}, {"a/**/z", "a/z", true}, {"a/**/z", "a/b/c/z/d", true}, {"a/**/z", "b/z", false},
		{"**/test", "**/docs", true}, {"[ab].go", "a.go", true}, {"[id].tsx", "[id].tsx", true}, {"{a,b}/c", "a/c", true}, {"{a,b}/c", "a/d", false},
		{"[", "[", true}, {"[", "]", false}, {"a/*/c", "a/b", true}, {"a/*/c", "a/b/d", false},
	} {
		if got := paths(t, c.a).Overlaps(paths(t, c.b)); got != c.want {
			t.Errorf("%s and %s overlap: %v", c.a, c.b, got)
		}
	}
	if paths(t).Overlaps(paths(t, ".")) || !paths(t).Empty() {
		t.Error("the empty set overlaps")
	}
	if path, _ := paths(t, "x", "y/z").Overlap(paths(t, "w", "y")); path != "y/z" {
		t.Error(path)
	}
}

func TestCoverOfPaths(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a/b", true}, {"a/b", "a", false}, {".", "**/*.go", true}, {"**/*.go", ".", false}, {"*.go", "a.go", true}, {"a*", "ab*", false},
		{"*", "ab*", true}, {"a/**/z", "a/b/z", true}, {"a/b/z", "a/**/z", false}, {"**/z", "**/z", true}, {"[ab]", "c", false}, {"[ab]", "[ab]", true},
	} {
		if got := paths(t, c.a).Covers(paths(t, c.b)); got != c.want {
			t.Errorf("%s covers %s: %v", c.a, c.b, got)
		}
	}
}

// names and globs of a small alphabet, so that they often meet.
var (
	someFile = rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{1,2}`), 1, 4).Draw(t, "names"), "/")
	})
	somePath = rapid.Custom(func(t *rapid.T) string {
		name := rapid.OneOf(rapid.StringMatching(`[ab]{1,2}`), rapid.StringMatching(`[ab*?]{1,3}`), rapid.Just("**"), rapid.Just("[ab]"), rapid.Just("{a,bb}"))
		return strings.Join(rapid.SliceOfN(name, 1, 4).Draw(t, "names"), "/")
	})
	someSet = rapid.SliceOfN(somePath, 0, 3)
)

// covered says by other means whether a file is one of a path's.
func covered(path, file string) bool {
	if path == work.WholeRepository {
		return true
	}
	pattern := ""
	for _, part := range regexp.MustCompile(`\*\*/|\*\*|\*|\?|\[ab\]|\{a,bb\}|[^*?]`).FindAllString(path, -1) {
		switch part {
		case "**/":
			pattern += "([^/]+/)*"
		case "**":
			pattern += ".*"
		case "*":
			pattern += "[^/]*"
		case "?":
			pattern += "[^/]"
		case "{a,bb}":
			pattern += "(a|bb)"
		default:
			pattern += part
		}
	}
	return regexp.MustCompile(`^` + pattern + `(/.*)?$`).MatchString(file)
}

func TestOverlapOfAnyPaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := someSet.Draw(t, "a"), someSet.Draw(t, "b")
		p, q := paths(t, a...), paths(t, b...)
		if p.Overlaps(q) != q.Overlaps(p) {
			t.Fatal("not symmetric")
		}
		if !p.Empty() && !p.Overlaps(p) || !p.Covers(p) {
			t.Fatal("does not overlap and cover itself")
		}
		if p.Covers(q) && !q.Empty() && !p.Overlaps(q) {
			t.Fatal("covers, and does not overlap")
		}
		file := someFile.Draw(t, "file")
		is := func(path string) bool { return covered(path, file) }
		inA, inB := slices.ContainsFunc(p.Strings(), is), slices.ContainsFunc(q.Strings(), is)
		if inA && inB && !p.Overlaps(q) {
			t.Fatalf("both cover %s, and do not overlap", file)
		}
		if p.Covers(q) && inB && !inA {
			t.Fatalf("the first covers the second, but not its file %s", file)
		}
		data, err := json.Marshal(p)
		var again work.PathSet
		if err != nil || json.Unmarshal(data, &again) != nil || !slices.Equal(p.Strings(), again.Strings()) {
			t.Fatalf("%s became %v", data, again)
		}
	})
}
