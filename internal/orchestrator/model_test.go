package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// claim is what a worker does first: it reports whether this allocation may
// work. The caller holds mu.
func (w *world) claim(a *work.Allocation) bool {
	if w.claimAt[a.Attempt] != 0 {
		return false
	}
	w.serial++
	session := "session of " + a.ID
	w.sessions[session] = true
	w.claims[a.Attempt] = work.Claim{Attempt: a.Attempt, Allocation: a.ID, Session: session}
	w.claimAt[a.Attempt], w.wrote[a.Attempt] = uint64(w.serial), uint64(w.serial)
	w.critical[a.Attempt] = false
	w.worked[a.Attempt]++
	return true
}

// reclaim is what a worker does that lost its session, once a second: it takes the
// attempt back if nobody wrote the claim since. The caller holds mu.
func (w *world) reclaim(a work.Allocation) {
	claim := w.claims[a.Attempt]
	if claim.Allocation != a.ID || claim.Ended || w.sessions[claim.Session] || w.claimAt[a.Attempt] != w.wrote[a.Attempt] {
		return
	}
	w.serial++
	claim.Session = fmt.Sprint("session ", w.serial, " of ", a.ID)
	w.sessions[claim.Session] = true
	w.claims[a.Attempt], w.claimAt[a.Attempt], w.wrote[a.Attempt] = claim, uint64(w.serial), uint64(w.serial)
	w.critical[a.Attempt] = false
	delete(w.lostAt, a.Attempt)
	w.bump()
}

// leave ends the session of a worker that exits, at once where it gives it up,
// or else once its TTL is over. The caller holds mu.
func (w *world) leave(a *work.Allocation, code int, ttl time.Duration) {
	claim := w.claims[a.Attempt]
	if claim.Allocation != a.ID {
		return
	}
	w.exits[a.Attempt] = code
	if !w.sessions[claim.Session] {
		return
	}
	if killed := code == 137 || code == 139; killed {
		w.dying[claim.Session] = time.Now().Add(ttl)
		return
	}
	w.endSession(claim.Session)
}

// run starts a pending allocation; a worker that can't claim ends at once.
func (w *world) run(child *work.Child, i int) {
	a := &child.Allocations[i]
	a.ClientStatus, a.Task.State, a.Task.Started = work.ClientRunning, "running", time.Now()
	child.Status = "running"
	w.tell(*a)
	if !w.claim(a) {
		w.exit(child, i, 0, false)
	}
}

// exit ends an allocation's task.
func (w *world) exit(child *work.Child, i, code int, oom bool) {
	a := &child.Allocations[i]
	a.ClientStatus, a.Task.State, a.Task.Finished = work.ClientComplete, "dead", time.Now()
	if code != 0 && a.DesiredStatus == work.DesiredRun {
		a.ClientStatus = work.ClientFailed
	}
	a.Task.Events = append(a.Task.Events, work.TaskEvent{Type: work.TaskTerminated, Details: map[string]string{
		"exit_code": fmt.Sprint(code), "signal": "0", "oom_killed": fmt.Sprint(oom),
	}})
	w.leave(a, code, work.DefaultHeartbeatTTL.Std())
	w.tell(*a)
}

// alive returns the allocations that are not over, with the state asked for.
func (w *world) alive(status string) (found []struct {
	child *work.Child
	i     int
}) {
	for _, id := range sortedKeys(w.children) {
		child := w.children[id]
		for i := range child.Allocations {
			if a := child.Allocations[i]; !a.Ended() && a.ClientStatus == status {
				found = append(found, struct {
					child *work.Child
					i     int
				}{child, i})
			}
		}
	}
	return found
}

// report stores a result, as a worker that holds the claim does.
func (w *world) report(a work.Allocation, reason work.Reason) {
	w.results[a.Attempt] = work.Result{Attempt: a.Attempt, Allocation: a.ID, Reason: reason, Detail: "reported", Commit: "c", RemoteCommit: "c"}
	w.bump()
}

// step is one thing that happens; n picks whom it happens to.
type step struct {
	what string
	n    int
}

