// Package worker is the supervisor of one attempt: it claims the attempt, runs
// the agent in a clone of the item's repository, pushes every commit as it is
// made, tests the work, makes the pull request and reports.
//
// What an attempt may do hangs from two contexts. The hold lives as long as the
// worker's session in Consul is to be trusted; nothing is pushed or reported
// without it. The work, below it, also ends when the worker is told to stop or
// the attempt's time is up: then the agent is stopped, and what it has committed
// is still pushed.
//
// The agent is run once, or again and again until it says that it is done. Package
// agent has an adapter for each kind of agent, which knows how it is started and
// what its lines mean.
//
//	claim ─> prepare ─> agent ─> tests ─> last push ─> pull request ─> report ─> release
//
//	ends with        agent     pushes     reports           exit status
//	agent's exit     -         all        the reason        0
//	limit, budget    stopped   all        the reason        0
//	timeout          stopped   all        timeout           0
//	SIGTERM          stopped   all        nothing           1   (who sent it knows why)
//	hold lost        stopped   nothing    nothing           1   (fenced: another may work on it)
//	hung agent       -         -          -                 -   (no sign of life, no heartbeat: the orchestrator ends it)
package worker
