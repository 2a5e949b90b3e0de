package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"drover/internal/config"
	"drover/internal/devcluster"
)

const (
	failovers = 5
	// failoverSlack is what a failover may take beyond the leader's TTL.
	failoverSlack = 2 * time.Second
)

// failover measures how long nobody answers when a leader is killed while another server waits: from the kill to the first
// answer of the next leader. The yardstick is a bare Consul lock whose holder's TTL check, of the same length, is passed
// no more: from the last pass to a waiter's acquisition.
func failover(ctx context.Context, real bool) (_ []figure, err error) {
	cluster, err := devcluster.Start(ctx, devcluster.Options{Embedded: !real})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	leader, err := startServer(ctx, cluster)
	if err != nil {
		return nil, err
	}
	ttl := config.DefaultLeaderTTL.Std()
	var ours, bare []time.Duration
	for range failovers {
		next, err := startServer(ctx, cluster)
		if err != nil {
			return nil, errors.Join(err, leader.stop())
		}
		took, err := replace(ctx, leader.kill, next)
		if err != nil {
			return nil, errors.Join(err, next.stop())
		}
		ours, leader = append(ours, took), next
		if took, err = silentHolderLoses(ctx, cluster.ConsulAddr, ttl); err != nil {
			return nil, errors.Join(err, leader.stop())
		}
		bare = append(bare, took)
	}
	if err := leader.stop(); err != nil {
		return nil, err
	}
	const most = 100 // percent: the longest of all
	figures := []figure{{name: "leader_failover_max", ours: percentile(ours, most), yardstick: percentile(bare, most), target: ttl + failoverSlack}}
	return figures, writeResults("leader_failover", map[string][]time.Duration{"drover_ns": ours, "lock_ns": bare})
}

// silentHolderLoses measures a bare lock.
func silentHolderLoses(ctx context.Context, address string, ttl time.Duration) (took time.Duration, err error) {
	client, err := consulapi.NewClient(&consulapi.Config{Address: address})
	if err != nil {
		return 0, err
	}
	const key, check = "bench/failover", "bench-failover"
	service := &consulapi.AgentServiceRegistration{ID: check, Name: check, Check: &consulapi.AgentServiceCheck{CheckID: check, TTL: ttl.String(), Status: consulapi.HealthPassing}}
	if err := client.Agent().ServiceRegister(service); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, client.Agent().ServiceDeregister(check)) }()
	began := time.Now()
	if err := client.Agent().UpdateTTL(check, "", consulapi.HealthPassing); err != nil {
		return 0, err
	}
	holder, _, err := client.Session().Create(&consulapi.SessionEntry{LockDelay: time.Millisecond, ServiceChecks: []consulapi.ServiceCheck{{ID: check}}}, nil)
	if err != nil {
		return 0, err
	}
	waiter, _, err := client.Session().CreateNoChecks(&consulapi.SessionEntry{LockDelay: time.Millisecond}, nil)
	if err != nil {
		return 0, err
	}
	defer func() {
		_, destroyed := client.Session().Destroy(waiter, nil)
		err = errors.Join(err, destroyed)
	}()
	if ok, _, err := client.KV().Acquire(&consulapi.KVPair{Key: key, Session: holder}, nil); err != nil || !ok {
		return 0, fmt.Errorf("lock %s: %t %w", key, ok, err)
	}
	for ctx.Err() == nil {
		held, meta, err := client.KV().Get(key, nil)
		if err == nil && held != nil && held.Session == holder {
			_, _, err = client.KV().Get(key, (&consulapi.QueryOptions{WaitIndex: meta.LastIndex}).WithContext(ctx))
		}
		if err != nil {
			return 0, err
		}
		ok, _, err := client.KV().Acquire(&consulapi.KVPair{Key: key, Session: waiter}, nil)
		if err != nil || ok {
			return time.Since(began), err
		}
	}
	return 0, ctx.Err()
}
