package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

// clientPatience bounds the wait for an item that works for minutes.
const clientPatience = 5 * time.Minute

// twoClients is a spine on a real Nomad and a real Consul with two clients, which can be cut off.
type twoClients struct {
	*spine
	net     *testkit.NomadNetwork
	journal string // directory; what agents did is in a file for each item
}

// newTwoClients starts a server on two clients, each with a Consul agent of its own.
func newTwoClients(t *testing.T, serverHCL string) *twoClients {
	t.Helper()
	net := testkit.NewNomadNetwork(t, 2, serverHCL)
	s := newSpineOn(t, servers{consul: net.ConsulAddress, nomad: net.Nomad.Address()})
	t.Cleanup(func() { testkit.KillMentioning(filepath.Join(s.bin, "drover-worker")) }) // a test that failed leaves some
	s.git = gittest.New(t, gittest.Options{Username: "drover", Password: gitToken, Address: net.Host + ":0"})
	if err := s.git.CreateRepo(repository, map[string]string{"README.md": "a shop\n"}); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
http { address = %q }
consul {
  address = %q
  prefix  = %q
}
nomad { address = %q }
worker {
  driver = "raw_exec"
  binary = %q
}
defaults {
  command       = [%q]
  memory_mb     = 256
  cpu_mhz       = 500
  heartbeat_ttl = "10s"
  pr_provider   = "none"
  max_iterations = 1000
}
retry { backoff = ["500ms"] }
orchestrator {
  leader_ttl         = "5s"
  reconcile_interval = "2s"
}
`, s.address, s.consul, s.prefix, s.nomad, filepath.Join(s.bin, "drover-worker"), s.command)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	return &twoClients{spine: s, net: net, journal: t.TempDir()}
}

// running submits an item of so many commits, and waits until its agent has pushed the first.
func (s *twoClients) running(commits int) (work.Item, *testkit.NomadNode) {
	s.t.Helper()
	journal := filepath.Join(s.journal, "journal")
	id := s.submit(fmt.Sprintf("commits=%d delay=2s journal=%s", commits, journal))[0]
	var item work.Item
	testkit.Eventually(s.t, patience, func() error {
		var err error
		item, err = s.item(id)
		if err == nil && (item.State != work.StateInProgress || len(s.git.Log(repository, item.Branch)) < 2) {
			err = fmt.Errorf("item is %s (%s), nothing is pushed", item.State, item.Why)
		}
		return err
	})
	node := item.Current().Node
	if node == "" {
		s.t.Fatalf("attempt %s has no node", item.CurrentID())
	}
	return item, s.net.Client(s.t, node)
}

// starts returns the process ids of the agents that started, by attempt.
func (s *twoClients) starts() (pids []int, attempts []int) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.journal, "journal"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var attempt, pid int
		if n, _ := fmt.Sscanf(line, "start %d %d", &attempt, &pid); n == 2 {
			pids, attempts = append(pids, pid), append(attempts, attempt)
		}
	}
	return pids, attempts
}

// ended checks that an item completed with these reasons of its attempts, one agent each and every commit once.
func (s *twoClients) ended(id string, commits int, want ...work.Reason) work.Item {
	s.t.Helper()
	var item work.Item
	testkit.Eventually(s.t, clientPatience, func() (err error) {
		if item, err = s.item(id); err == nil && !item.State.Terminal() {
			err = fmt.Errorf("item %s is %s: %s", id, item.State, item.Why)
		}
		return err
	})
	var got []work.Reason
	for _, a := range item.Attempts {
		got = append(got, a.Reason)
	}
	if item.State != work.StateCompleted || fmt.Sprint(got) != fmt.Sprint(want) || item.Retries != 0 {
		s.t.Errorf("item is %s (%s), attempts ended as %v with %d retries spent; want completed, %v and 0: %s", item.State, item.Why, got, item.Retries, want, item.Attempts[0].Detail)
	}
	if _, attempts := s.starts(); len(attempts) != len(want) {
		s.t.Errorf("agents started in attempts %v, want one in each of %d", attempts, len(want))
	}
	const rest = "Commit what the agent left uncommitted" // drover's own: a worker that is told to stop keeps half a step
	log := s.git.Log(repository, item.Branch)
	if i := slices.Index(log, rest); i > 0 && slices.Contains(want, work.ReasonPreempted) {
		log = slices.Delete(log, i, i+1)
	}
	if len(log) != commits+1 {
		s.t.Errorf("branch has %d commits, want %d: %s", len(log)-1, commits, strings.Join(log, ", "))
	}
	return item
}

// gone waits until a process has ended.
func (s *twoClients) gone(pid int) {
	s.t.Helper()
	testkit.Eventually(s.t, patience, func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d still runs", pid)
		}
		return nil
	})
}

// claim returns the claim of an attempt.
func (s *twoClients) claim(a work.AttemptID) (work.Claim, error) {
	client, err := consul.Open(consul.Options{Address: s.consul, Prefix: s.prefix, Transport: s.transport})
	if err != nil {
		return work.Claim{}, err
	}
	claim, _, err := client.Claim(s.t.Context(), a)
	return claim, err
}

// sessionGone waits until Consul's server has ended the session of an attempt's claim.
func (s *twoClients) sessionGone(a work.AttemptID) {
	s.t.Helper()
	claim, err := s.claim(a)
	if err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, patience, func() error {
		session, _, err := s.net.Consul.Session().Info(claim.Session, &consulapi.QueryOptions{RequireConsistent: true})
		if err == nil && session != nil {
			err = fmt.Errorf("session %s of attempt %s is still there", session.ID, a)
		}
		return err
	})
}

// TestClientThatIsCutOffForAMomentKeepsItsWorker cuts a client off until the session of its worker is gone, but not for
// so long that Nomad calls the node down: the worker takes its attempt back.
func TestClientThatIsCutOffForAMomentKeepsItsWorker(t *testing.T) {
	const commits = 25
	s := newTwoClients(t, `heartbeat_grace = "60s"`)
	item, node := s.running(commits)
	s.net.Cut(t, node)
	s.sessionGone(item.CurrentID())
	s.net.Mend(t, node)
	if status, err := s.net.NodeStatus(node); err != nil || status != nomadapi.NodeStatusReady {
		t.Fatalf("node is %s, %v; want ready", status, err)
	}
	s.ended(item.ID, commits, work.ReasonCompleted)
}

// TestClientThatIsCutOffForLongLosesItsWorker cuts a client off until Nomad calls its node down. The attempt is lost, the
// next one runs on the other client, and the worker of the first ends without a further push once its client is back.
func TestClientThatIsCutOffForLongLosesItsWorker(t *testing.T) {
	const commits = 35
	s := newTwoClients(t, `heartbeat_grace = "5s"`)
	item, node := s.running(commits)
	pids, _ := s.starts()
	s.net.Cut(t, node)
	s.net.AwaitNode(t, node, nomadapi.NodeStatusDown)
	testkit.Eventually(t, patience, func() error {
		now, err := s.item(item.ID)
		if err == nil && (len(now.Attempts) != 2 || now.Attempts[1].Node == "") {
			err = fmt.Errorf("no second attempt runs: %s (%s)", now.State, now.Why)
		}
		return err
	})
	if err := syscall.Kill(pids[0], 0); err != nil {
		t.Errorf("the first agent is gone while its client is cut off: %v; want it to go on for its grace", err)
	}
	s.net.Mend(t, node)
	s.net.AwaitNode(t, node, nomadapi.NodeStatusReady)
	s.gone(pids[0])
	ended := s.ended(item.ID, commits, work.ReasonNodeLost, work.ReasonCompleted)
	if other := ended.Attempts[1].Node; other == node.Name {
		t.Errorf("attempt 2 ran on %s, want the other client", other)
	}
}

// TestPreemptedAttemptIsRequeued runs a job of higher priority that needs the room of a worker.
func TestPreemptedAttemptIsRequeued(t *testing.T) {
	const commits = 10
	s := newTwoClients(t, `default_scheduler_config {
    preemption_config {
      batch_scheduler_enabled = true
    }
  }`)
	item, node := s.running(commits)
	stop := s.hog(node)
	testkit.Eventually(t, patience, func() error {
		now, err := s.item(item.ID)
		if err == nil && now.Attempts[0].Reason != work.ReasonPreempted {
			err = fmt.Errorf("attempt 1 is %s %s (%s), want preempted", now.Attempts[0].State, now.Attempts[0].Reason, now.Attempts[0].Detail)
		}
		return err
	})
	stop()
	s.ended(item.ID, commits, work.ReasonPreempted, work.ReasonCompleted)
}

// hog runs a job on a node that leaves no room for anything else, until stop is called.
func (s *twoClients) hog(node *testkit.NomadNode) (stop func()) {
	s.t.Helper()
	const priority, mhz, memoryMB = 90, 1900, 256
	mhzNow, memory := mhz, memoryMB
	job := nomadapi.NewBatchJob("hog", "hog", "global", priority).AddDatacenter("*").
		Constrain(nomadapi.NewConstraint("${node.unique.name}", "=", node.Name)).
		AddTaskGroup(nomadapi.NewTaskGroup("hog", 1).AddTask(
			nomadapi.NewTask("hog", "raw_exec").SetConfig("command", "sleep").SetConfig("args", []string{"600"}).
				Require(&nomadapi.Resources{CPU: &mhzNow, MemoryMB: &memory})))
	if _, _, err := s.net.Nomad.Jobs().Register(job, nil); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if _, _, err := s.net.Nomad.Jobs().Deregister("hog", true, nil); err != nil {
			s.t.Error(err)
		}
	}
}
