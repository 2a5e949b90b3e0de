package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// How often the leader looks whether the workers live.
const (
	// beatsEvery is the shortest time between two reads of the list of checks.
	beatsEvery = 2 * time.Second
	// suspectsEvery is how often claims are compared with sessions while a worker
	// is suspected, workersEvery how often otherwise.
	suspectsEvery = 2 * time.Second
	workersEvery  = 10 * time.Second
	// workersTimeout is after how long a comparison counts as failed.
	workersTimeout = 5 * time.Second
)

// heartbeatLoop reads the workers' checks, for people, and because a check that
// fails is a hint to compare claims with sessions: with its check a session ends.
func (o *Orchestrator) heartbeatLoop(ctx context.Context) error {
	var index uint64
	for {
		beats, next, err := o.store.Heartbeats(ctx, index)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause := beatsEvery
		if err != nil {
			o.steady.failed()
			o.complain("heartbeats not read", "", err)
			pause = retryPause
		} else {
			index = next
			o.heard(beats, time.Now())
			if o.anyCritical(beats) {
				nudge(o.doubt)
			}
		}
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
	}
}

// anyCritical reports whether the check of an attempt under way is critical.
func (o *Orchestrator) anyCritical(beats []work.Heartbeat) bool {
	for _, beat := range beats {
		if beat.Critical && !o.hasEnded(beat.Attempt) {
			return true
		}
	}
	return false
}

// workerLoop finds workers that are lost: each is an attempt under way whose
// claim has a session that is gone.
func (o *Orchestrator) workerLoop(ctx context.Context) error {
	for {
		suspected, err := o.compareWorkers(ctx, time.Now())
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			o.steady.failed()
			o.complain("workers not looked after, trying again", "", err)
		}
		pause := workersEvery
		if suspected || err != nil {
			pause = suspectsEvery
		}
		timer := time.NewTimer(pause)
		select {
		case <-o.doubt:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// compareWorkers compares the claims of all attempts under way with the sessions
// that live. What it finds is stored first, so that the next leader knows since
// when, and acted on by a later comparison. It reports whether a worker is suspected.
//
// Claims are read before sessions: a worker that takes its attempt back in between
// looks lost for one comparison, and never the other way round.
func (o *Orchestrator) compareWorkers(ctx context.Context, now time.Time) (suspected bool, err error) {
	open := o.openItems()
	for _, e := range open {
		a := e.item.Load().Current()
		suspected = suspected || a != nil && a.Suspicion != nil
	}
	read, cancel := context.WithTimeout(ctx, workersTimeout)
	defer cancel()
	claims, err := o.store.Claims(read)
	if err != nil {
		return suspected, err
	}
	sessions, err := o.store.Sessions(read)
	if err != nil {
		return suspected, err
	}
	o.steady.answered(now)
	claimed := make(map[work.AttemptID]work.Claim, len(claims))
	for _, claim := range claims {
		claimed[claim.Attempt] = claim
	}
	suspected = false
	for _, e := range open {
		item := e.item.Load()
		current := item.Current()
		if current == nil || current.State.Terminal() {
			continue
		}
		claim := claimed[current.ID]
		switch suspicion := current.Suspicion; {
		case claim.Session == "" || claim.Ended: // no worker has it yet, or any more
		case sessions[claim.Session]:
			if suspicion != nil {
				o.spawn(ctx, func() {
					o.complain("worker that is back not noted", current.ID, o.noteWorker(ctx, e, work.Heard{Attempt: current.ID}, current.ID))
				})
			}
		case suspicion == nil || suspicion.Session != claim.Session:
			suspected = true
			event := work.Suspected{Attempt: current.ID, Session: claim.Session}
			o.spawn(ctx, func() {
				o.complain("worker without a session not noted", current.ID, o.noteWorker(ctx, e, event, current.ID))
			})
		default:
			suspected = true
			due := now.Sub(suspicion.Since) >= item.LostAfter(o.cfg.LostAfter) && o.steady.since(now) >= o.cfg.Steady
			if due && o.away.Load() == nil {
				o.spawn(ctx, func() {
					o.complain("lost worker not looked up, trying again", current.ID, o.lost(ctx, e, *current, claim))
				})
			}
		}
	}
	return suspected, nil
}

// noteWorker stores that an attempt's worker is suspected, or is back.
func (o *Orchestrator) noteWorker(ctx context.Context, e *entry, event work.Event, a work.AttemptID) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	err := o.apply(ctx, e, event)
	if err == nil {
		o.itemLog(e.item.Load()).Warn("worker's session", "attempt_id", a, "why", e.item.Load().Why)
	}
	return err
}

// lost ends an attempt whose worker did not come back in time. Nomad's word of its
// container counts more; where Nomad does not answer, that is waited for.
func (o *Orchestrator) lost(ctx context.Context, e *entry, attempt work.Attempt, claim work.Claim) error {
	if attempt.Child == "" {
		return nil // its dispatch is recorded first
	}
	child, err := o.cluster.Child(ctx, attempt.Child)
	if errors.Is(err, work.ErrNotFound) {
		return o.vanished(ctx, e, attempt)
	}
	if err != nil {
		return err
	}
	runs := "Nomad has forgotten its container"
	for _, a := range child.Allocations {
		switch {
		case a.ID != claim.Allocation:
		case a.Ended():
			o.conclude(ctx, e, attempt.ID, a.Ending())
			return nil
		default:
			runs = fmt.Sprintf("Nomad says that its container on node %s is %s", a.Node, a.ClientStatus)
		}
	}
	detail := fmt.Sprintf("its worker lost its Consul session at %s and did not come back within %s, while %s",
		stamp(attempt.Suspicion.Since), time.Since(attempt.Suspicion.Since).Round(time.Second), runs)
	if sign := o.lastSign(&attempt, nil); !sign.at.IsZero() {
		detail += fmt.Sprintf("; its last sign of life, from %s, came at %s", sign.from, stamp(sign.at))
	}
	o.conclude(ctx, e, attempt.ID, work.Ending{Reason: work.ReasonUnreachable, Detail: detail, Session: claim.Session})
	return nil
}

// vanished ends an attempt whose job Nomad does not know any more, unless its
// worker lives: then it goes on, and reports through Consul.
func (o *Orchestrator) vanished(ctx context.Context, e *entry, attempt work.Attempt) error {
	claim, index, err := o.store.Claim(ctx, attempt.ID)
	if err != nil {
		return err
	}
	if index != 0 && !claim.Ended {
		sessions, err := o.store.Sessions(ctx)
		if err != nil || sessions[claim.Session] {
			return err
		}
	}
	removed, err := o.cluster.Deregistered(ctx, attempt.Child)
	if err != nil {
		return err
	}
	end := work.Ending{Session: claim.Session}
	switch {
	case removed:
		end.Reason, end.Detail = work.ReasonKilledByOperator, "its Nomad job was removed by hand"
	case attempt.State == work.AttemptStarting:
		end.Reason, end.Detail = work.ReasonStartFailed, "Nomad lost its job before a container was seen to run"
	default:
		end.Reason, end.Detail = work.ReasonNodeLost, "Nomad does not know its job any more: it lost its state, or collected the job as garbage"
	}
	o.conclude(ctx, e, attempt.ID, end)
	return nil
}
