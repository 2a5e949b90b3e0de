package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/devcluster"
	"drover/internal/work"
)

const (
	submitted = 100_000
	// rawRate is the least share of the raw rate that drover is to reach, in percent.
	rawRate = 70
	// rawOps is how many operations a raw transaction has: what a Consul before 1.14.0 takes.
	rawOps = 64
	// rawFlight is how many raw transactions are under way at a time: as many as drover's.
	rawFlight = 4
	// submitRounds is how often both are measured, one after the other; the round with
	// the middle ratio counts, since a machine is quicker at one minute than at the next.
	submitRounds = 9

	listCalls  = 100
	listTarget = 50 * time.Millisecond
	listed     = 50 // items of a page
)

// submit100k measures how long `drover submit -f` takes for a file of 100,000
// items, from the start of the command to its end. The yardstick is the same keys
// and values written to the same Consul in transactions of 64 operations that do
// nothing else. Then a page of these items is listed.
func submit100k(ctx context.Context, _ bool) (_ []figure, err error) {
	if _, err := exec.LookPath("consul"); err != nil { // the embedded one shares a process with who measures it
		dir, err := filepath.Abs("build/bin")
		if err != nil {
			return nil, err
		}
		if err := os.Setenv("PATH", dir+":"+os.Getenv("PATH")); err != nil {
			return nil, err
		}
	}
	if _, err := exec.LookPath("consul"); err != nil {
		return nil, fmt.Errorf("a real consul is needed (make consul): %w", err)
	}
	rounds := make([]submitTimes, submitRounds)
	var ours, raw, lists, reads []time.Duration
	for i := range rounds {
		if rounds[i], err = submitRound(ctx); err != nil {
			return nil, err
		}
		ours, raw = append(ours, rounds[i].ours), append(raw, rounds[i].raw)
		lists, reads = append(lists, rounds[i].lists...), append(reads, rounds[i].reads...)
	}
	slices.SortFunc(rounds, func(a, b submitTimes) int { return cmp.Compare(a.ratio(), b.ratio()) })
	middle := rounds[submitRounds/2]
	const tail, percent = 99, 100
	figures := []figure{
		{name: "submit_100k", ours: middle.ours, yardstick: middle.raw, target: middle.raw * percent / rawRate},
		{name: "list_100k_p99", ours: percentile(lists, tail), yardstick: percentile(reads, tail), target: listTarget},
	}
	return figures, writeResults("submit_100k", map[string][]time.Duration{"drover_ns": ours, "raw_ns": raw, "list_ns": lists, "read_ns": reads})
}

type submitTimes struct {
	ours, raw    time.Duration
	lists, reads []time.Duration
}

func (t submitTimes) ratio() float64 { return float64(t.ours) / float64(t.raw) }

// submitRound measures everything once: drover and the yardstick on servers of
// their own, since a Consul that has grown once is quicker at it a second time.
func submitRound(ctx context.Context) (times submitTimes, err error) {
	pairs, err := times.drover(ctx)
	if err != nil {
		return times, err
	}
	return times, times.yardstick(ctx, pairs)
}

// drover submits a file, and returns what is in Consul then.
func (t *submitTimes) drover(ctx context.Context) (pairs consulapi.KVPairs, err error) {
	dir, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "items.jsonl")
	if err := writeItems(file); err != nil {
		return nil, err
	}
	cluster, err := devcluster.Start(ctx, devcluster.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	server, err := startServer(ctx, cluster)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	if t.ours, err = submitFile(ctx, server, file); err != nil {
		return nil, err
	}
	if t.lists, err = timed(listCalls, func() error {
		page, err := server.client.Items(ctx, control.Query{Limit: listed})
		if err == nil && (page.Total != submitted || len(page.Items) != listed) {
			err = fmt.Errorf("%d items stored, %d on a page", page.Total, len(page.Items))
		}
		return err
	}); err != nil {
		return nil, err
	}
	return t.stored(ctx, cluster)
}

