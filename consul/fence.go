package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/wait"
	"drover/internal/work"
)

// The fence is the index of the leader's key. Every transaction of a term checks
// it: it moves when the lock changes hands, and when the leader itself writes the
// key again (raiseFence). After that nothing takes effect any more that was sent
// before and whose answer was lost, however long it was held up: a paused Consul
// carries out what lies in its buffers when it goes on.

// fenceRetry is the pause before the fence is tried again.
const fenceRetry = 250 * time.Millisecond

// raiseFence moves the fence from an index, unless that has been done, and tries
// until it has. It returns work.ErrFenced when another leads by now, and the
// context's cause when it ends first.
func (t *Term) raiseFence(ctx context.Context, from uint64) error {
	t.fencing.Lock()
	defer t.fencing.Unlock()
	for t.fence.Load() == from {
		if err := wait.For(ctx, fenceRetry); err != nil {
			return err
		}
		t.raised++
		if ok, err := t.lock(ctx); err != nil {
			t.client.log.Warn("the fence is not raised yet, trying again", "error", err)
			continue
		} else if !ok {
			return t.fenced("the leader's lock can't be taken again")
		}
		if err := t.readFence(ctx); errors.Is(err, work.ErrFenced) {
			return err
		}
	}
	return nil
}

// passFence reads where the fence is after Consul refused a transaction at it. It
// returns work.ErrFenced unless it has moved and this server still leads.
func (t *Term) passFence(ctx context.Context, refused uint64, what string) error {
	t.fencing.Lock()
	defer t.fencing.Unlock()
	for t.fence.Load() == refused {
		err := t.readFence(ctx)
		switch {
		case errors.Is(err, work.ErrFenced):
			return err
		case err == nil && t.fence.Load() == refused:
			return t.fenced(what)
		case err != nil:
			if err := wait.For(ctx, fenceRetry); err != nil {
				return err
			}
		}
	}
	return nil
}

// readFence reads the fence anew. It returns work.ErrFenced when another leads.
func (t *Term) readFence(ctx context.Context) error {
	pair, _, err := t.client.repeat.KV().Get(t.client.Keys.Leader(), consistent(ctx))
	switch {
	case err != nil:
		return classify("read the leader's key", false, err)
	case pair == nil || pair.Session != t.session:
		return t.fenced("the leader's lock is lost")
	}
	t.fence.Store(pair.ModifyIndex)
	return nil
}

// lock takes the leader's lock, or takes it again. Consul does not count a write
// that changes nothing, so each has how often the fence was raised in it.
func (t *Term) lock(ctx context.Context) (bool, error) {
	value, err := json.Marshal(t.who.Leader)
	if err != nil {
		return false, fmt.Errorf("encode leader: %w", err)
	}
	pair := &api.KVPair{Key: t.client.Keys.Leader(), Value: value, Session: t.session, Flags: t.raised}
	ok, _, err := t.client.once.KV().Acquire(pair, (&api.WriteOptions{}).WithContext(ctx))
	return ok, classify("acquire the leader lock", true, err)
}

// fenced ends the term, because another may lead.
func (t *Term) fenced(what string) error {
	err := fmt.Errorf("%s: %w", what, work.ErrFenced)
	t.lose(err)
	return err
}
