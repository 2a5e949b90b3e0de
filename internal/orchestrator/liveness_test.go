package orchestrator_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// runAll lets every container start that Nomad has placed.
func (m *model) runAll() {
	synctest.Wait()
	m.mu.Lock()
	for _, p := range m.alive(work.ClientPending) {
		m.run(p.child, p.i)
	}
	m.mu.Unlock()
	synctest.Wait()
}

// do changes the world and lets the orchestrator take note.
func (m *model) do(what string) {
	m.mu.Lock()
	m.happen(step{what: what})
	m.mu.Unlock()
	synctest.Wait()
}

// pass lets time go by.
func (m *model) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// stored returns an item as it is stored.
func (m *model) stored(id string) work.Item {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.item(id)
}

// window is for how long the session of a worker with default limits must be gone.
var window = work.DefaultHeartbeatTTL.Std()

// runningItem returns an item whose attempt runs, and claimed it.
func (m *model) runningItem(t *testing.T) string {
	t.Helper()
	id := m.send(t, work.Spec{})[0]
	m.runAll()
	m.expect(t, id, work.StateInProgress)
	return id
}

// expectEnd checks how an item's first attempt ended, and what that did to the item.
func (m *model) expectEnd(t *testing.T, id string, reason work.Reason, retries int) {
	t.Helper()
	item := m.stored(id)
	if a := item.Attempts[0]; a.Reason != reason || a.Detail == "" || item.Retries != retries || item.State.Terminal() {
		t.Fatalf("attempt 1: reason = %q (%s), item %s with %d retries; want %s, %d retries", a.Reason, a.Detail, item.State, item.Retries, reason, retries)
	}
}

func TestWorkerThatLostItsSessionMayComeBack(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		for range 3 {
			m.do("lose_sessions")
			m.pass(window - 5*time.Second)
			if a := m.stored(id).Attempts[0]; a.Suspicion == nil || a.State.Terminal() {
				t.Fatalf("suspicion = %v, state = %s, want one, running", a.Suspicion, a.State)
			}
			m.do("reclaim")
			m.pass(10 * time.Second)
			if a := m.stored(id).Attempts[0]; a.Suspicion != nil || a.State.Terminal() {
				t.Fatalf("after it came back: suspicion = %v, state = %s, want none, running", a.Suspicion, a.State)
			}
		}
		m.pass(time.Hour)
		m.finish(work.ReasonCompleted)
		if item := m.stored(id); item.State != work.StateCompleted || len(item.Attempts) != 1 {
			t.Errorf("state = %s, attempts = %d, want completed, 1", item.State, len(item.Attempts))
		}
	})
}

func TestLostWorkerIsUnreachableAndItsContainerIsStopped(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.do("lose_sessions")
		m.pass(window + 25*time.Second)
		m.expectEnd(t, id, work.ReasonUnreachable, 0)
		m.mu.Lock()
		defer m.mu.Unlock()
		if found := m.alive(work.ClientRunning); len(found) != 0 {
			t.Errorf("%d containers run, want none", len(found))
		}
		if breakers := m.breakers; len(breakers) != 0 {
			t.Errorf("breakers = %v, want none", breakers)
		}
		if detail := m.item(id).Attempts[0].Detail; !strings.Contains(detail, "Nomad says that its container on node n1 is running") {
			t.Errorf("detail = %q does not say what Nomad says", detail)
		}
	})
}

// TestDeadWorkerIsFoundWhileLeadersAreKilled: what a leader saw outlives its term.
func TestDeadWorkerIsFoundWhileLeadersAreKilled(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.do("lose_sessions")
		began := time.Now()
		for m.stored(id).Attempts[0].State == work.AttemptRunning {
			if time.Since(began) > 2*window {
				t.Fatalf("not found after %s of leaders that lead for 20s each", time.Since(began))
			}
			m.pass(20 * time.Second)
			m.kill()
			synctest.Wait()
		}
		m.expectEnd(t, id, work.ReasonUnreachable, 0)
	})
}

// TestLeaderThatLeadsForLessThanItTakesEndsNothing, however long the session is gone.
func TestLeaderThatLeadsForLessThanItTakesEndsNothing(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.do("lose_sessions")
		for range 30 {
			m.pass(10 * time.Second)
			m.kill()
			synctest.Wait()
		}
		if a := m.stored(id).Attempts[0]; a.State != work.AttemptRunning {
			t.Fatalf("attempt is %s (%s), want running", a.State, a.Reason)
		}
		m.do("reclaim")
		m.pass(time.Minute)
		if a := m.stored(id).Attempts[0]; a.State != work.AttemptRunning || a.Suspicion != nil {
			t.Errorf("attempt is %s, suspicion = %v, want running, none", a.State, a.Suspicion)
		}
	})
}

