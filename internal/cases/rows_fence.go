package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/work"
)

const kindSessionLost = "the worker's session ends while its agent works"

// fenceRows are about workers that lose their session in Consul and take their attempt back.
func fenceRows() []row {
	lost := func(id string, own bool, times int, paths []string, end func(*api.Client, work.Claim) error) row {
		return row{
			ID: id, Kind: kindSessionLost, Own: own, Spec: fields{"paths": paths},
			Agent: agent{Script: `commit one; pushed; until [ -e "$REMOTE/go" ]; do sleep 0.1; done; commit two`},
			Meanwhile: func(ctx context.Context, r *run) error {
				for range times {
					if err := r.loseSession(ctx, end); err != nil {
						return err
					}
				}
				return os.WriteFile(filepath.Join(r.git.Path(r.repository), "go"), nil, 0o600)
			},
			Right: outcome{
				State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one", "two"}, Files: files{"work.txt": "one\ntwo\n"},
				PR: work.PRCreated,
			},
		}
	}
	destroyed := func(client *api.Client, claim work.Claim) error {
		_, err := client.Session().Destroy(claim.Session, nil)
		return err
	}
	forgotten := func(client *api.Client, claim work.Claim) error { // as a Consul agent that leaves its cluster and comes back
		services, err := client.Agent().Services()
		if err != nil {
			return err
		}
		for id, service := range services {
			if service.Meta["allocation"] == claim.Allocation {
				return client.Agent().ServiceDeregister(id)
			}
		}
		return fmt.Errorf("no service of %s", claim.Attempt)
	}
	return []row{
		lost("I1 session", false, 1, nil, destroyed),
		lost("I1 paths", true, 2, []string{"src"}, destroyed),
		lost("I6", false, 1, nil, forgotten),
		lost("I6 paths", true, 1, []string{"."}, forgotten),
	}
}

// loseSession waits until the agent has pushed, ends its worker's session, and waits until the worker has another.
func (r *run) loseSession(ctx context.Context, end func(*api.Client, work.Claim) error) error {
	config := api.DefaultConfig()
	config.Address = r.drover.Exports["CONSUL_HTTP_ADDR"]
	client, err := api.NewClient(config)
	if err != nil {
		return err
	}
	drover, err := consul.Open(consul.Options{Address: config.Address})
	if err != nil {
		return err
	}
	var claim work.Claim
	_, err = r.await(func(item work.Item) bool {
		if item.Current() == nil || r.git.Head(r.repository, item.Branch) == "" {
			return false
		}
		claim, _, err = drover.Claim(ctx, item.CurrentID())
		return err == nil && claim.Session != ""
	})
	if err != nil {
		return fmt.Errorf("wait for the agent's first commit: %w", err)
	}
	if err := end(client, claim); err != nil {
		return fmt.Errorf("end session %s: %w", claim.Session, err)
	}
	_, err = r.await(func(work.Item) bool {
		now, _, err := drover.Claim(ctx, claim.Attempt)
		return err == nil && (now.Session != claim.Session || now.Ended)
	})
	return err
}
