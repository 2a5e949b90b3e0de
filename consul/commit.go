package consul

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// Bounds of one transaction. Consul takes 128 operations since 1.14.0 and 64
// before, which is the bound of a single commit; the body's limit is 512 KiB
// (txn_max_req_len), from which what the fence takes is kept back.
const (
	maxOps      = 128
	maxOpsOlder = 64
	maxBytes    = 512<<10 - opBytes
	opBytes     = 512 // of an operation, at most, without key and value
)

// bodyBytes is what an operation takes of a transaction's body.
func bodyBytes(op *api.KVTxnOp) int {
	const escaped = 6 // an & in a key
	return opBytes + base64.StdEncoding.EncodedLen(len(op.Value)) + escaped*len(op.Key)
}

// Bounds of one attempt's kept logs: as they are stored, and once unpacked.
const (
	maxStoredLogs = 64 << 10
	maxLogsBytes  = 4 << 20
)

// tooManyOps is in the answer of a Consul that takes fewer operations.
const tooManyOps = "too many operations"

// commit is one caller's changes on their way into a transaction.
type commit struct {
	ops   api.TxnOps
	bytes int
	done  chan error
}

// Commit stores changes, all or none, if this server still leads. Commits that
// wait at the same time share one transaction.
//
// It returns work.ErrFenced when another server leads (nothing was written, unless
// work.ErrUnknownOutcome comes with it), work.ErrConflict when a claim was changed meanwhile, work.ErrInvalid when
// Consul can never take the changes, and the context's cause when it ends first:
// then the outcome is unknown.
func (t *Term) Commit(ctx context.Context, changes ...work.Change) error {
	c := &commit{done: make(chan error, 1)}
	for _, change := range changes {
		ops, err := t.client.Keys.ops(change)
		if err != nil {
			return err
		}
		c.ops = append(c.ops, ops...)
	}
	for _, op := range c.ops {
		c.bytes += bodyBytes(op.KV)
	}
	if len(c.ops) >= maxOpsOlder || c.bytes > maxBytes {
		return fmt.Errorf("commit of %d operations and %d bytes: over Consul's limits of %d and %d: %w", len(c.ops), c.bytes, maxOpsOlder-1, maxBytes, work.ErrInvalid)
	}
	select {
	case t.commits <- c:
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-t.closed:
		return fmt.Errorf("commit: %w: %w", context.Cause(t.ctx), work.ErrUnknownOutcome)
	}
}

// flight is how many transactions are under way at a time: Consul takes the next
// ones while it makes the last durable. Whoever changes an item waits until that
// is stored, so two of them never hold the same key.
const flight = 4

// runCommits is the group commit: it takes what waits, stores it in one
// transaction, and takes again.
func (t *Term) runCommits(ctx context.Context) {
	slots := make(chan struct{}, flight)
	var held *commit
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if held == nil {
			select {
			case held = <-t.commits:
			case <-ctx.Done():
				return
			}
		}
		var batch []*commit
		batch, held = t.gather(held)
		t.tasks.Go(func() {
			defer func() { <-slots }()
			t.store(ctx, batch)
		})
	}
}

// gather returns what fits one transaction of what waits, beginning with first,
// and the commit that came next and did not fit, if one did.
func (t *Term) gather(first *commit) (batch []*commit, next *commit) {
	bytes, count := 0, 1 // the fence
	for c := first; ; {
		if count+len(c.ops) > int(t.maxOps.Load()) || bytes+c.bytes > maxBytes {
			return batch, c
		}
		batch, bytes, count = append(batch, c), bytes+c.bytes, count+len(c.ops)
		select {
		case c = <-t.commits:
		default:
			return batch, nil
		}
	}
}

// store sends a batch. When Consul refuses it for one commit's sake, each is
// sent by itself, so that no caller pays for another.
func (t *Term) store(ctx context.Context, batch []*commit) {
	var ops api.TxnOps
	for _, c := range batch {
		ops = append(ops, c.ops...)
	}
	err := t.send(ctx, ops)
	if err != nil && strings.Contains(err.Error(), tooManyOps) {
		t.maxOps.Store(maxOpsOlder)
	}
	if len(batch) > 1 && err != nil && !errors.Is(err, work.ErrFenced) && ctx.Err() == nil {
		for _, c := range batch {
			t.store(ctx, []*commit{c})
		}
		return
	}
	for _, c := range batch {
		c.done <- err
	}
}

// send stores one transaction, behind the fence. Until its outcome is known it is
// sent again: every operation sets or removes a key that only the leader writes,
// and the fence is raised first, so that a copy which was held up on its way can't
// undo what is stored after it. A claim that was closed by an earlier copy is told
// apart by reading it back.
func (t *Term) send(ctx context.Context, ops api.TxnOps) error {
	txn := append(api.TxnOps{nil}, ops...)
	for doubtful := false; ; {
		fence := t.fence.Load()
		txn[0] = &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: t.client.Keys.Leader(), Index: fence}}
		// Txn().Txn would decode what became of each operation, which nobody reads
		// and takes as long as all else of the call.
		_, err := t.client.once.Raw().Write("/v1/txn", txn, nil, (&api.WriteOptions{}).WithContext(ctx))
		var status api.StatusError
		errors.As(err, &status)
		switch {
		case err == nil:
			return nil
		case status.Code == http.StatusConflict:
			if again, err := t.refused(ctx, ops, fence, status.Body, doubtful); !again {
				return err
			}
			continue
		}
		switch err = classify("commit", true, err); {
		case ctx.Err() != nil:
			return fmt.Errorf("commit: %w: %w", context.Cause(ctx), work.ErrUnknownOutcome)
		case status.Code == http.StatusBadRequest || status.Code == http.StatusRequestEntityTooLarge:
			return err
		}
		t.client.log.Warn("commit failed and is sent again", "error", err)
		doubtful = true
		if err := t.raiseFence(ctx, fence); err != nil {
			return fmt.Errorf("commit: %w: %w", err, work.ErrUnknownOutcome)
		}
	}
}

