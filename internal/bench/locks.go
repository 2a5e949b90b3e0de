package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/devcluster"
	"drover/internal/work"
)

const (
	lockRounds = 200
	// lockTarget is how often the yardstick's time locking may take: a lock is a read and a transaction, an unlock a
	// transaction.
	lockTarget = 3
)

// lockSizes are the numbers of paths that are locked at once.
var lockSizes = []int{1, 8, 64}

// locks measures locking and unlocking of paths, as an attempt does. The yardstick is as many bare transactions, which
// lock and unlock one key of the same size by a session.
func locks(ctx context.Context, real bool) (_ []figure, err error) {
	cluster, err := devcluster.Start(ctx, devcluster.Options{Embedded: !real})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	client, err := consul.Open(consul.Options{Address: cluster.ConsulAddr, Prefix: "bench"})
	if err != nil {
		return nil, err
	}
	item := work.NewID(time.Now())
	spec := work.Spec{Repository: "https://git.example.org/team/app.git", Task: "x"}.WithDefaults(work.NewDefaults())
	attempt, err := client.ClaimAttempt(ctx, work.Envelope{Format: work.StoredFormat, Item: item, Attempt: work.NewAttemptID(item, 1), Spec: spec}, "bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, attempt.Release(context.WithoutCancel(ctx))) }()
	bare, err := consulapi.NewClient(&consulapi.Config{Address: cluster.ConsulAddr})
	if err != nil {
		return nil, err
	}
	var figures []figure
	raw := map[string][]time.Duration{}
	for _, size := range lockSizes {
		f, err := lockFigure(ctx, attempt, bare, size, raw)
		if err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	return figures, writeResults("locks", raw)
}

// lockFigure measures drover and the yardstick in turn, so that both meet the same machine.
func lockFigure(ctx context.Context, attempt *consul.Attempt, bare *consulapi.Client, size int, raw map[string][]time.Duration) (figure, error) {
	f := figure{name: fmt.Sprintf("lock_unlock_%d", size)}
	var texts []string
	for i := range size {
		texts = append(texts, fmt.Sprintf("internal/package%d/file%d.go", i%8, i))
	}
	paths, err := work.NewPathSet(texts...)
	if err != nil {
		return f, err
	}
	for range lockRounds {
		began := time.Now()
		lock, err := attempt.Lock(ctx, paths, 0, nil)
		if err == nil {
			err = attempt.UnlockAll(ctx)
		}
		if err != nil {
			return f, err
		}
		ours := time.Since(began)
		value, err := json.Marshal(lock)
		if err != nil {
			return f, err
		}
		began = time.Now()
		if err := bareLock(ctx, bare, attempt.Claim().Session, value); err != nil {
			return f, err
		}
		theirs := time.Since(began)
		f.ours, f.yardstick = f.ours+ours, f.yardstick+theirs
		raw[f.name+"_drover_ns"] = append(raw[f.name+"_drover_ns"], ours)
		raw[f.name+"_bare_ns"] = append(raw[f.name+"_bare_ns"], theirs)
	}
	f.target = lockTarget * f.yardstick
	return f, nil
}

// bareLock locks and unlocks a key in two transactions.
func bareLock(ctx context.Context, client *consulapi.Client, session string, value []byte) error {
	const key = "bench/bare"
	for _, ops := range []consulapi.KVTxnOps{
		{{Verb: consulapi.KVLock, Key: key, Session: session, Value: value}},
		{{Verb: consulapi.KVUnlock, Key: key, Session: session}, {Verb: consulapi.KVDelete, Key: key}},
	} {
		ok, answer, _, err := client.KV().Txn(ops, (&consulapi.QueryOptions{}).WithContext(ctx))
		if err != nil || !ok {
			return fmt.Errorf("bare transaction: %v %w", answer, err)
		}
	}
	return nil
}
