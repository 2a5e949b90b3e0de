package work_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"drover/internal/work"
)

// FuzzPaths makes sets of paths. What is taken is its own normal form, overlaps
// and covers itself, and overlapping knows no order.
func FuzzPaths(f *testing.F) {
	for _, seed := range [][2]string{
		{"a", "a/b"}, {"a/**", "**/b"}, {"./x//y/", "x/y"}, {".", "z"}, {"*.go\nsrc/**/t?st", "src/a/test"}, {"..", "/a"}, {"a/../b", "a\\b"}, {"[abc]/{x,y}", "b/x"},
		{"é/*", "é/ö"}, {"**/**/**", "a"}, {"a*b*c*d*e", "abcde"}, {"{a,", "[a"}, {"", "\x00"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, left, right string) {
		var sets []work.PathSet
		for _, text := range []string{left, right} {
			set, err := work.NewPathSet(strings.Split(text, "\n")...)
			if err != nil {
				if !errors.Is(err, work.ErrInvalid) {
					t.Fatal(err)
				}
				return
			}
			again, err := work.NewPathSet(set.Strings()...)
			if err != nil || !slices.Equal(again.Strings(), set.Strings()) {
				t.Fatalf("%q is %q, and then %q %v", text, set.Strings(), again.Strings(), err)
			}
			if !set.Overlaps(set) || !set.Covers(set) {
				t.Fatalf("%q is not what it is", set.Strings())
			}
			var read work.PathSet
			data, err := json.Marshal(set)
			if err == nil {
				err = json.Unmarshal(data, &read)
			}
			if err != nil || !slices.Equal(read.Strings(), set.Strings()) {
				t.Fatalf("%q reads as %q, %v", data, read.Strings(), err)
			}
			sets = append(sets, set)
		}
		a, b := sets[0], sets[1]
		if a.Overlaps(b) != b.Overlaps(a) {
			t.Fatalf("%q and %q overlap one way", a.Strings(), b.Strings())
		}
		if a.Covers(b) && !a.Overlaps(b) {
			t.Fatalf("%q covers %q and does not overlap it", a.Strings(), b.Strings())
		}
	})
}