// TestOutageOfConsulDeceivesNoLeader: the session was seen to be gone just before
// Consul went away for longer than the window.
func TestOutageOfConsulDeceivesNoLeader(t *testing.T) {
	for name, away := range map[string]time.Duration{"shorter than the window": time.Minute, "longer": time.Hour} {
		t.Run(name, func(t *testing.T) {
			inModel(t, nil, func(t *testing.T, m *model) {
				id := m.runningItem(t)
				m.do("lose_sessions")
				m.pass(15 * time.Second)
				m.do("consul_down")
				m.pass(away)
				m.do("consul_up")
				m.pass(orchestrator.DefaultSteady - 2*time.Second)
				m.do("reclaim")
				m.pass(5 * time.Minute)
				if a := m.stored(id).Attempts[0]; a.State != work.AttemptRunning || a.Suspicion != nil {
					t.Errorf("attempt is %s (%s), suspicion = %v, want running, none", a.State, a.Reason, a.Suspicion)
				}
			})
		})
	}
}

func TestNomadThatIsAwayIsNoProofOfDeath(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		inModel(t, nil, func(t *testing.T, m *model) {
			id := m.runningItem(t)
			m.do("nomad_down")
			m.do("lose_sessions")
			if crashed {
				m.do("crash")
			}
			m.pass(20 * time.Minute)
			if a := m.stored(id).Attempts[0]; a.State != work.AttemptRunning || a.Suspicion == nil {
				t.Fatalf("attempt is %s (%s), suspicion = %v, want running, one", a.State, a.Reason, a.Suspicion)
			}
			m.do("nomad_up")
			m.pass(5 * time.Second)
			want, retries := work.ReasonUnreachable, 0
			if crashed {
				want, retries = work.ReasonCrashed, 1
			}
			m.expectEnd(t, id, want, retries)
		})
	}
}

func TestNomadsWordCountsAtOnce(t *testing.T) {
	for what, want := range map[string]work.Reason{"crash": work.ReasonCrashed, "oom": work.ReasonOOMKilled, "node_lost": work.ReasonNodeLost, "fenced": work.ReasonFenced} {
		t.Run(what, func(t *testing.T) {
			inModel(t, nil, func(t *testing.T, m *model) {
				id := m.runningItem(t)
				m.do("lose_sessions")
				m.do(what)
				m.pass(time.Second)
				retries := 1
				if want.Infrastructure() {
					retries = 0
				}
				m.expectEnd(t, id, want, retries)
			})
		})
	}
}

// TestEndOfALostSessionIsVoidOnceTheWorkerIsBack, which came back after the leader
// had decided, and before it stored that.
func TestEndOfALostSessionIsVoidOnceTheWorkerIsBack(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.do("lose_sessions")
		m.pass(window - time.Second)
		hold := make(chan struct{})
		m.mu.Lock()
		m.hold = hold // of Nomad's answer
		m.mu.Unlock()
		m.pass(30 * time.Second)
		m.do("reclaim")
		m.mu.Lock()
		m.hold = nil
		m.mu.Unlock()
		close(hold)
		m.pass(time.Minute)
		if a := m.stored(id).Attempts[0]; a.State != work.AttemptRunning || a.Suspicion != nil {
			t.Errorf("attempt is %s (%s), suspicion = %v, want running, none", a.State, a.Reason, a.Suspicion)
		}
	})
}

// TestContainerThatStartedWhileNomadWasAwayHasStarted, though nobody saw it in time.
func TestContainerThatStartedWhileNomadWasAwayHasStarted(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.send(t, work.Spec{})[0]
		m.do("nomad_down")
		m.runAll()
		m.pass(2 * work.DefaultStartTimeout.Std())
		m.expect(t, id, work.StateAssigned)
		m.do("nomad_up")
		m.pass(5 * time.Second)
		m.expect(t, id, work.StateInProgress)
		m.finish(work.ReasonCompleted)
		if item := m.stored(id); item.State != work.StateCompleted || len(item.Attempts) != 1 {
			t.Errorf("state = %s, attempts = %d, want completed, 1", item.State, len(item.Attempts))
		}
	})
}