// stored reads a page of items from Consul, time and again, and all of them.
func (t *submitTimes) stored(ctx context.Context, cluster *devcluster.Cluster) (consulapi.KVPairs, error) {
	consul, err := consulapi.NewClient(&consulapi.Config{Address: cluster.ConsulAddr})
	if err != nil {
		return nil, err
	}
	pairs, _, err := consul.KV().List("drover/items/", nil)
	if err != nil || len(pairs) != submitted {
		return nil, fmt.Errorf("%d items in Consul: %w", len(pairs), err)
	}
	read := make(consulapi.TxnOps, listed)
	for i := range read {
		read[i] = &consulapi.TxnOp{KV: &consulapi.KVTxnOp{Verb: consulapi.KVGet, Key: pairs[i].Key}}
	}
	t.reads, err = timed(listCalls, func() error {
		_, _, _, err := consul.Txn().Txn(read, (&consulapi.QueryOptions{}).WithContext(ctx))
		return err
	})
	return pairs, err
}

// yardstick writes the same pairs to another Consul.
func (t *submitTimes) yardstick(ctx context.Context, pairs consulapi.KVPairs) (err error) {
	cluster, err := devcluster.Start(ctx, devcluster.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	consul, err := consulapi.NewClient(&consulapi.Config{Address: cluster.ConsulAddr})
	if err != nil {
		return err
	}
	began := time.Now()
	err = writeRaw(ctx, consul, pairs)
	t.raw = time.Since(began)
	return err
}

// writeItems writes the file: what people ask for, each with a text of its own.
func writeItems(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := bufio.NewWriter(file)
	encoder := json.NewEncoder(buffer)
	for n := range submitted {
		spec := work.Spec{
			Repository: fmt.Sprintf("https://git.example.com/team/repository-%d.git", n%1000),
			Task:       fmt.Sprintf("Fix issue %d. %s", n, strings.Repeat("What is wrong is told here, in some sentences. ", 4)),
			Labels:     map[string]string{"batch": "bench"}, NotBefore: time.Now().AddDate(1, 0, 0).UTC().Truncate(time.Second),
			Command: []string{"agent", "--yes"},
		}
		if err := encoder.Encode(spec); err != nil {
			return err
		}
	}
	return buffer.Flush()
}

// submitFile runs drover submit and returns how long it took.
func submitFile(ctx context.Context, server *candidate, file string) (time.Duration, error) {
	var out bytes.Buffer
	submit := exec.CommandContext(ctx, binary, "submit", "-f", file, "--address", server.client.Address())
	submit.Stdout, submit.Stderr = &out, &out
	submit.Env = append(submit.Environ(), "DROVER_TOKEN="+benchToken)
	began := time.Now()
	if err := submit.Run(); err != nil {
		return 0, fmt.Errorf("submit: %w: %s", err, out.String())
	}
	return time.Since(began), nil
}

// writeRaw writes pairs as fast as Consul takes them.
func writeRaw(ctx context.Context, consul *consulapi.Client, pairs consulapi.KVPairs) error {
	var group errgroup.Group
	group.SetLimit(rawFlight)
	for start := 0; start < len(pairs); start += rawOps {
		some := pairs[start:min(start+rawOps, len(pairs))]
		group.Go(func() error {
			ops := make(consulapi.TxnOps, len(some))
			for i, pair := range some {
				ops[i] = &consulapi.TxnOp{KV: &consulapi.KVTxnOp{Verb: consulapi.KVSet, Key: pair.Key, Value: pair.Value}}
			}
			ok, resp, _, err := consul.Txn().Txn(ops, (&consulapi.QueryOptions{}).WithContext(ctx))
			if err == nil && !ok {
				err = fmt.Errorf("raw transaction refused: %v", resp.Errors)
			}
			return err
		})
	}
	return group.Wait()
}

// timed calls f a number of times and returns how long each took.
func timed(calls int, f func() error) ([]time.Duration, error) {
	times := make([]time.Duration, calls)
	for i := range times {
		began := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		times[i] = time.Since(began)
	}
	return times, nil
}