// steps by what they do. Those named twice happen twice as often.
var happenings = []string{
	"submit", "submit", "place", "place", "complete", "complete", "stuck", "agent_error", "crash", "oom", "exit_silently",
	"node_lost", "twin", "stop_by_hand", "purge_by_hand", "go_silent", "go_silent", "lose_sessions", "reclaim", "reclaim", "fenced", "no_consul", "nomad_forgets", "release_locks", "late_result", "duplicate_event", "lose_events", "hear_events",
	"submit_paths", "submit_paths", "submit_paths", "submit_dependant", "submit_key", "git_auth_failed", "rate_limited", "lock", "unlock",
	"pause", "resume", "trip", "reset",
	"kill_leader", "kill_leader", "nomad_down", "nomad_up", "consul_down", "consul_up", "cancel", "second", "minute", "hour",
}

// model runs orchestrators on a world, one after the other.
type model struct {
	*world
	o      *orchestrator.Orchestrator
	cancel context.CancelCauseFunc
	done   chan struct{}
	ids    []string // acknowledged

	inFlight int                        // at a time; a few if zero
	config   func(*orchestrator.Config) // changes it; may be nil
}

// What submissions of the model are about.
var (
	modelRepositories = []string{"https://git.example.org/a/b.git", "https://git.example.org/c/d.git"}
	modelPaths        = [][]string{{"src"}, {"src/main.go"}, {"docs", "src/lib"}, {"docs"}, {"."}, {"**/*.md"}}
	modelQueues       = []string{work.DefaultQueue, "patient"}
)

func (m *model) lead() {
	m.mu.Lock()
	m.term++
	term := m.term
	m.mu.Unlock()
	var ctx context.Context
	ctx, m.cancel = context.WithCancelCause(context.Background())
	m.done = make(chan struct{})
	d := defaults()
	d.Resources.MemoryMaxMB = 300
	cfg := orchestrator.Config{
		MaxInFlight: max(m.inFlight, 4), Queues: map[string]orchestrator.Queue{work.DefaultQueue: {}, "patient": patient}, Defaults: d, Retry: work.DefaultRetryPolicy(), Breaker: work.DefaultBreakerPolicy(),
		Retention:      orchestrator.Retention{Keep: 2},
		ReconcileEvery: 30 * time.Second,
	}
	if m.config != nil {
		m.config(&cfg)
	}
	m.o = orchestrator.New(cfg, m.world, ledger{m.world, term}, cutOff{m.world, term}, hclog.NewNullLogger())
	go func(o *orchestrator.Orchestrator, done chan struct{}) {
		defer close(done)
		_ = o.Run(ctx) // ends with the term
	}(m.o, m.done)
}

// cutOff is a Nomad that hears nothing of a leader that was killed.
type cutOff struct {
	*world
	term int
}

func (c cutOff) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term != c.world.term
}

func (c cutOff) Dispatch(ctx context.Context, e work.Envelope) (string, error) {
	if c.gone() {
		return "", errDown
	}
	return c.world.Dispatch(ctx, e)
}

func (c cutOff) Stop(ctx context.Context, id string, purge bool) error {
	if c.gone() {
		return errDown
	}
	return c.world.Stop(ctx, id, purge)
}

func (c cutOff) Logs(context.Context, string, string, int) ([]byte, error) { return nil, nil }

// kill ends the leader at once, in whatever it does, and starts the next.
func (m *model) kill() {
	m.mu.Lock()
	m.term++ // from now on nothing it does counts
	m.bump()
	m.mu.Unlock()
	m.cancel(work.ErrFenced)
	<-m.done
	m.lead()
}