// refused translates a transaction that Consul rolled back, from its answer. It
// says whether it is to be sent again.
func (t *Term) refused(ctx context.Context, ops api.TxnOps, fence uint64, answer string, doubtful bool) (again bool, err error) {
	var rolledBack api.TxnResponse
	if err := json.Unmarshal([]byte(answer), &rolledBack); err != nil {
		return false, fmt.Errorf("commit: Consul refused it and says %q: %w", answer, work.ErrInvalid)
	}
	var what []string
	for _, e := range rolledBack.Errors {
		if e.OpIndex == 0 {
			err := t.passFence(ctx, fence, e.What)
			switch {
			case err == nil:
				return true, nil
			case doubtful: // an earlier copy may have come through
				return false, fmt.Errorf("commit: %w: %w", err, work.ErrUnknownOutcome)
			}
			return false, fmt.Errorf("commit: %w", err)
		}
		what = append(what, e.What)
	}
	text := strings.Join(what, "; ")
	if !strings.Contains(text, "index is stale") {
		return false, fmt.Errorf("commit: Consul refused it: %s: %w", text, work.ErrInvalid)
	}
	if doubtful && t.stored(ctx, ops) {
		return false, nil
	}
	return false, fmt.Errorf("commit: %s: %w", text, work.ErrConflict)
}

// stored reports whether every compare-and-set of ops holds the value it was to
// set: then an earlier try, whose answer was lost, has stored them all.
func (t *Term) stored(ctx context.Context, ops api.TxnOps) bool {
	for _, op := range ops {
		if op.KV.Verb != api.KVCAS {
			continue
		}
		pair, _, err := t.client.repeat.KV().Get(op.KV.Key, consistent(ctx))
		if err != nil || pair == nil || string(pair.Value) != string(op.KV.Value) {
			return false
		}
	}
	return true
}

// ops returns the operations of one change.
func (k Keys) ops(change work.Change) (api.TxnOps, error) {
	switch {
	case change.PutItem != nil:
		return put(k.Item(change.PutItem.ID), change.PutItem)
	case change.DeleteItem != "":
		return api.TxnOps{remove(k.Item(change.DeleteItem)), removeTree(k.ItemLogs(change.DeleteItem))}, nil
	case change.PutEnvelope != nil:
		return put(k.Envelope(change.PutEnvelope.Attempt), change.PutEnvelope)
	case change.ConsumeResult != "":
		return api.TxnOps{remove(k.Result(change.ConsumeResult))}, nil
	case change.CloseClaim != nil:
		ops, err := put(k.Claim(change.CloseClaim.Claim.Attempt), change.CloseClaim.Claim)
		if err == nil {
			ops[0].KV.Verb, ops[0].KV.Index = api.KVCAS, change.CloseClaim.Index
		}
		return ops, err
	case change.PutLogs != nil:
		data, err := zipLogs(*change.PutLogs)
		if err != nil {
			return nil, fmt.Errorf("logs of attempt %s: %w", change.PutLogs.Attempt, err)
		}
		return api.TxnOps{set(k.Logs(change.PutLogs.Attempt), data)}, nil
	case change.PutToken != nil:
		return put(k.Token(change.PutToken.ID), change.PutToken)
	case change.DeleteToken != "":
		return api.TxnOps{remove(k.Token(change.DeleteToken))}, nil
	case change.Forget != "":
		a := change.Forget
		return api.TxnOps{remove(k.Claim(a)), remove(k.Envelope(a)), remove(k.Progress(a))}, nil
	case change.PutQueue != nil:
		return put(k.Queue(change.PutQueue.Name), change.PutQueue)
	case change.DeleteQueue != "":
		return api.TxnOps{remove(k.Queue(change.DeleteQueue))}, nil
	case change.PutBreaker != nil:
		return put(k.Breaker(change.PutBreaker.Repository), change.PutBreaker)
	case change.DeleteBreaker != "":
		return api.TxnOps{remove(k.Breaker(change.DeleteBreaker))}, nil
	}
	return nil, fmt.Errorf("empty change: %w", work.ErrInvalid)
}

// zipLogs compresses logs, and leaves the first half of their lines out until
// they fit: the end tells most.
func zipLogs(logs work.KeptLogs) ([]byte, error) {
	for {
		data, err := zipJSON(logs)
		if err != nil || len(data) <= maxStoredLogs || len(logs.Stdout)+len(logs.Stderr) == 0 {
			return data, err
		}
		logs.Stdout = logs.Stdout[(len(logs.Stdout)+1)/2:]
		logs.Stderr = logs.Stderr[(len(logs.Stderr)+1)/2:]
	}
}

func put(key string, v any) (api.TxnOps, error) {
	data, err := work.EncodeStored(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	return api.TxnOps{set(key, data)}, nil
}

func set(key string, value []byte) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: value}}
}

func remove(key string) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: key}}
}

func removeTree(folder string) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDeleteTree, Key: folder}}
}
