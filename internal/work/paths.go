package work

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a set of paths.
const (
	MaxPaths     = 64
	MaxPathBytes = 512
)

// WholeRepository is the path that covers every other.
const WholeRepository = "."

// anyDirectories is the segment of a glob that stands for any number of directories.
const anyDirectories = "**"

// PathSet is a set of paths of one repository: files, directories, globs, or
// the whole of it. The zero value is the empty set, which overlaps nothing.
//
// Each path covers itself and all below it. In a glob * is any text within one
// name, ? any one character of it, ** any number of directories; [abc] and {a,b}
// count as *, because such names are also those of real files.
type PathSet struct{ paths []repoPath }

// repoPath is a path in its normal form, and cut up.
type repoPath struct {
	text     string
	segments []segment
}

// segment is one name of a path.
type segment struct {
	text string
	glob []rune // nil for a plain name; * and ? are what they are in a glob
}

// NewPathSet returns the set of the given paths in their normal form: ./a and a//b
// are a and a/b, a/ and a/** are a, ** is the whole repository, case is kept. It
// returns ErrInvalid for a path that is empty, absolute, has a .. in it, or is
// no text, and for too many or too long ones.
func NewPathSet(paths ...string) (PathSet, error) {
	set, err := parsePaths(paths)
	if err == nil && len(set.paths) > MaxPaths {
		err = fmt.Errorf("%d paths, at most %d are allowed: name a directory that holds them: %w", len(set.paths), MaxPaths, ErrInvalid)
	}
	if err != nil {
		return PathSet{}, err
	}
	return set, nil
}

func parsePaths(texts []string) (PathSet, error) {
	var set PathSet
	for _, text := range texts {
		p, err := parsePath(text)
		if err != nil {
			return PathSet{}, err
		}
		set.paths = append(set.paths, p)
	}
	slices.SortFunc(set.paths, func(a, b repoPath) int { return strings.Compare(a.text, b.text) })
	set.paths = slices.CompactFunc(set.paths, func(a, b repoPath) bool { return a.text == b.text })
	return set, nil
}

// trusted is the set of paths that were valid once. Where they are not, it is
// the whole repository.
func trusted(texts []string) PathSet {
	set, err := parsePaths(texts)
	if err != nil {
		return PathSet{paths: []repoPath{{text: WholeRepository}}}
	}
	return set
}

// PathSet returns the paths that the item is to have for itself.
func (s Spec) PathSet() PathSet { return trusted(s.Paths) }

