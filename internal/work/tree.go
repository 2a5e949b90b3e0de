package work

import (
	"fmt"
	"slices"
	"strings"
)

// What becomes of the work that an agent leaves uncommitted.
const (
	UncommittedCommit = "commit" // drover commits it on the agent's behalf
	UncommittedFail   = "fail"   // the attempt ends with agent_error
	UncommittedIgnore = "ignore" // it is left behind
)

// Bounds of what is committed on an agent's behalf.
const (
	MaxUncommittedBytes = 10 << 20 // of one file
	MaxUncommittedNew   = 1000     // new files
)

// Bounds of a Tree: names in each of its lists, and bytes of one.
const (
	maxTreeNames     = 10
	maxTreeNameBytes = 200
)

// Tree says what drover did with what the agent left in its working tree. It is
// empty where all of the agent's work was committed on its branch.
type Tree struct {
	Committed int      `json:"committed,omitempty"` // files that drover committed on the agent's behalf
	LeftOut   []string `json:"left_out,omitempty"`  // files that it did not commit, with why
	Left      []string `json:"left,omitempty"`      // work that is on no branch of the remote: files, commits, a stash
	SetAside  int      `json:"set_aside,omitempty"` // files moved out of the tree so that the tests ran on what was pushed
	Notes     []string `json:"notes,omitempty"`     // what else drover did to deliver the work
}

// LeaveOut adds a file that is not committed.
func (t *Tree) LeaveOut(name, why string) { t.LeftOut = appendName(t.LeftOut, name+" ("+why+")") }

// Leave adds work that is not delivered.
func (t *Tree) Leave(what string) { t.Left = appendName(t.Left, what) }

// Note adds what drover did.
func (t *Tree) Note(what string) {
	if !slices.Contains(t.Notes, what) {
		t.Notes = appendName(t.Notes, what)
	}
}

// appendName adds a name to a list, unless that is full: then its last entry counts the rest.
func appendName(list []string, name string) []string {
	if len(name) > maxTreeNameBytes {
		name = strings.ToValidUTF8(name[:maxTreeNameBytes-len("…")], "") + "…"
	}
	if len(list) <= maxTreeNames {
		list = append(list, name)
		if len(list) > maxTreeNames {
			list[maxTreeNames] = "and 1 more"
		}
		return list
	}
	var n int
	_, _ = fmt.Sscanf(list[maxTreeNames], "and %d more", &n) // its own text
	list[maxTreeNames] = fmt.Sprintf("and %d more", n+1)
	return list
}

// Incomplete reports whether the branch lacks files that the agent's work has.
func (t Tree) Incomplete() bool { return len(t.LeftOut) > 0 }

// String is the sentences about the tree, empty for an empty one.
func (t Tree) String() string {
	var said []string
	if t.Committed > 0 {
		said = append(said, fmt.Sprintf("drover committed %s that the agent had left uncommitted", files(t.Committed)))
	}
	if len(t.LeftOut) > 0 {
		said = append(said, "not committed: "+strings.Join(t.LeftOut, ", "))
	}
	if len(t.Left) > 0 {
		said = append(said, "left behind: "+strings.Join(t.Left, ", "))
	}
	if t.SetAside > 0 {
		said = append(said, fmt.Sprintf("%s set aside for the tests, which ran on what was pushed", files(t.SetAside)))
	}
	return strings.Join(append(said, t.Notes...), "; ")
}

// Redacted returns the tree with redact applied to each text.
func (t Tree) Redacted(redact func(string) string) Tree {
	for _, list := range []*[]string{&t.LeftOut, &t.Left, &t.Notes} {
		*list = slices.Clone(*list)
		for i, text := range *list {
			(*list)[i] = redact(text)
		}
	}
	return t
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}
