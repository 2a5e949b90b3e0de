package consul_test

import (
	"errors"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
)

// TestLocksGoWithTheNodesConsulAgent kills the agent that holds a worker's check, for good: nobody is left to find the check
// critical but the servers, who miss the node.
func TestLocksGoWithTheNodesConsulAgent(t *testing.T) {
	t.Parallel()
	cluster := testkit.NewConsulCluster(t, 3)
	prefix := "test/" + work.NewID(time.Now())
	node, other := open(t, cluster.Servers[2].Address, prefix), open(t, cluster.Servers[0].Address, prefix)
	other.SetLockDelay(time.Second)
	first, second := holder(t, node), holder(t, other)
	mustLock(t, first, "src")
	cluster.Servers[2].Kill()
	const notice = 2 * time.Minute // what the servers may take to miss a node
	if _, err := second.Lock(t.Context(), pathSet(t, "src/a"), notice, nil); err != nil {
		t.Fatal(err)
	}
	cluster.Heal(t)
	if err := first.Confirm(t.Context()); !errors.Is(err, work.ErrSessionLost) {
		t.Errorf("the first one's session, once its agent is back: %v", err)
	}
}
