package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"drover/internal/control"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

// Of a run.
const (
	repositories = 20
	itemsPerRepo = 3
	maxRetries   = 2
)

// own is how an item fails by itself.
type own struct {
	word    string        // of the task, which the agent obeys
	commits int           // that are on the branch at the end
	timeout time.Duration // of an attempt; the default's if zero
	state   work.State    // of the item at the end
	reason  work.Reason   // of each attempt that failed so
	retries int           // spent on it
}

// Of those that fail by themselves: where each step takes a moment, so that they do so during the outages.
const failingCommits = 3

var (
	givesUp   = own{word: "exit=1", commits: failingCommits, state: work.StateStuck, reason: work.ReasonStuck}
	errs      = own{word: "exit=3", commits: failingCommits, state: work.StateFailed, reason: work.ReasonAgentError, retries: maxRetries}
	grows     = own{word: "memory=512", commits: 1, state: work.StateFailed, reason: work.ReasonOOMKilled, retries: maxRetries}
	hangs     = own{word: "hang-after=1", commits: 1, timeout: 40 * time.Second, state: work.StateFailed, reason: work.ReasonTimeout, retries: maxRetries}
	completes = own{state: work.StateCompleted, reason: work.ReasonCompleted}
)

// failures are the ten items that fail by themselves. A real Nomad's raw_exec bounds no memory.
func failures(boundedMemory bool) []own {
	if !boundedMemory {
		return []own{givesUp, givesUp, givesUp, errs, errs, errs, errs, hangs, hangs, hangs}
	}
	return []own{givesUp, givesUp, givesUp, errs, errs, errs, grows, grows, hangs, hangs}
}

// planned is an item, and how it must end.
type planned struct {
	id         string
	repository string
	commits    int
	delay      time.Duration // of a step
	own        own
	journal    string // path
}

func (p planned) fails() bool { return p.own.state != work.StateCompleted }

// planItems returns the items of a run, in the order in which they are submitted.
func planItems(random *rand.Rand, dir string, fail []own) []planned {
	var items []planned
	for i := range repositories * itemsPerRepo {
		p := planned{
			id: work.NewID(time.Now()), repository: fmt.Sprintf("repo-%02d", i%repositories),
			commits: 8 + random.IntN(5), delay: time.Duration(3500+random.IntN(2500)) * time.Millisecond, own: completes,
		}
		p.journal = filepath.Join(dir, p.id+".journal")
		items = append(items, p)
	}
	// Each in a repository of its own, so that no breaker has cause to open, and first there, so that all have failed when
	// the outages end.
	for i, n := range random.Perm(repositories)[:len(fail)] {
		items[n].own, items[n].commits, items[n].delay = fail[i], failingCommits, 2*time.Second
	}
	return items
}

// submission is what is submitted of an item.
func (p planned) submission(git *gittest.Server) control.Submission {
	spec := work.Spec{
		Repository: git.URL(p.repository),
		Task:       fmt.Sprintf("Work through it. commits=%d delay=%s journal=%s %s", p.commits, p.delay, p.journal, p.own.word),
		Limits:     work.Limits{Timeout: work.Duration(p.own.timeout)},
	}
	return control.Submission{ID: p.id, Spec: spec}
}
