package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"drover/internal/api"
	"drover/internal/devcluster"
)

const (
	handovers       = 20
	handoverTarget  = time.Second
	handoverPoll    = 2 * time.Millisecond
	handoverTimeout = time.Minute
)

// handover measures how long nobody answers when a leader is stopped with
// SIGTERM while another server waits: from the signal to the first answer of the
// next leader. The yardstick is a bare Consul lock that changes hands: from its
// release to a waiter's blocking query and acquisition.
func handover(ctx context.Context, real bool) (_ []figure, err error) {
	cluster, err := devcluster.Start(ctx, devcluster.Options{Embedded: !real})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	var ours, bare []time.Duration
	leader, err := startServer(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for range handovers {
		next, err := startServer(ctx, cluster)
		if err != nil {
			return nil, errors.Join(err, leader.stop())
		}
		took, err := replace(ctx, leader.stop, next)
		if err != nil {
			return nil, errors.Join(err, next.stop())
		}
		ours, leader = append(ours, took), next
		took, err = lockChangesHands(ctx, cluster.ConsulAddr)
		if err != nil {
			return nil, errors.Join(err, leader.stop())
		}
		bare = append(bare, took)
	}
	if err := leader.stop(); err != nil {
		return nil, err
	}
	const most = 100 // percent: the longest of all
	figures := []figure{{name: "leader_handover_max", ours: percentile(ours, most), yardstick: percentile(bare, most), target: handoverTarget}}
	return figures, writeResults("leader_handover", map[string][]time.Duration{"drover_ns": ours, "lock_ns": bare})
}

// benchToken is the token of the servers and of their clients.
const benchToken = "bench"

// candidate is a `drover server` that runs as a process of its own.
type candidate struct {
	process *exec.Cmd
	client  *api.Client
}

// startServer starts a server and waits until its API answers through it,
// whoever leads.
func startServer(ctx context.Context, cluster *devcluster.Cluster) (*candidate, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	process := exec.Command(path, "server", "--http-addr", address, "--log-level", "off")
	process.Env = append(process.Environ(), "NOMAD_ADDR="+cluster.NomadAddr, "CONSUL_HTTP_ADDR="+cluster.ConsulAddr, "DROVER_WORKER_IMAGE="+image, "DROVER_TOKEN="+benchToken)
	if err := process.Start(); err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.ClientOptions{Address: address, Token: benchToken})
	if err != nil {
		return nil, err
	}
	c := &candidate{process: process, client: client}
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	for {
		if _, err := c.client.Status(ctx); err == nil {
			return c, nil
		} else if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("server at %s: %w", address, err), c.stop())
		}
	}
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// stop ends a server as an operator does, and waits for it.
func (c *candidate) stop() error {
	defer c.client.Close()
	if err := c.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return c.process.Wait()
}

// kill ends a server as the kernel does, and waits for it.
func (c *candidate) kill() error {
	defer c.client.Close()
	if err := c.process.Process.Kill(); err != nil {
		return err
	}
	_ = c.process.Wait() // its status is the signal
	return nil
}

// replace ends the leader, and returns how long it took until the other leads.
func replace(ctx context.Context, end func() error, next *candidate) (time.Duration, error) {
	before, err := next.client.Status(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- end() }()
	for {
		status, err := next.statusOnce(ctx)
		if err == nil && status != before.Leader {
			return time.Since(began), <-stopped
		}
		if time.Since(began) > handoverTimeout || ctx.Err() != nil {
			return 0, errors.Join(fmt.Errorf("no other server led within %s: %w", handoverTimeout, err), <-stopped)
		}
		time.Sleep(handoverPoll)
	}
}

// statusOnce asks who leads, without the client's own repetitions.
func (c *candidate) statusOnce(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, handoverTarget/10)
	defer cancel()
	status, err := c.client.Status(ctx)
	return status.Leader, err
}

// lockChangesHands measures a bare lock.
func lockChangesHands(ctx context.Context, address string) (took time.Duration, err error) {
	client, err := consulapi.NewClient(&consulapi.Config{Address: address})
	if err != nil {
		return 0, err
	}
	const key = "bench/handover"
	var sessions [2]string
	for i := range sessions {
		entry := &consulapi.SessionEntry{Name: "bench", LockDelay: time.Millisecond}
		if sessions[i], _, err = client.Session().CreateNoChecks(entry, nil); err != nil {
			return 0, err
		}
		defer func() {
			_, destroyed := client.Session().Destroy(sessions[i], nil)
			err = errors.Join(err, destroyed)
		}()
	}
	if ok, _, err := client.KV().Acquire(&consulapi.KVPair{Key: key, Session: sessions[0]}, nil); err != nil || !ok {
		return 0, fmt.Errorf("lock %s: %t %w", key, ok, err)
	}
	held, _, err := client.KV().Get(key, nil)
	if err != nil {
		return 0, err
	}
	acquired := make(chan error, 1)
	go func() {
		_, _, err := client.KV().Get(key, (&consulapi.QueryOptions{WaitIndex: held.ModifyIndex}).WithContext(ctx))
		if err == nil {
			_, _, err = client.KV().Acquire(&consulapi.KVPair{Key: key, Session: sessions[1]}, nil)
		}
		acquired <- err
	}()
	began := time.Now()
	if _, _, err := client.KV().Release(&consulapi.KVPair{Key: key, Session: sessions[0]}, nil); err != nil {
		return 0, err
	}
	err = <-acquired
	return time.Since(began), err
}