// TestTenMinutesWithoutNomadCostNothing: what runs reports through Consul, what
// waits says for what, and nothing is run twice.
func TestTenMinutesWithoutNomadCostNothing(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) { c.MaxInFlight = 6 }, func(t *testing.T, m *model) {
		ids := m.send(t, make([]work.Spec, 6)...)
		m.runAll()
		m.do("nomad_down")
		m.pass(time.Minute)
		ids = append(ids, m.send(t, make([]work.Spec, 4)...)...)
		m.finish(work.ReasonCompleted)
		for i, id := range ids {
			want := work.StateCompleted
			if i >= 6 {
				want = work.StateQueued
				m.expectWait(t, id, control.WaitNomad, "it waits for Nomad, which does not answer since 2000-01-01T00:00:0")
			}
			m.expect(t, id, want)
		}
		m.kill() // the next leader knows it, too
		m.pass(9 * time.Minute)
		m.expectWait(t, ids[9], control.WaitNomad, "it waits for Nomad")
		m.do("nomad_up")
		m.pass(5 * time.Second)
		m.finish(work.ReasonCompleted)
		for _, id := range ids {
			if item := m.stored(id); item.State != work.StateCompleted || len(item.Attempts) != 1 {
				t.Errorf("state = %s, attempts = %d, want completed, 1", item.State, len(item.Attempts))
			}
		}
	})
}

// TestOutageOfConsulIsNoTimeout: the worker has ended in time, and can't say so
// before its leader looks at the clock.
func TestOutageOfConsulIsNoTimeout(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.pass(work.DefaultTimeout.Std() - time.Minute)
		m.do("consul_down")
		m.pass(10 * time.Minute)
		m.do("consul_up")
		m.pass(5 * time.Second)
		m.finish(work.ReasonCompleted)
		m.expect(t, id, work.StateCompleted)
	})
	inModel(t, nil, func(t *testing.T, m *model) { // and one that is lost was not too slow
		id := m.runningItem(t)
		m.pass(work.DefaultTimeout.Std() - time.Second)
		m.do("lose_sessions")
		m.pass(window + time.Minute)
		m.expectEnd(t, id, work.ReasonUnreachable, 0)
	})
	inModel(t, nil, func(t *testing.T, m *model) { // but one that lives was
		id := m.runningItem(t)
		m.pass(work.DefaultTimeout.Std() + 2*time.Minute)
		m.expectEnd(t, id, work.ReasonTimeout, 1)
	})
}

func TestJobThatNomadLostIsNotRemovedByHand(t *testing.T) {
	for what, want := range map[string]work.Reason{"nomad_forgets": work.ReasonNodeLost, "purge_by_hand": work.ReasonKilledByOperator} {
		t.Run(what, func(t *testing.T) {
			inModel(t, nil, func(t *testing.T, m *model) {
				id := m.runningItem(t)
				m.do("lose_events")
				m.do(what)
				m.pass(10 * time.Minute)
				retries := 1
				if want.Infrastructure() {
					retries = 0
				}
				m.expectEnd(t, id, want, retries)
			})
		})
	}
}

// TestWorkerGoesOnWhereNomadLostItsJob, and its result counts.
func TestWorkerGoesOnWhereNomadLostItsJob(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id := m.runningItem(t)
		m.mu.Lock()
		alloc := m.alive(work.ClientRunning)[0].child.Allocations[0]
		clear(m.children)
		clear(m.tokens)
		m.mu.Unlock()
		m.pass(10 * time.Minute)
		m.expect(t, id, work.StateInProgress)
		m.mu.Lock()
		m.report(alloc, work.ReasonCompleted)
		m.mu.Unlock()
		synctest.Wait()
		if item := m.stored(id); item.State != work.StateCompleted || len(item.Attempts) != 1 {
			t.Errorf("state = %s, attempts = %d, want completed, 1", item.State, len(item.Attempts))
		}
	})
}

