package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Kinds of cases about what the leader makes of workers, Consul and Nomad.
const (
	kindNoConsul = "worker that does not reach Consul"
	kindOneTruth = "one truth about a running attempt"
	kindTaken    = "attempt taken from a worker that lives"
)

// noConsulAddress has nothing that listens: the discard port of this machine.
const noConsulAddress = "127.0.0.1:9"

// leaderRows are about what the leader makes of workers, Consul and Nomad.
func leaderRows() []row {
	return slices.Concat(noConsulRows(), truthRows(), takenRows())
}

// noConsulRows have workers that look for Consul where none is. It takes a worker
// minutes to give up; explain names the address in seconds.
func noConsulRows() []row {
	end := func(id, call string, body any, right outcome) row {
		return row{
			ID: id, Kind: kindNoConsul, Agent: agent{Script: "commit one"}, Config: fmt.Sprintf("worker {\n  consul_addr = %q\n}\n", noConsulAddress),
			Meanwhile: func(ctx context.Context, r *run) error {
				if err := r.awaitFact(ctx, "has not claimed the attempt in Consul", noConsulAddress); err != nil {
					return err
				}
				return r.call(ctx, http.MethodPost, "/v1/items/"+r.id+"/"+call, body, nil)
			},
			Right: right,
		}
	}
	killed := outcome{State: work.StateFailed, Reasons: reasons(work.ReasonKilledByOperator), Sentence: "no retry was wanted"}
	cancelled := outcome{State: work.StateCancelled, Reasons: reasons(work.ReasonCancelled)}
	quiet := cancelled
	quiet.Also = func(s *seen) []string {
		var c comparison
		equal(&c, "the number of attempts", len(s.Item.Attempts), 1)
		return c.faults
	}
	return []row{
		end("I2", "cancel", nil, cancelled),
		own(end("I2 kill", "kill", fields{"no_retry": true}, killed)),
		own(end("I2 once", "cancel", nil, quiet)),
	}
}

// awaitFact waits until drover explains the item with one sentence that has all texts.
func (r *run) awaitFact(ctx context.Context, texts ...string) error {
	var facts []string
	err := poll(ctx, DefaultWithin, func() (bool, error) {
		e, err := r.explain(ctx)
		facts = e.Facts
		return slices.ContainsFunc(facts, func(fact string) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(fact, text) })
		}), err
	})
	if err != nil {
		return fmt.Errorf("drover explain does not say %q: %w; it says %q", texts, err, facts)
	}
	return nil
}

func (r *run) explain(ctx context.Context) (e control.Explanation, err error) {
	err = r.call(ctx, http.MethodGet, "/v1/items/"+r.id+"/explain", nil, &e)
	return e, err
}

// truthRows compare what explain and show say of an attempt while it runs.
func truthRows() []row {
	look := func(id, script string, spec fields, right outcome) row {
		return row{ID: id, Kind: kindOneTruth, Agent: agent{Script: script + "\ncommit one"}, Spec: spec, Meanwhile: oneTruth, Right: right}
	}
	tested := onePull(nil)
	tested.Test = tests{Status: work.TestPassed}
	const busy = `for i in 1 2 3 4 5 6 7 8; do echo '{"type":"tool","name":"Edit"}'; sleep 1; done`
	return []row{
		look("I5", busy, nil, onePull(nil)),
		own(look("I5 quiet", "sleep 8", nil, onePull(nil))),
		own(look("I5 tests", ":", fields{"test": fields{"command": "sleep 8"}}, tested)),
	}
}

// contradictions are sentences of their own about the signs of life of one channel.
var contradictions = []string{"it said so", "heartbeat came", "silent for long", "has not heard a heartbeat"}

var lastSign = regexp.MustCompile(`The last sign of life of its worker came (\S+) ago`)

// oneTruth looks at the item for as long as its attempt runs: explain tells of one
// last sign of life, and show has the same.
func oneTruth(ctx context.Context, r *run) error {
	if _, err := r.await(func(item work.Item) bool { return item.State == work.StateInProgress }); err != nil {
		return err
	}
	for looks := 0; ; looks++ {
		var detail control.Detail
		if err := r.call(ctx, http.MethodGet, "/v1/items/"+r.id, nil, &detail); err != nil {
			return err
		}
		if detail.Item.State != work.StateInProgress {
			if looks < 3 {
				return fmt.Errorf("the attempt was looked at %d times, 3 are few enough", looks)
			}
			return nil
		}
		e, err := r.explain(ctx)
		if err == nil && e.State == work.StateInProgress {
			err = agree(e, detail.Progress)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// agree compares the ages of the last sign of life in explain and in show.
func agree(e control.Explanation, progress *work.Progress) error {
	text := strings.Join(e.Facts, "\n")
	for _, sentence := range contradictions {
		if strings.Contains(text, sentence) {
			return fmt.Errorf("explain says %q beside the last sign of life:\n%s", sentence, text)
		}
	}
	found := lastSign.FindAllStringSubmatch(text, -1)
	if len(found) != 1 {
		return fmt.Errorf("explain tells of %d last signs of life, right is 1:\n%s", len(found), text)
	}
	age, err := time.ParseDuration(found[0][1])
	const close = 3 * time.Second // the two calls, and rounding
	if err == nil && progress != nil && (time.Since(progress.At)-age).Abs() > close {
		err = errors.New("explain says that the last sign of life came " + age.String() + " ago, show " + time.Since(progress.At).Round(time.Second).String())
	}
	return err
}

// takenRows end an attempt that holds paths and lives: its worker can't take it back,
// and the next attempt has the paths.
func takenRows() []row {
	const script = `if [ "$DROVER_ATTEMPT" = 1 ]; then commit first; pushed; sleep 100; fi
commit second`
	take := func(id string, retries int, act func(ctx context.Context, r *run) error) row {
		return row{
			ID: id, Kind: kindTaken, Agent: agent{Script: script}, Spec: fields{"paths": []string{"work.txt"}}, Within: 2 * time.Minute,
			Meanwhile: func(ctx context.Context, r *run) error {
				if err := r.awaitLock(ctx); err != nil {
					return err
				}
				return act(ctx, r)
			},
			Right: outcome{
				State: work.StateCompleted, Reasons: reasons(work.ReasonKilledByOperator, work.ReasonCompleted), Commits: []string{"first", "second"},
				Files: files{"work.txt": "first\nsecond\n"}, PR: work.PRCreated, Retries: retries,
			},
		}
	}
	order := func(verb string) func(context.Context, *run) error {
		return func(ctx context.Context, r *run) error {
			return r.call(ctx, http.MethodPost, "/v1/items/"+r.id+"/"+verb, nil, nil)
		}
	}
	release := func(ctx context.Context, r *run) error {
		return r.call(ctx, http.MethodPost, "/v1/locks/release", control.LockRelease{ID: r.id}, nil)
	}
	return []row{
		take("I9", 1, release),
		own(take("I9 kill", 1, order("kill"))),
		own(take("I9 requeue", 0, order("requeue"))),
	}
}

// awaitLock waits until the item's attempt has its paths and has pushed its first commit.
func (r *run) awaitLock(ctx context.Context) error {
	return poll(ctx, DefaultWithin, func() (bool, error) {
		var locks []work.Lock
		if err := r.call(ctx, http.MethodGet, "/v1/locks", nil, &locks); err != nil {
			return false, err
		}
		held := slices.ContainsFunc(locks, func(l work.Lock) bool { return l.Item == r.id })
		return held && r.git.Head(r.repository, work.Branch(r.id)) != "", nil
	})
}
