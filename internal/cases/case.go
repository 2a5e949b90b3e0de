package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

// DefaultWithin is how long a row may take before its item counts as hanging. A row takes one to five seconds.
const DefaultWithin = time.Minute

//go:embed all:testdata
var testdata embed.FS

// row is one case: an input, and the outcome that is right.
type row struct {
	ID   string // as in the reports of users; own rows of a kind have a letter more
	Kind string // what the rows of a kind have in common, in a few words
	Own  bool   // found beside what users reported

	Files      files
	Remote     string
	PreReceive string
	Agent      agent
	Spec       fields
	Between    []string
	Forge      func(f *forgetest.Server, repository string) error
	Meanwhile  func(ctx context.Context, r *run) error
	Config     string
	SubmitOnly bool
	Within     time.Duration

	Right outcome
}

// name is the name of the row's repository and queue.
func (r row) name() string { return strings.ToLower(strings.ReplaceAll(r.ID, " ", "-")) }

// agent is a kind of agent and the program that takes its place.
type agent struct {
	Kind      string // work.AgentPlain if empty
	Script    string // run by sh in the tree; nothing if empty
	Recording string // below testdata; printed after the script
	Exit      int
}

// fields are part of a specification, by their JSON names.
type fields = map[string]any

// files are contents by path. As part of an outcome they are what differs from the base; a file that is gone is removed,
// one of any content is anything.
type files = map[string]string

const (
	removed  = "(removed)"
	anything = "(anything)"
	gitlink  = "(gitlink)" // an entry that names a commit of another repository
)

// outcome is what became of an item. What is not set must be absent. Where State is not set, Refused and Also alone count.
type outcome struct {
	Refused string // part of the answer to the submission; nothing else is compared then

	State    work.State
	Reasons  []work.Reason // of the attempts
	Sentence string        // part of the last attempt's detail, or of why the item is where it is
	Commits  []string      // subjects on the item's branch that no other branch has, oldest first
	Files    files
	Test     tests // skipped if it has no status
	Tokens   work.Tokens
	CostUSD  float64

	Retries, Requeues int

	PR      work.PRStatus // none if empty
	Draft   bool
	PRError string // part of the pull request's error

	WaitUntil time.Time     // of an item that waits: until exactly then
	WaitAbout time.Duration // of an item that waits: so long after the end of its attempt, a quarter more or less

	Also func(s *seen) []string
}

// tests are the outcome of a test command.
type tests struct {
	Status         work.TestStatus
	Passed, Failed int
	Says           string // part of the detail
}

func reasons(r ...work.Reason) []work.Reason { return r }

// input reads a file of testdata.
func input(name string) string {
	text, err := fs.ReadFile(testdata, "testdata/"+name)
	if err != nil {
		panic(fmt.Sprintf("a row names an input that is not there: %v", err))
	}
	return string(text)
}
