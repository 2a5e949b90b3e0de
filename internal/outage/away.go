package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// away is a run in which Consul is killed once, while every item runs, and comes back with its data.
type away struct {
	items  int
	length time.Duration // of the outage
	ttl    time.Duration // of heartbeats
	grace  time.Duration // for which a worker without a session goes on
	delay  time.Duration // of an agent's step
	steps  int           // that are to be done yet when Consul comes back, at least
}

// survives says that the outage is shorter than the grace: then the same attempts go on.
func (a away) survives() bool { return a.length < a.grace }

// commits of each item: the agents have work for longer than the outage and what comes after it takes.
func (a away) commits() int { return int(a.length/a.delay) + a.steps }

// awayRepository is the one repository of such a run.
const awayRepository = "app"

// runAway returns what is wrong.
func runAway(ctx context.Context, out io.Writer, o options, a away) ([]string, error) {
	o.replicas, o.inFlight, o.more = 2, a.items, randomBlocks
	o.defaults = fmt.Sprintf("heartbeat_ttl = %q\n  fence_grace = %q", a.ttl, a.grace)
	w, err := newWorld(ctx, o)
	if err != nil {
		return nil, err
	}
	wrong, err := w.goAway(ctx, out, a)
	return wrong, errors.Join(err, w.close())
}

func (w *world) goAway(ctx context.Context, out io.Writer, a away) ([]string, error) {
	if err := w.git.CreateRepo(awayRepository, map[string]string{"README.md": "An application.\n"}); err != nil {
		return nil, err
	}
	var items []planned
	var submissions []control.Submission
	for range a.items {
		p := planned{id: work.NewID(time.Now()), repository: awayRepository, commits: a.commits(), delay: a.delay, own: completes}
		p.journal = w.dir + "/" + p.id + ".journal"
		items, submissions = append(items, p), append(submissions, p.submission(w.git))
	}
	if err := w.submit(ctx, submissions); err != nil {
		return nil, err
	}
	if err := w.awaitCommits(ctx, items, 1); err != nil {
		return nil, err
	}
	began := time.Now()
	fmt.Fprintf(out, "%d agents run with a heartbeat TTL of %s; consul is killed for %s; the grace is %s\n", len(items), a.ttl, a.length, a.grace)
	err := w.consul.kill()
	if err == nil {
		err = wait.For(ctx, a.length)
	}
	if err == nil {
		err = w.consul.start()
	}
	if err != nil {
		return nil, err
	}
	var wrong []string
	if err := w.awaitEnds(ctx); err != nil {
		wrong = append(wrong, err.Error())
	}
	fmt.Fprintf(out, "all ended %s after the kill\n", time.Since(began).Round(time.Second))
	more, err := w.judgeAway(ctx, a, items)
	return append(wrong, more...), err
}

// awaitCommits waits until the branch of every item has so many commits of its agent.
func (w *world) awaitCommits(ctx context.Context, items []planned, commits int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("not every item's work is pushed in time"))
	defer cancel()
	return w.await(ctx, "the first commits", func(context.Context) error {
		for _, p := range items {
			if n := len(w.git.Log(p.repository, work.Branch(p.id))) - 1; n < commits {
				return fmt.Errorf("item %s has %d commits on its branch, want %d", p.id, n, commits)
			}
		}
		return nil
	})
}

// judgeAway returns what is wrong about each item, and what is left.
func (w *world) judgeAway(ctx context.Context, a away, items []planned) (wrong []string, err error) {
	stored, err := w.items(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range items {
		e, err := w.evidence(p, stored[p.id])
		if err != nil {
			return nil, err
		}
		for _, fault := range append(e.judge(nil), e.judgeAway(a)...) {
			wrong = append(wrong, fmt.Sprintf("item %s: %s", p.id, fault))
		}
	}
	return append(wrong, w.verifyLeft(ctx)...), nil
}

// judgeAway says whether an item went on in the attempt, or in the later one, in which it should have.
func (e evidence) judgeAway(a away) (wrong []string) {
	reasons := make([]string, len(e.item.Attempts))
	for i, attempt := range e.item.Attempts {
		reasons[i] = string(attempt.Reason)
	}
	if a.survives() {
		if want := []string{string(work.ReasonCompleted)}; !slices.Equal(reasons, want) {
			wrong = append(wrong, fmt.Sprintf("attempts ended as %v, want %v", reasons, want))
		}
		return wrong
	}
	if len(reasons) < 2 {
		wrong = append(wrong, fmt.Sprintf("attempts ended as %v, want a later one that completed", reasons))
	}
	if len(e.journal.commits) > 0 && len(e.hashes) > 1 && e.hashes[1] != e.journal.commits[0].hash {
		wrong = append(wrong, fmt.Sprintf("the later attempt did not go on from pushed commit %s", e.journal.commits[0].hash))
	}
	return wrong
}

// evidence gathers what is known of an item.
func (w *world) evidence(p planned, item work.Item) (e evidence, err error) {
	e = evidence{planned: p, item: item, hashes: w.git.Commits(p.repository, item.Branch), log: w.git.Log(p.repository, item.Branch)}
	e.journal, err = readJournal(p.journal)
	return e, err
}

// awaitEnds waits until every item has ended.
func (w *world) awaitEnds(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("not every item has ended %s after the outages", endTimeout))
	defer cancel()
	return w.await(ctx, "the items' ends", func(ctx context.Context) error {
		items, err := w.items(ctx)
		if err != nil {
			return err
		}
		var open []string
		for id, item := range items {
			if !item.State.Terminal() {
				open = append(open, fmt.Sprintf("%s %s (%s)", id, item.State, item.Why))
			}
		}
		if len(open) > 0 {
			return errors.New(strings.Join(open, "; "))
		}
		return nil
	})
}

// verifyLeft waits until nothing of any attempt is left, and says what is left all the same, and which servers ended by themselves.
func (w *world) verifyLeft(ctx context.Context) (wrong []string) {
	ctx, cancel := context.WithTimeoutCause(ctx, leftTimeout, errors.New("it is still there"))
	defer cancel()
	if err := w.await(ctx, "nothing to be left", w.left); err != nil {
		wrong = append(wrong, err.Error())
	}
	for _, server := range w.servers {
		if err := server.fault(); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}
