package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker"
)

// realBench is a bench with a real Consul.
func realBench(t *testing.T, script string) *bench {
	t.Helper()
	return benchOn(t, testkit.ConsulAddress(t), script)
}

func TestAttemptOnRealConsul(t *testing.T) {
	t.Parallel()
	b := realBench(t, `commit one; commit two`)
	if r := b.result(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
	b.wantNothingLeft()
	twin := *b
	twin.alloc, twin.dir = "ffffffff-0000-0000-0000-000000000000", t.TempDir()
	if err := twin.run(); err != nil || !strings.Contains(b.out.String(), "nothing to do") {
		t.Errorf("an allocation after the end: %v\n%s", err, b.out)
	}
}

func TestSilentAgentOnRealConsul(t *testing.T) {
	t.Parallel()
	b := realBench(t, `commit one; sleep 600`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallyPushed(1)
	b.eventuallyWarned()
	if beats, _, err := b.client.Heartbeats(t.Context(), 0); err != nil || len(beats) != 1 || beats[0].Critical {
		t.Errorf("heartbeats %+v, %v", beats, err)
	}
	stop()
	if err := wait(); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("the worker ended with %v", err)
	}
}

func TestWorkerWithoutRealConsulGivesUpAfterTheGrace(t *testing.T) {
	t.Parallel()
	const ttl, grace = 3 * time.Second, 4 * time.Second
	server := startServer(t)
	b := benchOn(t, server.address, `commit one; while :; do sleep 0.1; echo working; done`)
	b.envelope.Spec.Limits.HeartbeatTTL, b.envelope.Spec.Limits.FenceGrace = work.Duration(ttl), work.Duration(grace)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	server.kill()
	died := time.Now()
	if err := wait(); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("the worker ended with %v", err)
	}
	if took := time.Since(died); took < grace || took > ttl+grace+releasePatience {
		t.Errorf("the worker went on for %s", took)
	}
	b.wantLog("one")
}

// releasePatience is what a fenced worker may still wait for a Consul that is gone.
const releasePatience = 5 * time.Second

func TestRestartOfConsulWithinTheTTLIsSurvived(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	b := benchOn(t, server.address, `commit one; gate on; commit two`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(time.Minute)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	server.kill()
	b.eventuallySaid("heartbeat not taken")
	server.start()
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
}

// TestRestartOfTheNodesConsulAgent restarts a client agent in the way systemctl does. That leaves the cluster, which ends the
// session at once; the worker takes its attempt back, with its paths.
func TestRestartOfTheNodesConsulAgent(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	agent := server.startAgent()
	b := benchOn(t, agent.address, `commit one; gate on; commit two`)
	b.envelope.Spec.Paths = []string{"src"}
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	lost := b.stored().Session
	agent.leave()
	watch := testkit.ConsulClient(t, server.address)
	testkit.Eventually(t, patience, func() error {
		if info, _, err := watch.Session().Info(lost, nil); err != nil || info != nil {
			return fmt.Errorf("session %v, %w", info, err)
		}
		return nil
	})
	agent.start()
	b.eventuallyTakenBack(lost)
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
	b.wantNothingLeft()
	if locks := b.locks(); len(locks) > 0 {
		t.Errorf("left %+v", locks)
	}
}

// server is a real Consul server that keeps its state on disk, so that it can be killed and started again.
type server struct {
	t       *testing.T
	args    []string
	address string
	gossip  string // address
	cmd     *exec.Cmd
	log     *bytes.Buffer
}

func startServer(t *testing.T) *server {
	t.Helper()
	binary := testkit.ConsulBinary(t)
	ports := testkit.FreePorts(t, 3)
	s := &server{t: t, address: "127.0.0.1:" + strconv.Itoa(ports[0]), gossip: "127.0.0.1:" + strconv.Itoa(ports[2]), args: []string{
		binary, "agent", "-server", "-bootstrap-expect=1", "-data-dir=" + t.TempDir(), "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=error",
		"-http-port=" + strconv.Itoa(ports[0]), "-server-port=" + strconv.Itoa(ports[1]), "-serf-lan-port=" + strconv.Itoa(ports[2]),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-hcl=performance { raft_multiplier = 1 }",
	}}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// startAgent starts a client agent of the server, on a node of its own.
func (s *server) startAgent() *server {
	s.t.Helper()
	ports := testkit.FreePorts(s.t, 2)
	agent := &server{t: s.t, address: "127.0.0.1:" + strconv.Itoa(ports[0]), args: []string{
		s.args[0], "agent", "-node=client", "-data-dir=" + s.t.TempDir(), "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=error",
		"-http-port=" + strconv.Itoa(ports[0]), "-serf-lan-port=" + strconv.Itoa(ports[1]), "-retry-join=" + s.gossip, "-retry-interval=1s",
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
	}}
	agent.start()
	s.t.Cleanup(agent.kill)
	return agent
}

// leave ends an agent as systemctl does: by SIGTERM, on which a client agent leaves the cluster.
func (s *server) leave() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	_ = s.cmd.Wait() // it is its end that counts
	s.cmd = nil
}

// start starts the server and waits until sessions can be made.
func (s *server) start() {
	s.t.Helper()
	s.log = &bytes.Buffer{}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	client := testkit.ConsulClient(s.t, s.address)
	testkit.Eventually(s.t, patience, func() error {
		checks, _, err := client.Health().State("passing", nil)
		if err != nil || len(checks) == 0 {
			return fmt.Errorf("consul is not ready: %d healthy nodes, %w", len(checks), err)
		}
		return nil
	})
}

func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it is its end that counts
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}
