package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// Of the run with random outages.
const (
	outageLength = 200 * time.Second
	heartbeatTTL = "15s"
	// endTimeout is how long the items may take once the outages are over.
	endTimeout = 8 * time.Minute
	// leftTimeout is how long drover may take to clean up after the last.
	leftTimeout = 2 * time.Minute
	// victimTimeout is how long the wait for a victim may take: on a slow machine minutes.
	victimTimeout = 4 * time.Minute
	// Of a victim: what it has left to do, so that it does not end as it is killed.
	commitsLeft = 3
)

const randomDefaults = `heartbeat_ttl = "` + heartbeatTTL + `"`

const randomBlocks = `
retry {
  backoff       = ["2s"]
  start_backoff = ["2s"]
  max_retries   = 2
}
`

// target is what is killed and started again.
type target struct {
	name string
	of   interface {
		start() error
		kill() error
		fault() error
	}
}

// storm is the run with random outages.
type storm struct {
	*world
	out    io.Writer
	began  time.Time
	random *rand.Rand // of the victims
	items  []planned
	killed map[work.AttemptID]bool // and whether the worker was
	faults []string                // what is wrong beside the items
}

// runStorm returns what is wrong.
func runStorm(ctx context.Context, out io.Writer, o options, seed uint64) ([]string, error) {
	o.replicas, o.inFlight, o.defaults, o.more = 2, 16, randomDefaults, randomBlocks
	w, err := newWorld(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &storm{world: w, out: out, began: time.Now(), random: rand.New(rand.NewPCG(seed, 1)), killed: map[work.AttemptID]bool{}}
	random := rand.New(rand.NewPCG(seed, 0))
	s.items = planItems(random, w.dir, failures(!w.real))
	wrong, err := s.play(ctx, schedule(random, 2+len(w.servers), outageLength))
	return wrong, errors.Join(err, w.close())
}

func (s *storm) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *storm) play(ctx context.Context, faults []fault) ([]string, error) {
	for i := range repositories {
		if err := s.git.CreateRepo(fmt.Sprintf("repo-%02d", i), map[string]string{"README.md": "An application.\n"}); err != nil {
			return nil, err
		}
	}
	var submissions []control.Submission
	for _, p := range s.items {
		submissions = append(submissions, p.submission(s.git))
	}
	if err := s.submit(ctx, submissions); err != nil {
		return nil, err
	}
	s.began = time.Now()
	s.say("%d items are submitted", len(submissions))
	if err := s.harm(ctx, faults); err != nil {
		return nil, err
	}
	s.say("the outages are over, %d attempts were killed", len(s.killed))
	if err := s.awaitEnds(ctx); err != nil {
		s.faults = append(s.faults, err.Error())
	}
	return s.verdict(ctx)
}

// harm kills what the schedule says, when it says so.
func (s *storm) harm(ctx context.Context, faults []fault) error {
	var servers, victims []fault
	for _, f := range faults {
		if f.target < 0 {
			victims = append(victims, f)
		} else {
			servers = append(servers, f)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.killServers(ctx, group, servers) })
	group.Go(func() error { return s.killVictims(ctx, victims) }) // apart, for it may have to wait for one
	return group.Wait()
}

// killServers kills Consul, Nomad and servers, and has the group start each again after its pause.
func (s *storm) killServers(ctx context.Context, group *errgroup.Group, faults []fault) error {
	targets := []target{{"consul", s.consul}, {"nomad", s.nomad}}
	for _, server := range s.servers {
		targets = append(targets, target{server.name, server})
	}
	for _, f := range faults {
		if err := wait.For(ctx, time.Until(s.began.Add(f.at))); err != nil {
			return err
		}
		t := targets[f.target]
		if err := t.of.fault(); err != nil {
			s.faults = append(s.faults, err.Error())
		}
		s.say("kill %s for %s", t.name, f.pause.Round(100*time.Millisecond))
		if err := t.of.kill(); err != nil {
			return err
		}
		group.Go(func() error { return errors.Join(wait.For(ctx, f.pause), t.of.start()) })
	}
	return nil
}

func (s *storm) killVictims(ctx context.Context, faults []fault) error {
	for _, f := range faults {
		if err := wait.For(ctx, time.Until(s.began.Add(f.at))); err != nil {
			return err
		}
		if err := s.killVictim(ctx, f.target); err != nil {
			return err
		}
	}
	return nil
}

// killVictim kills the agent or the worker of an attempt that has more to do, once there is one.
func (s *storm) killVictim(ctx context.Context, kind int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, victimTimeout, errors.New("none had enough left to do in time"))
	defer cancel()
	for {
		victim, attempt, pid, err := s.pickVictim()
		if err != nil {
			return err
		}
		if pid != 0 && kind == killWorker {
			pid = workerOf(s.worker, pid)
		}
		if pid != 0 {
			what := map[int]string{killAgent: "agent", killWorker: "worker"}[kind]
			id := work.NewAttemptID(victim.id, attempt)
			s.say("kill the %s of attempt %s, process %d", what, id, pid)
			s.killed[id] = kind == killWorker
			return kill(pid)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for an attempt that can be killed: %w", err)
		}
	}
}

// pickVictim returns an item whose agent runs and has more to do, with the attempt's number and the agent's process id,
// which is 0 if there is none. It is the only one of its repository that fails or is killed, so that no breaker has cause to open.
func (s *storm) pickVictim() (planned, int, int, error) {
	spared := map[string]bool{}
	for _, p := range s.items {
		spared[p.repository] = spared[p.repository] || p.fails() || s.isVictim(p)
	}
	for _, n := range s.random.Perm(len(s.items)) {
		p := s.items[n]
		if spared[p.repository] {
			continue
		}
		j, err := readJournal(p.journal)
		if err != nil {
			return p, 0, 0, err
		}
		if last, ok := j.running(); ok && len(j.commits)+commitsLeft <= p.commits && parent(last.pid) != 0 {
			return p, last.attempt, last.pid, nil
		}
	}
	return planned{}, 0, 0, nil
}

func (s *storm) isVictim(p planned) bool {
	for id := range s.killed {
		if id.Item() == p.id {
			return true
		}
	}
	return false
}

// verdict returns what is wrong, one line each.
func (s *storm) verdict(ctx context.Context) ([]string, error) {
	stored, err := s.world.items(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[work.Reason]int{}
	wrong, wrongItems := s.faults, 0
	for _, p := range s.items {
		e, err := s.evidence(p, stored[p.id])
		if err != nil {
			return nil, err
		}
		faults := e.judge(s.killed)
		for _, f := range faults {
			wrong = append(wrong, fmt.Sprintf("item %s (%s): %s", p.id, p.own.state, f))
		}
		if len(faults) > 0 {
			wrongItems++
		}
		for _, a := range e.item.Attempts {
			counts[a.Reason]++
		}
	}
	wrong = append(wrong, s.verifyLeft(ctx)...)
	s.say("attempts by reason: %v; killed: %d", counts, len(s.killed))
	s.say("%d of %d items are wrong", wrongItems, len(s.items))
	return wrong, nil
}