func (m *model) apply(st step) {
	switch st.what {
	case "submit":
		m.submit()
	case "submit_paths":
		m.submit(func(s *work.Spec) {
			s.Repository, s.Paths = modelRepositories[st.n/4], modelPaths[st.n%len(modelPaths)]
			s.Queue = modelQueues[st.n%len(modelQueues)]
		})
	case "submit_dependant":
		if len(m.ids) > 0 {
			m.submit(func(s *work.Spec) { s.DependsOn = []string{m.ids[st.n%len(m.ids)]} })
		}
	case "submit_key":
		m.submit(func(s *work.Spec) { s.UniqueKey = fmt.Sprint("key", st.n%2) })
	case "pause", "resume", "trip", "reset":
		m.operate(st.what, st.n)
	case "cancel":
		m.cancelOne(st.n)
	case "release_locks":
		m.releaseLocks(st.n)
	case "kill_leader":
		m.kill()
	case "second", "minute", "hour":
		time.Sleep(map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour}[st.what])
	default:
		m.mu.Lock()
		m.happen(st)
		m.mu.Unlock()
	}
	synctest.Wait()
}

func (m *model) submit(change ...func(*work.Spec)) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	id := work.NewID(time.Now())
	spec := work.Spec{Repository: modelRepositories[0], Task: "x"}
	for _, f := range change {
		f(&spec)
	}
	items, err := m.o.Submit(ctx, []control.Submission{{ID: id, Spec: spec}})
	if err == nil && items[0].ID == id { // another one may have its key
		m.ids = append(m.ids, id)
	}
}

// operate does what an operator does to a queue or a breaker.
func (m *model) operate(what string, n int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	queue, repository := modelQueues[n%len(modelQueues)], modelRepositories[n%len(modelRepositories)]
	switch what {
	case "pause", "resume":
		to := map[string]work.QueueState{"pause": work.QueuePaused, "resume": work.QueueActive}[what]
		_, _ = m.o.MoveQueue(ctx, queue, control.QueueTransition{State: to, By: "the model"}) // while Consul is down it fails
	case "trip":
		_, _ = m.o.TripBreaker(ctx, control.Trip{Repository: repository, For: work.Duration(time.Duration(n) * time.Minute)})
	case "reset":
		_, _ = m.o.ResetBreaker(ctx, repository)
	}
}