// TestItemThatStarvesItsNodeEndsStuck: its attempts end by infrastructure again
// and again, and others on the node do not. Alone, or beside attempts elsewhere,
// it is infrastructure for as long as it takes.
func TestItemThatStarvesItsNodeEndsStuck(t *testing.T) {
	for name, c := range map[string]struct {
		beside bool
		node   string // of the other attempt
		want   work.State
	}{
		"beside one on its node": {beside: true, node: "n1", want: work.StateStuck},
		"beside one elsewhere":   {beside: true, node: "n2", want: work.StateAssigned},
		"alone":                  {want: work.StateAssigned},
	} {
		t.Run(name, func(t *testing.T) {
			inModel(t, func(c *orchestrator.Config) {
				c.Defaults.Limits.Timeout, c.Defaults.Limits.StartTimeout = work.Duration(24*time.Hour), work.Duration(24*time.Hour)
			}, func(t *testing.T, m *model) {
				if c.beside {
					m.send(t, work.Spec{})
					m.mu.Lock()
					m.alive(work.ClientPending)[0].child.Allocations[0].Node = c.node
					m.mu.Unlock()
					m.runAll()
				}
				id := m.send(t, work.Spec{})[0]
				for range 15 {
					m.runAll()
					m.mu.Lock()
					for _, p := range m.alive(work.ClientRunning) {
						if p.child.Attempt.Item() == id {
							p.child.Allocations[p.i].ClientStatus = work.ClientLost
							m.tell(p.child.Allocations[p.i])
						}
					}
					m.mu.Unlock()
					m.pass(13 * time.Minute)
				}
				item := m.stored(id)
				attempts := 16
				if c.want == work.StateStuck {
					attempts = 10
				}
				if item.State != c.want || len(item.Attempts) != attempts || item.Retries != 0 {
					t.Errorf("state = %s, attempts = %d, retries = %d, want %s, %d, 0: %s", item.State, len(item.Attempts), item.Retries, c.want, attempts, item.Why)
				}
			})
		})
	}
}

// TestReleasedLocksCannotBeTakenBack: the claim is closed before the session ends
// (the world checks it), also where the worker had lost the session already.
func TestReleasedLocksCannotBeTakenBack(t *testing.T) {
	for name, lost := range map[string]bool{"held": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			inModel(t, nil, func(t *testing.T, m *model) {
				id := m.runningItem(t)
				m.mu.Lock()
				m.lock(work.NewAttemptID(id, 1), []string{"src"})
				lock := m.locks[work.NewAttemptID(id, 1)]
				m.mu.Unlock()
				if lost {
					m.do("lose_sessions")
					m.mu.Lock()
					lock.Lost = true
					m.locks[lock.Attempt] = lock // it stays until its worker is back, or another takes the paths
					m.mu.Unlock()
				}
				if _, err := m.o.ReleaseLocks(t.Context(), control.LockRelease{ID: id, By: "me"}); err != nil {
					t.Fatal(err)
				}
				m.do("reclaim")
				m.expectEnd(t, id, work.ReasonKilledByOperator, 1)
				m.mu.Lock()
				defer m.mu.Unlock()
				if claim := m.claims[lock.Attempt]; !claim.Ended || m.sessions[claim.Session] {
					t.Errorf("claim = %+v, want it ended and without a session", claim)
				}
			})
		})
	}
}

// TestBudgetOfTheHourCountsWhatRunningAttemptsUsed, once, whoever leads.
func TestBudgetOfTheHourCountsWhatRunningAttemptsUsed(t *testing.T) {
	budget := int64(1000)
	inModel(t, func(c *orchestrator.Config) {
		c.Queues["patient"] = orchestrator.Queue{TokensPerHour: &budget}
	}, func(t *testing.T, m *model) {
		first := m.send(t, work.Spec{Queue: "patient"})[0]
		m.runAll()
		use := func(tokens int64) {
			m.mu.Lock()
			a := work.NewAttemptID(first, 1)
			m.progress[a] = work.Progress{Attempt: a, At: time.Now(), Tokens: work.Tokens{In: tokens}}
			m.mu.Unlock()
			m.pass(11 * time.Second)
		}
		use(400)
		second := m.send(t, work.Spec{Queue: "patient"})[0]
		m.expect(t, second, work.StateAssigned)
		use(900)
		third := m.send(t, work.Spec{Queue: "patient"})[0]
		m.expect(t, third, work.StateAssigned)
		use(1000)
		fourth := m.send(t, work.Spec{Queue: "patient"})[0]
		m.expectWait(t, fourth, control.WaitBudget, "queue patient used 1000 tokens")
		m.kill()
		m.pass(11 * time.Second)
		m.expectWait(t, fourth, control.WaitBudget, "queue patient used 1000 tokens")
		m.runAll()
		m.finish(work.ReasonCompleted, func(r *work.Result) {
			if r.Attempt.Item() == first {
				r.Tokens = work.Tokens{In: 1100}
			}
		})
		m.expectWait(t, fourth, control.WaitBudget, "queue patient used 1100 tokens")
		m.pass(62 * time.Minute)
		m.expect(t, fourth, work.StateAssigned)
	})
}
