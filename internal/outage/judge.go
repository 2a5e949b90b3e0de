package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

// infrastructure are the endings that are nobody's fault: they spend no retry and fail no item.
var infrastructure = []work.Reason{
	work.ReasonFenced, work.ReasonUnreachable, work.ReasonNodeLost, work.ReasonStartFailed, work.ReasonDrained, work.ReasonPreempted,
}

// evidence is what is known of one item when all is over.
type evidence struct {
	planned
	item    work.Item
	journal journal
	hashes  []string // of the branch's commits, the oldest first
	log     []string // their subjects
}

// judge returns what is wrong about an item. killed are the attempts that were killed, and whether the worker itself was.
func (e evidence) judge(killed map[work.AttemptID]bool) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if e.item.State != e.own.state {
		bad("item is %s (%s), want %s", e.item.State, e.item.Why, e.own.state)
	}
	kills := 0
	for _, a := range e.item.Attempts {
		_, dead := killed[a.ID]
		switch {
		case dead:
			kills++
			if a.Reason != work.ReasonCrashed {
				bad("attempt %s was killed and ended as %s: %s, want crashed", a.ID, a.Reason, a.Detail)
			}
		case a.Reason != e.own.reason && !slices.Contains(infrastructure, a.Reason):
			bad("attempt %s ended as %s: %s, want %s", a.ID, a.Reason, a.Detail, e.own.reason)
		}
	}
	if want := kills + e.own.retries; e.item.Retries != want {
		bad("%d retries are spent, want %d", e.item.Retries, want)
	}
	wrong = append(wrong, e.judgeStarts()...)
	return append(wrong, e.judgeBranch(killed)...)
}

// judgeStarts finds agents that ran twice in one attempt.
func (e evidence) judgeStarts() (wrong []string) {
	times := map[int]int{}
	for _, s := range e.journal.starts {
		times[s.attempt]++
	}
	for _, attempt := range slices.Sorted(maps.Keys(times)) {
		if n := times[attempt]; n > 1 {
			wrong = append(wrong, fmt.Sprintf("the agent of attempt %d was started %d times", attempt, n))
		}
	}
	return wrong
}

// restSubject is the subject of drover's own commits, of what an agent left uncommitted.
const restSubject = "Commit what the agent left uncommitted"

// withoutRests returns subjects and hashes of the branch without drover's own commits: one for each killed agent, which may
// have been in the middle of a step.
func (e evidence) withoutRests(killed map[work.AttemptID]bool) (log, hashes []string) {
	rests := 0
	for _, a := range e.item.Attempts {
		if worker, dead := killed[a.ID]; dead && !worker {
			rests++
		}
	}
	for i, subject := range e.log {
		if subject == restSubject && rests > 0 && i < len(e.hashes) {
			rests--
			continue
		}
		log = append(log, subject)
		if i < len(e.hashes) {
			hashes = append(hashes, e.hashes[i])
		}
	}
	return log, hashes
}

// judgeBranch compares the branch with what the agents say that they committed.
func (e evidence) judgeBranch(killed map[work.AttemptID]bool) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	commits := e.commits
	if e.fails() {
		commits = e.own.commits
	}
	want := []string{gittest.InitialSubject}
	for n := range commits {
		want = append(want, fmt.Sprintf("Step %d of %d", n+1, e.commits))
	}
	log, hashes := e.withoutRests(killed)
	if !slices.Equal(log, want) {
		bad("branch has %s, want %s", strings.Join(log, ", "), strings.Join(want, ", "))
	}
	made := map[string]bool{}
	for _, c := range e.journal.commits {
		made[c.hash] = true
		attempt := e.item.Attempt(c.attempt)
		if attempt == nil {
			bad("commit %s is of attempt %d, which the item does not have", c.hash, c.attempt)
			continue
		}
		worker, dead := killed[attempt.ID]
		mayBeLost := dead && worker || slices.Contains(infrastructure, attempt.Reason)
		if !mayBeLost && !slices.Contains(e.hashes, c.hash) {
			bad("commit %s of attempt %s is not on the branch", c.hash, attempt.ID)
		}
	}
	last := e.lastOfKilled(killed)
	for i := 1; i < len(hashes); i++ {
		if !made[hashes[i]] && !last[hashes[i-1]] {
			bad("no agent made commit %s", hashes[i])
		}
	}
	return wrong
}

// lastOfKilled returns the last commits that killed agents told of: each may have made one more, and have been killed before
// it could say so.
func (e evidence) lastOfKilled(killed map[work.AttemptID]bool) map[string]bool {
	last := map[string]bool{}
	for _, a := range e.item.Attempts {
		if _, dead := killed[a.ID]; !dead {
			continue
		}
		commit := ""
		if len(e.hashes) > 0 {
			commit = e.hashes[0] // the repository's own
		}
		for _, c := range e.journal.commits {
			if c.attempt <= a.Number {
				commit = c.hash
			}
		}
		last[commit] = true
	}
	return last
}
