package main

import (
	"slices"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const id = "01m8n63xw05rsjaqj2zhz7vwc5"

var one, two = work.NewAttemptID(id, 1), work.NewAttemptID(id, 2)

// good is the evidence of an item of two commits whose first attempt was killed after the first.
func good() evidence {
	return evidence{
		planned: planned{id: id, commits: 2, own: completes},
		item: work.Item{State: work.StateCompleted, Retries: 1, Attempts: []work.Attempt{
			{ID: one, Number: 1, Reason: work.ReasonCrashed}, {ID: two, Number: 2, Reason: work.ReasonCompleted},
		}},
		journal: journal{starts: []started{{1, 10}, {2, 11}}, commits: []committed{{1, "a"}, {2, "b"}}},
		hashes:  []string{"0", "a", "b"},
		log:     []string{gittest.InitialSubject, "Step 1 of 2", "Step 2 of 2"},
	}
}

// addRest adds a commit of drover's own after the first of the agents.
func (e *evidence) addRest() {
	e.log, e.hashes = slices.Insert(e.log, 2, restSubject), slices.Insert(e.hashes, 2, "rest")
}

func TestJudge(t *testing.T) {
	killed := map[work.AttemptID]bool{one: false}
	for name, c := range map[string]struct {
		killed map[work.AttemptID]bool
		change func(*evidence)
		want   []string // parts of what is wrong, one each
	}{
		"all is well":              {killed, func(*evidence) {}, nil},
		"crashed and not killed":   {nil, func(*evidence) {}, []string{"ended as crashed", "1 retries are spent, want 0"}},
		"killed and not crashed":   {killed, func(e *evidence) { e.item.Attempts[0].Reason = work.ReasonFenced }, []string{"was killed and ended as fenced"}},
		"another attempt's kill":   {map[work.AttemptID]bool{two: false}, func(*evidence) {}, []string{"1 ended as crashed", "2 was killed and ended as completed"}},
		"retry spent by an outage": {killed, func(e *evidence) { e.item.Retries = 2 }, []string{"2 retries are spent, want 1"}},
		"failed by an outage":      {killed, func(e *evidence) { e.item.State = work.StateFailed }, []string{"item is failed"}},
		"fenced besides": {killed, func(e *evidence) {
			e.item.Attempts = append(e.item.Attempts, work.Attempt{ID: work.NewAttemptID(id, 3), Number: 3, Reason: work.ReasonFenced})
		}, nil},
		"heartbeat lost besides": {killed, func(e *evidence) {
			e.item.Attempts = append(e.item.Attempts, work.Attempt{ID: work.NewAttemptID(id, 3), Number: 3, Reason: work.ReasonHeartbeatLost})
		}, []string{"ended as heartbeat_lost"}},
		"agent started twice": {killed, func(e *evidence) { e.journal.starts = append(e.journal.starts, started{2, 12}) }, []string{"attempt 2 was started 2 times"}},
		"commit twice": {killed, func(e *evidence) {
			e.hashes, e.log = []string{"0", "a", "a2", "b"}, []string{gittest.InitialSubject, "Step 1 of 2", "Step 1 of 2", "Step 2 of 2"}
		}, []string{"branch has"}},
		"rest of a killed agent": {killed, func(e *evidence) { e.addRest() }, nil},
		"two rests of one killed agent": {killed, func(e *evidence) {
			e.addRest()
			e.addRest()
		}, []string{"branch has"}},
		"rest without a killed agent": {map[work.AttemptID]bool{one: true}, func(e *evidence) { e.addRest() }, []string{"branch has"}},
		"commit that a killed agent had no time to tell of": {killed, func(e *evidence) {
			e.commits, e.hashes = 3, []string{"0", "a", "untold", "b"}
			e.log = []string{gittest.InitialSubject, "Step 1 of 3", "Step 2 of 3", "Step 3 of 3"}
		}, nil},
		"no branch":                   {killed, func(e *evidence) { e.hashes, e.log = nil, nil }, []string{"branch has", "commit a of attempt", "commit b of attempt"}},
		"commit replaced later on":    {killed, func(e *evidence) { e.hashes[2] = "c" }, []string{"commit b of attempt"}},
		"commits in another order":    {killed, func(e *evidence) { e.log[1], e.log[2] = e.log[2], e.log[1] }, []string{"branch has"}},
		"commit missing":              {killed, func(e *evidence) { e.hashes, e.log = e.hashes[:2], e.log[:2] }, []string{"branch has", "commit b of attempt"}},
		"commit made anew":            {killed, func(e *evidence) { e.hashes[1] = "c" }, []string{"commit a of attempt", "no agent made commit c"}},
		"commit lost with the agent":  {killed, func(e *evidence) { e.journal.commits = append(e.journal.commits, committed{1, "lost"}) }, []string{"commit lost of attempt"}},
		"commit lost with the worker": {map[work.AttemptID]bool{one: true}, func(e *evidence) { e.journal.commits = append(e.journal.commits, committed{1, "lost"}) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := good()
			c.change(&e)
			got := e.judge(c.killed)
			if len(got) != len(c.want) {
				t.Fatalf("%d things are wrong, want %d: %q", len(got), len(c.want), got)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("wrong is %q, want %q in it", got[i], want)
				}
			}
		})
	}
}

func TestJudgeOfItemsThatFailByThemselves(t *testing.T) {
	for _, own := range []own{givesUp, errs, grows, hangs} {
		e := evidence{planned: planned{id: id, commits: failingCommits, own: own}, item: work.Item{State: own.state, Retries: own.retries}}
		e.log, e.hashes = []string{gittest.InitialSubject}, []string{"0"}
		steps := []string{"Step 1 of 3", "Step 2 of 3", "Step 3 of 3"}
		for i, step := range steps[:own.commits] {
			e.log, e.hashes = append(e.log, step), append(e.hashes, step)
			e.journal.commits = append(e.journal.commits, committed{1, e.hashes[i+1]})
		}
		for n := range own.retries + 1 {
			e.item.Attempts = append(e.item.Attempts, work.Attempt{ID: work.NewAttemptID(id, n+1), Number: n + 1, Reason: own.reason})
		}
		if got := e.judge(nil); len(got) > 0 {
			t.Errorf("%s: %q is wrong, want nothing", own.word, got)
		}
		e.item.Attempts[0].Reason = work.ReasonCrashed
		if got := e.judge(nil); len(got) != 1 || !strings.Contains(got[0], "ended as crashed") {
			t.Errorf("%s booked as crashed: %q is wrong", own.word, got)
		}
	}
}

func TestJudgeAway(t *testing.T) {
	short, long := away{length: 1, grace: 2}, away{length: 3, grace: 2}
	e := good()
	if got := e.judgeAway(long); len(got) > 0 {
		t.Errorf("%q is wrong, want nothing", got)
	}
	if got := e.judgeAway(short); len(got) != 1 {
		t.Errorf("two attempts after a short outage: %q is wrong", got)
	}
	e.hashes[1] = "c"
	if got := e.judgeAway(long); len(got) != 1 {
		t.Errorf("not from the pushed commit: %q is wrong", got)
	}
	e.item.Attempts = e.item.Attempts[1:]
	if got := e.judgeAway(short); len(got) > 0 {
		t.Errorf("%q is wrong, want nothing", got)
	}
	if got := e.judgeAway(long); len(got) != 2 || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "a later one") }) {
		t.Errorf("one attempt after a long outage: %q is wrong", got)
	}
}