func (m *model) cancelOne(n int) {
	if len(m.ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = m.o.Order(ctx, m.ids[n%len(m.ids)], control.Order{Verb: control.Cancel, By: "the model"}) // refused for an item that has ended
}

func (m *model) releaseLocks(n int) {
	if len(m.ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = m.o.ReleaseLocks(ctx, control.LockRelease{ID: m.ids[n%len(m.ids)], By: "the model"}) // refused where none is held
}

// happen changes the world. The caller holds mu.
func (m *model) happen(s step) {
	switch s.what {
	case "nomad_down", "nomad_up":
		m.nomadDown = s.what == "nomad_down"
		m.bump()
	case "consul_down", "consul_up":
		m.consulDown = s.what == "consul_down"
		m.bump()
	case "lose_events", "hear_events":
		m.lossy = s.what == "lose_events"
	case "duplicate_event":
		if len(m.events) > 0 {
			m.tell(m.events[s.n%len(m.events)])
		}
	case "late_result":
		if len(m.ids) > 0 {
			m.reportLate(work.NewAttemptID(m.ids[s.n%len(m.ids)], 1))
		}
	case "lock":
		if found := m.alive(work.ClientRunning); len(found) > 0 {
			m.lock(found[s.n%len(found)].child.Attempt, modelPaths[s.n%len(modelPaths)])
		}
	case "unlock":
		clear(m.locks)
		m.bump()
	case "lose_sessions": // Consul's client agent leaves and joins again
		for session := range maps.Clone(m.sessions) {
			m.endSession(session)
		}
	case "reclaim":
		if !m.consulDown {
			for _, found := range m.alive(work.ClientRunning) {
				m.reclaim(found.child.Allocations[found.i])
			}
		}
	case "place":
		if found := m.alive(work.ClientPending); len(found) > 0 && !m.consulDown {
			pick := found[s.n%len(found)]
			m.run(pick.child, pick.i)
		}
	default:
		if found := m.alive(work.ClientRunning); len(found) > 0 {
			pick := found[s.n%len(found)]
			m.happenTo(s.what, pick.child, pick.i)
		}
	}
}

// lock has a worker that holds its claim lock paths. The caller holds mu.
func (m *model) lock(a work.AttemptID, paths []string) {
	if !m.sessions[m.claims[a].Session] {
		return
	}
	lock := work.Lock{Repository: work.RepositoryKey(m.item(a.Item()).Spec.Repository), Item: a.Item(), Attempt: a}
	for _, path := range paths {
		lock.Paths = append(lock.Paths, work.HeldPath{Path: path, Since: time.Now()})
	}
	m.locks[a] = lock
	m.bump()
}

// reportLate reports an item's first attempt for an allocation that nobody knows,
// if that is late: only a worker that holds the claim reports an open attempt.
func (m *model) reportLate(a work.AttemptID) {
	if _, ok := m.items[a.Item()]; !ok {
		return
	}
	item := m.item(a.Item())
	if attempt := item.Attempt(1); attempt != nil && attempt.State.Terminal() {
		m.report(work.Allocation{ID: "nobody", Attempt: a}, work.ReasonCompleted)
	}
}

func (m *model) happenTo(what string, child *work.Child, i int) {
	a := child.Allocations[i]
	switch what {
	case "complete", "stuck", "agent_error", "git_auth_failed", "rate_limited":
		claim := m.claims[a.Attempt]
		if !m.consulDown && claim.Allocation == a.ID && !claim.Ended && m.sessions[claim.Session] {
			reason := work.Reason(what)
			if what == "complete" {
				reason = work.ReasonCompleted
			}
			m.reported[a.Attempt] = reason
			m.report(a, reason)
			m.exit(child, i, 0, false)
		}
	case "crash":
		m.exit(child, i, 139, false)
	case "oom":
		m.exit(child, i, 137, true)
	case "exit_silently":
		m.exit(child, i, 0, false)
	case "node_lost": // and Nomad runs it elsewhere, though it was told not to
		child.Allocations[i].ClientStatus = work.ClientLost
		m.tell(child.Allocations[i])
		m.place(child)
	case "twin": // Nomad runs a second allocation beside the first
		m.place(child)
	case "stop_by_hand", "purge_by_hand":
		m.stop(child.ID, what == "purge_by_hand")
	case "go_silent":
		if m.claims[a.Attempt].Allocation == a.ID {
			m.endSession(m.claims[a.Attempt].Session)
		}
	case "fenced":
		if claim := m.claims[a.Attempt]; claim.Allocation == a.ID && (claim.Ended || !m.sessions[claim.Session]) {
			m.exit(child, i, work.WorkerExitFenced, false)
		}
	case "no_consul":
		if m.claims[a.Attempt].Allocation != a.ID {
			m.exit(child, i, work.WorkerExitNoConsul, false)
		}
	case "nomad_forgets": // and ends what it does not know
		m.exit(child, i, 137, false)
		delete(m.children, child.ID)
		delete(m.tokens, child.Attempt)
	}
}

// check says which of the design's rules does not hold.
func (m *model) check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.ids {
		if _, ok := m.items[id]; !ok && m.removed[id] == "" {
			m.fault("acknowledged item %s is lost", id)
		}
	}
	for a, n := range m.worked {
		if n > 1 {
			m.fault("attempt %s was worked on by %d allocations", a, n)
		}
	}
	if len(m.faults) > 0 {
		return errors.New(strings.Join(m.faults, "; "))
	}
	return nil
}

// settle heals everything, lets every worker succeed, and checks that all ends.
func (m *model) settle() error {
	for range 400 {
		m.mu.Lock()
		m.nomadDown, m.consulDown, m.lossy = false, false, false
		for _, pick := range m.alive(work.ClientPending) {
			m.run(pick.child, pick.i)
		}
		for _, pick := range m.alive(work.ClientRunning) {
			m.reclaim(pick.child.Allocations[pick.i])
			m.happenTo("complete", pick.child, pick.i)
		}
		clear(m.locks)
		m.bump()
		m.mu.Unlock()
		for n := range 2 {
			m.operate("resume", n)
			m.operate("reset", n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if m.finished() == nil {
			break
		}
	}
	return errors.Join(m.finished(), m.check())
}

// finished says what has not ended, or was left behind by an ended attempt.
func (m *model) finished() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.ids {
		if m.removed[id] != "" {
			continue
		}
		if item := m.item(id); !item.State.Terminal() {
			return fmt.Errorf("item %s is still %s: %s", id, item.State, item.Why)
		}
	}
	if len(m.children)+len(m.sessions)+len(m.results)+len(m.claims) > 0 {
		return fmt.Errorf("left behind: children %v, sessions %v, %d results, %d claims", sortedKeys(m.children), m.sessions, len(m.results), len(m.claims))
	}
	return nil
}

// TestRulesHoldInEveryOrderOfEvents drives orchestrators through random orders
// of events, crashes, outages and duplicates in virtual time, checks the rules
// after every step, and that in the end everything has ended and nothing is
// left. -rapid.checks sets the number of sequences.
func TestRulesHoldInEveryOrderOfEvents(t *testing.T) {
	generator := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(happenings).Draw(t, "what"), rapid.IntRange(0, 7).Draw(t, "n")}
	}), 5, 60)
	rapid.Check(t, func(rt *rapid.T) {
		steps := generator.Draw(rt, "steps")
		var err error
		synctest.Test(t, func(*testing.T) { err = sequence(steps) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func sequence(steps []step) (err error) {
	m := &model{world: newWorld()}
	m.lead()
	defer func() {
		m.cancel(work.ErrFenced)
		<-m.done
	}()
	synctest.Wait()
	for i, s := range steps {
		m.apply(s)
		if err := m.check(); err != nil {
			return fmt.Errorf("after step %d (%s): %w", i, s.what, err)
		}
	}
	return m.settle()
}

// TestSessionIsEndedWhenConsulIsBack: a cancelled worker leaves while Consul is
// away, so that its session can't be ended then.
func TestSessionIsEndedWhenConsulIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps []step
		for _, what := range []string{"lose_events", "submit", "place", "cancel", "consul_down", "minute"} {
			steps = append(steps, step{what: what})
		}
		if err := sequence(steps); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEndOfATwinIsNotTheAttempts: nobody saw the first allocation start when the
// second one, which may not work, has ended already.
func TestEndOfATwinIsNotTheAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &model{world: newWorld()}
		m.lead()
		defer func() {
			m.cancel(work.ErrFenced)
			<-m.done
		}()
		for _, what := range []string{"submit", "lose_events", "place", "twin", "hear_events", "place"} {
			m.apply(step{what: what})
		}
		if err := m.check(); err != nil {
			t.Fatal(err)
		}
		if item := m.item(m.ids[0]); len(item.Attempts) != 1 || item.Attempts[0].State.Terminal() {
			t.Fatalf("%+v", item.Attempts)
		}
		if err := m.settle(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSlowStarterIsNeverKilled has 50 containers take up to their start limit
// to come up, far longer than the heartbeat's TTL, and leaves them alone after.
func TestSlowStarterIsNeverKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &model{world: newWorld(), inFlight: 50}
		m.lead()
		defer func() {
			m.cancel(work.ErrFenced)
			<-m.done
		}()
		for range 50 {
			m.submit()
		}
		const start = work.DefaultStartTimeout
		for started := 0; started < 50; started++ {
			time.Sleep(start.Std() / 52)
			m.mu.Lock()
			pick := m.alive(work.ClientPending)[0]
			m.run(pick.child, pick.i)
			m.mu.Unlock()
			synctest.Wait()
		}
		if err := m.settle(); err != nil {
			t.Fatal(err)
		}
		for _, id := range m.ids {
			if item := m.item(id); item.State != work.StateCompleted || len(item.Attempts) != 1 {
				t.Errorf("item %s is %s after %d attempts: %s", id, item.State, len(item.Attempts), item.Attempts[0].Detail)
			}
		}
		if len(m.ids) != 50 {
			t.Fatalf("%d items", len(m.ids))
		}
	})
}
