// Package worker is the supervisor of one attempt: it claims the attempt, runs
// the agent in a clone of the item's repository, pushes every commit as it is
// made, tests what was pushed, makes the pull request and reports.
//
// What an attempt may do hangs from two contexts. The hold lives as long as the
// attempt is, or may be again, this worker's. The work, below it, also ends when the
// worker is told to stop or the attempt's time is up: then the agent is stopped, and
// what it has committed is still pushed. While the worker's session in Consul is gone
// or not sure, the worker is fenced (fence.go): nothing is pushed, locked or reported, all of
// that waits, and the agent goes on.
//
// The agent is run once, or again and again until it says that it is done. Package
// agent has an adapter for each kind of agent, which knows how it is started and
// what its lines mean.
//
//	claim ─> prepare ─> agent ─> last push ─> tests ─> pull request ─> report ─> release
//
//	ends with        agent     pushes     reports           exit status
//	agent's exit     -         all        the reason        0
//	limit, budget    stopped   all        the reason        0
//	timeout          stopped   all        timeout           0
//	SIGTERM          stopped   all        nothing           1   (who sent it knows why)
//	hold lost        stopped   nothing    nothing           75  (fenced: another may work on it)
//	no Consul        -         -          nothing           76  (before the claim)
package worker
