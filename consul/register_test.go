package consul_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// TestLeaderIsFoundThroughTheCatalog: of the registered servers the leader has
// the tag, also after a change, and one that is not well still is found.
func TestLeaderIsFoundThroughTheCatalog(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		if _, err := client.LeaderAddress(t.Context()); !errors.Is(err, work.ErrNoLeader) {
			t.Fatalf("without a server: %v", err)
		}
		var sick atomic.Bool
		candidate := func(id string) consul.Candidate {
			return consul.Candidate{Leader: consul.Leader{ID: id, Address: "http://" + id + ":4700"}, TTL: leaderTTL, Version: "1", Health: func(context.Context) error {
				if sick.Load() {
					return errors.New("nomad does not answer")
				}
				return nil
			}}
		}
		sick.Store(true)
		first, err := open().Lead(t.Context(), candidate("a"))
		if err != nil {
			t.Fatal(err)
		}
		elected := make(chan *consul.Term, 1)
		go func() {
			term, err := open().Lead(t.Context(), candidate("b"))
			if err != nil {
				t.Error(err)
			}
			elected <- term
		}()
		found := func(leader string, count int, healthy bool) {
			t.Helper()
			testkit.Eventually(t, patience, func() error {
				servers, err := client.Servers(t.Context())
				if err != nil {
					return err
				}
				if len(servers) != count || servers[0].Address != leader || !servers[0].Leads || servers[0].Healthy != healthy || servers[0].Version != "1" || count > 1 && servers[1].Leads {
					return fmt.Errorf("found %+v", servers)
				}
				address, err := client.LeaderAddress(t.Context())
				if address != leader {
					return fmt.Errorf("the leader is at %s, %v", address, err)
				}
				return nil
			})
		}
		found("http://a:4700", 2, false)
		sick.Store(false)
		first.Resign()
		second := <-elected
		found("http://b:4700", 1, true)
		second.Resign()
		if servers, err := client.Servers(t.Context()); err != nil || len(servers) != 0 {
			t.Errorf("after the last resigned: %+v %v", servers, err)
		}
	})
}