func parsePath(text string) (repoPath, error) {
	bad := func(why string) (repoPath, error) {
		shown := text[:min(len(text), MaxPathBytes)]
		return repoPath{}, fmt.Errorf("path %q: %s: %w", shown, why, ErrInvalid)
	}
	switch {
	case text == "":
		return bad(`it is empty; the whole repository is "."`)
	case len(text) > MaxPathBytes:
		return bad(fmt.Sprintf("it has %d bytes, at most %d are allowed", len(text), MaxPathBytes))
	case strings.HasPrefix(text, "/"):
		return bad("give it from the top of the repository, without a leading slash")
	case strings.Contains(text, `\`):
		return bad("separate directories by /")
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return bad("it is no text: control characters, or not UTF-8")
	}
	var names []string
	for name := range strings.SplitSeq(text, "/") {
		switch {
		case name == "..":
			return bad(".. is not allowed")
		case strings.Count(name, "{") != strings.Count(name, "}"):
			return bad("{ and } belong into one name")
		case name == "" || name == ".":
		case name == anyDirectories && len(names) > 0 && names[len(names)-1] == anyDirectories:
		default:
			names = append(names, name)
		}
	}
	if n := len(names); n > 0 && names[n-1] == anyDirectories {
		names = names[:n-1]
	}
	if len(names) == 0 {
		return repoPath{text: WholeRepository}, nil
	}
	p := repoPath{text: strings.Join(names, "/")}
	for _, name := range names {
		p.segments = append(p.segments, parseSegment(name))
	}
	return p, nil
}

// parseSegment takes what a class or a choice stands for as any text.
func parseSegment(name string) segment {
	s := segment{text: name}
	for rest := name; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if end := closing(rest, r); end > 0 {
			r, size = '*', end+1
		}
		rest = rest[size:]
		s.glob = append(s.glob, r)
	}
	if !slices.ContainsFunc(s.glob, func(r rune) bool { return r == '*' || r == '?' }) {
		s.glob = nil
	}
	return s
}

// closing returns where the bracket that text begins with is closed, 0 if it is
// not, or none.
func closing(text string, first rune) int {
	switch first {
	case '[':
		return max(0, strings.LastIndexByte(text, ']'))
	case '{':
		return max(0, strings.LastIndexByte(text, '}'))
	}
	return 0
}

// Empty reports whether the set has no path.
func (s PathSet) Empty() bool { return len(s.paths) == 0 }

// Strings returns the paths in their normal form, sorted.
func (s PathSet) Strings() []string {
	texts := make([]string, len(s.paths))
	for i, p := range s.paths {
		texts[i] = p.text
	}
	return texts
}

// String returns the paths as people read them.
func (s PathSet) String() string { return strings.Join(s.Strings(), ", ") }

// MarshalJSON writes the paths as a list of texts.
func (s PathSet) MarshalJSON() ([]byte, error) { return json.Marshal(s.Strings()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (s *PathSet) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return err
	}
	set, err := NewPathSet(texts...)
	if err == nil {
		*s = set
	}
	return err
}

// Overlaps reports whether there can be a file that both sets cover. In doubt it
// says that there is one.
func (s PathSet) Overlaps(other PathSet) bool {
	_, found := s.Overlap(other)
	return found
}

// Overlap returns the first path of the set that overlaps a path of the other.
func (s PathSet) Overlap(other PathSet) (path string, found bool) {
	for _, p := range s.paths {
		for _, q := range other.paths {
			if overlap(p.segments, q.segments) {
				return p.text, true
			}
		}
	}
	return "", false
}

// Covers reports whether the set covers every file that the other one does. In
// doubt it says no.
func (s PathSet) Covers(other PathSet) bool {
	for _, q := range other.paths {
		if !slices.ContainsFunc(s.paths, func(p repoPath) bool { return cover(p.segments, q.segments) }) {
			return false
		}
	}
	return true
}

// overlap reports whether some file lies below matches of both p and q. Whichever
// ends first covers all that the other can still say.
func overlap(p, q []segment) bool {
	for len(p) > 0 && len(q) > 0 && p[0].plain() && q[0].plain() {
		if p[0].text != q[0].text {
			return false
		}
		p, q = p[1:], q[1:]
	}
	return align(len(p), len(q), func(i, j int, rest func(i, j int) bool) bool {
		switch {
		case i == len(p) || j == len(q):
			return true
		case p[i].text == anyDirectories || q[j].text == anyDirectories:
			return rest(i+1, j) || rest(i, j+1)
		}
		return meet(p[i], q[j]) && rest(i+1, j+1)
	})
}

// cover reports whether p matches the beginning of whatever q matches.
func cover(p, q []segment) bool {
	return align(len(p), len(q), func(i, j int, rest func(i, j int) bool) bool {
		switch {
		case i == len(p):
			return true
		case p[i].text == anyDirectories:
			return rest(i+1, j) || j < len(q) && rest(i, j+1)
		}
		return j < len(q) && q[j].text != anyDirectories && includes(p[i], q[j]) && rest(i+1, j+1)
	})
}

// includes reports whether p matches every name that q matches.
func includes(p, q segment) bool {
	return p.text == q.text || p.text == "*" || q.plain() && string(p.glob) == p.text && meet(p, q)
}

// meet reports whether a name can match both segments.
func meet(a, b segment) bool {
	if a.plain() && b.plain() {
		return a.text == b.text
	}
	p, q := a.runes(), b.runes()
	return align(len(p), len(q), func(i, j int, rest func(i, j int) bool) bool {
		switch {
		case i < len(p) && p[i] == '*':
			return rest(i+1, j) || j < len(q) && rest(i, j+1)
		case j < len(q) && q[j] == '*':
			return rest(i, j+1) || i < len(p) && rest(i+1, j)
		case i == len(p) || j == len(q):
			return i == len(p) && j == len(q)
		}
		return (p[i] == q[j] || p[i] == '?' || q[j] == '?') && rest(i+1, j+1)
	})
}

// align compares two sequences of n and m parts from their ends on: step says
// whether they agree from i and j on, and may ask rest about what comes later.
func align(n, m int, step func(i, j int, rest func(i, j int) bool) bool) bool {
	known := make([]bool, (n+1)*(m+1))
	rest := func(i, j int) bool { return known[i*(m+1)+j] }
	for i := n; i >= 0; i-- {
		for j := m; j >= 0; j-- {
			known[i*(m+1)+j] = step(i, j, rest)
		}
	}
	return known[0]
}

func (s segment) plain() bool { return s.glob == nil }

func (s segment) runes() []rune {
	if s.plain() {
		return []rune(s.text)
	}
	return s.glob
}
