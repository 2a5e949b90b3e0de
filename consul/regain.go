package consul

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// Regain proves that the attempt is still this process's, or takes it back where
// nothing was lost with the session:
//
//  1. The claim is open and names a session of this process that lives: nothing
//     has to be done. Sessions survive an outage of Consul's servers.
//  2. The session is gone: a new one takes its place, in one transaction that fails
//     if another process came between. The claim must be at the index
//     at which this process wrote it, so that the leader has not closed or marked it.
//     If the attempt has a lock, its key must still be there, as it was read and
//     without a holder: a process that takes an overlapping path removes that key first.
//     The guard moves, so that a grant which has read the key as lost fails.
//
// It returns work.ErrAttemptLost when neither can ever be, and work.ErrUnavailable
// or work.ErrUnknownOutcome, after which it may be repeated.
func (a *Attempt) Regain(ctx context.Context) error {
	a.locking.Lock()
	defer a.locking.Unlock()
	there, index, err := a.client.Claim(ctx, a.id)
	if err != nil {
		return err
	}
	own := a.Claim()
	switch {
	case index == 0:
		return a.lost("its claim is gone")
	case there.Ended:
		return a.lost("it has ended")
	case there.Allocation != own.Allocation || !a.tried[there.Session]:
		return a.lost("allocation " + there.Allocation + " has claimed it")
	case there.Session != own.Session:
		a.adopt(there, index) // by a transaction whose answer was lost
	}
	if lives, err := a.client.sessionLives(ctx, there.Session); err != nil || lives {
		return err
	}
	if index != a.index {
		return a.lost("its claim was changed by another")
	}
	if err := a.renew(ctx); err != nil {
		return err
	}
	return a.reclaim(ctx)
}

func (a *Attempt) lost(why string) error {
	return fmt.Errorf("take attempt %s back: %s: %w", a.id, why, work.ErrAttemptLost)
}

// renew makes a check and a session for the next claim, unless there are such.
func (a *Attempt) renew(ctx context.Context) error {
	if a.next.Session != "" {
		if lives, err := a.client.sessionLives(ctx, a.next.Session); err != nil || lives {
			return err
		}
		a.next = work.Claim{}
	}
	entered, err := a.enter(ctx, "its session was lost, the attempt is taken back")
	if err == nil {
		a.next = entered
	}
	return err
}

// reclaim writes the next claim, and locks the attempt's own key by its session.
func (a *Attempt) reclaim(ctx context.Context) error {
	value, err := json.Marshal(a.next)
	if err != nil {
		return fmt.Errorf("encode claim: %w", err)
	}
	ops := api.KVTxnOps{{Verb: api.KVCAS, Key: a.client.Keys.Claim(a.id), Value: value, Index: a.index}}
	there, err := a.client.repositoryLocks(ctx, a.repository)
	if err != nil {
		return err
	}
	relock, err := a.relock(there)
	if err != nil {
		return err
	}
	what := "take attempt " + string(a.id) + " back"
	ok, answer, _, err := a.client.once.KV().Txn(append(ops, relock...), (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err != nil:
		return classify(what, true, err)
	case ok && len(answer.Results) > 0:
		a.holds = len(relock) > 0
		a.adopt(a.next, answer.Results[0].ModifyIndex)
		return nil
	case ok:
		return fmt.Errorf("%s: Consul answers without an index: %w", what, work.ErrUnknownOutcome)
	}
	// What moved meanwhile is read anew, and may be final then.
	return fmt.Errorf("%s: %s: %w", what, errorTexts(answer.Errors), work.ErrUnavailable)
}

// relock returns what locks the attempt's own key by the next session: nothing
// where it holds no paths.
func (a *Attempt) relock(there repositoryLocks) (api.KVTxnOps, error) {
	for _, s := range there.locks {
		if s.key != a.lockKey() {
			continue
		}
		if !s.Lost {
			return nil, fmt.Errorf("take attempt %s back: session %s has its lock: %w", a.id, s.Session, work.ErrUnavailable)
		}
		lock := s.Lock
		lock.Session, lock.Lost = a.next.Session, false
		value, err := json.Marshal(lock)
		if err != nil {
			return nil, fmt.Errorf("encode lock: %w", err)
		}
		return api.KVTxnOps{
			{Verb: api.KVCAS, Key: a.client.Keys.LockGuard(a.repository), Value: []byte(rand.Text()), Index: there.guard},
			{Verb: api.KVCheckIndex, Key: s.key, Index: s.index},
			{Verb: api.KVLock, Key: s.key, Value: value, Session: lock.Session},
		}, nil
	}
	if a.holds {
		return nil, a.lost("its paths were given up for lost, another may have them")
	}
	return nil, nil
}

func errorTexts(errs api.TxnErrors) (text string) {
	for i, e := range errs {
		if i > 0 {
			text += "; "
		}
		text += e.What
	}
	return text
}
