package consul_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/wait"
	"drover/internal/work"
)

// Of one run.
const (
	runTime     = 8 * time.Second
	opTimeout   = 1500 * time.Millisecond
	lockClients = 8
	candidates  = 3
	readers     = 2
	// checkTimeout is how long a history may take to be judged.
	checkTimeout = 2 * time.Minute
)

// runsVariable names the environment variable with the number of runs.
const (
	runsVariable = "DROVER_TEST_RUNS"
	defaultRuns  = 10
)

// never is the end of an operation of which nobody knows whether it took effect: it may do so at any time yet.
const never = math.MaxInt64

// TestLocksAndLeaderWritesAreLinearizable runs clients that lock, unlock and lose their sessions, and would-be leaders that
// write, on a cluster of three real Consul servers of which some are killed or paused at random moments. In every run the
// histories of both must have an order that one client after the other could have produced.
func TestLocksAndLeaderWritesAreLinearizable(t *testing.T) {
	runs := defaultRuns
	if text := os.Getenv(runsVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", runsVariable, err)
		}
		runs = n
	}
	cluster := testkit.NewConsulCluster(t, 3, linearHCL)
	var total tally
	for n := range runs {
		r := newRun(t, cluster, n)
		r.do()
		total.add(r.check())
		if t.Failed() {
			break
		}
	}
	fmt.Printf("linearizable runs=%d faults=%d lock_ops=%d granted=%d refused=%d sessions_lost=%d regained=%d not_regained=%d leader_ops=%d terms=%d unknown=%d violations=%d\n",
		total.runs, total.faults, total.lockOps, total.granted, total.refused, total.lost, total.regained, total.unregained, total.leaderOps, total.terms, total.unknown, total.violations)
}

// tally counts what happened, so that runs in which nothing did can't pass for proof.
type tally struct {
	runs, faults, lockOps, granted, refused, lost, regained, unregained, leaderOps, terms, unknown, violations int
}

func (t *tally) add(o tally) {
	t.runs++
	t.faults += o.faults
	t.lockOps += o.lockOps
	t.granted += o.granted
	t.refused += o.refused
	t.lost += o.lost
	t.regained += o.regained
	t.unregained += o.unregained
	t.leaderOps += o.leaderOps
	t.terms += o.terms
	t.unknown += o.unknown
	t.violations += o.violations
}

// run is one run: a short while of everybody at work.
type run struct {
	t       *testing.T
	n       int
	cluster *testkit.ConsulCluster
	prefix  string
	began   time.Time
	ends    time.Time
	locks   *lockHistory
	writes  *registerHistory
	left    chan func() // what gives back what the clients still hold
	faults  int
}

func newRun(t *testing.T, cluster *testkit.ConsulCluster, n int) *run {
	r := &run{t: t, n: n, cluster: cluster, prefix: "test/" + work.NewID(time.Now()), left: make(chan func(), 1000)}
	r.began = time.Now()
	r.ends = r.began.Add(runTime)
	r.locks, r.writes = newLockHistory(r.now), &registerHistory{}
	return r
}

// now is the time since the run began, in nanoseconds.
func (r *run) now() int64 { return time.Since(r.began).Nanoseconds() }

func (r *run) over() bool { return time.Now().After(r.ends) }

// open returns a client of one of the servers, which may be paused and answer nothing.
func (r *run) open(server int) *consul.Client {
	transport := cleanhttp.DefaultPooledTransport()
	transport.ResponseHeaderTimeout = opTimeout
	r.left <- transport.CloseIdleConnections
	client, err := consul.Open(consul.Options{Address: r.cluster.Servers[server].Address, Prefix: r.prefix, Transport: transport, Timing: linearTiming})
	if err != nil {
		r.t.Error(err)
	}
	return client
}

func (r *run) do() {
	var all sync.WaitGroup
	for i := range lockClients {
		all.Go(func() { newLockClient(r, i).work() })
	}
	for i := range candidates {
		all.Go(func() { r.candidate(i) })
	}
	for i := range readers {
		all.Go(func() { r.reader(i) })
	}
	r.harm()
	all.Wait()
	r.cluster.Heal(r.t)
	close(r.left)
	for giveBack := range r.left {
		giveBack()
	}
}

// harm kills or pauses servers, one or two of the three, for a part of the run, or all of them.
func (r *run) harm() {
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(r.n)))
	servers := append([]*testkit.ConsulServer(nil), r.cluster.Servers...)
	random.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	if leader := r.cluster.Leader(); leader != nil && random.IntN(2) == 0 { // as often as not the one that matters most
		for i := range servers {
			if servers[i] == leader {
				servers[0], servers[i] = servers[i], servers[0]
			}
		}
	}
	if random.IntN(3) == 0 {
		r.outage(servers, random)
		return
	}
	for _, s := range servers[:1+random.IntN(2)] {
		_ = wait.For(r.t.Context(), time.Duration(random.IntN(600))*time.Millisecond)
		pause := time.Duration(200+random.IntN(1000)) * time.Millisecond
		r.faults++
		if random.IntN(2) == 0 {
			s.Kill()
			_ = wait.For(r.t.Context(), pause)
			s.Start(r.t)
		} else {
			s.Pause()
			_ = wait.For(r.t.Context(), pause)
			s.Continue()
		}
	}
}

// outage kills every server, for longer than heartbeats last.
func (r *run) outage(servers []*testkit.ConsulServer, random *rand.Rand) {
	_ = wait.For(r.t.Context(), time.Duration(random.IntN(1500))*time.Millisecond)
	r.faults++
	for _, s := range servers {
		s.Kill()
	}
	_ = wait.For(r.t.Context(), linearTTL+time.Duration(random.IntN(500))*time.Millisecond)
	for _, s := range servers {
		s.Start(r.t)
	}
}

// check judges both histories.
func (r *run) check() tally {
	r.t.Helper()
	found := r.locks.tally()
	found.faults = r.faults
	r.writes.tally(&found)
	for what, history := range map[string]struct {
		model porcupine.Model
		ops   []porcupine.Operation
	}{"locks": {lockModel(), r.locks.operations()}, "leader": {registerModel(), r.writes.operations()}} {
		result, info := porcupine.CheckOperationsVerbose(history.model, history.ops, checkTimeout)
		if result == porcupine.Ok {
			continue
		}
		found.violations++
		r.t.Errorf("run %d: the history of %d operations of %s is not linearizable (%s)%s", r.n, len(history.ops), what, result, r.picture(history.model, info, what))
	}
	for _, violation := range r.locks.brokenPushes() {
		found.violations++
		r.t.Errorf("run %d: %s", r.n, violation)
	}
	return found
}

// picture writes what porcupine draws, and says where.
func (r *run) picture(model porcupine.Model, info porcupine.LinearizationInfo, what string) string {
	path := filepath.Join(testkit.ModuleRoot(r.t), "build", fmt.Sprintf("not-linearizable-%s-%d.html", what, r.n))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), porcupine.VisualizePath(model, info, path)); err != nil {
		return ": " + err.Error()
	}
	return ": see " + strings.TrimPrefix(path, testkit.ModuleRoot(r.t)+"/")
}
