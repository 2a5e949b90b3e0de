package work

// Reason says why an attempt ended. Every ended attempt has exactly one.
type Reason string

// The reasons, as in the table of rules in retry.go.
const (
	ReasonCompleted        Reason = "completed"          // the worker reported proven work
	ReasonStuck            Reason = "stuck"              // agent exit 1, or no progress seen
	ReasonMaxIterations    Reason = "max_iterations"     // agent exit 2, or the limit reached before a crash
	ReasonAgentError       Reason = "agent_error"        // agent exit 3 and above
	ReasonOOMKilled        Reason = "oom_killed"         // the kernel killed the agent or the worker for memory
	ReasonCrashed          Reason = "crashed"            // a signal, or died with no result
	ReasonHeartbeatLost    Reason = "heartbeat_lost"     // the TTL check went critical; only in the history of older servers
	ReasonTimeout          Reason = "timeout"            // the attempt's wall clock ran out
	ReasonKilledByOperator Reason = "killed_by_operator" // drover kill, or the Nomad job stopped by hand
	ReasonNodeLost         Reason = "node_lost"          // Nomad lost the node
	ReasonDrained          Reason = "drained"            // the node was drained
	ReasonPreempted        Reason = "preempted"          // Nomad needed the room
	ReasonStartFailed      Reason = "start_failed"       // image pull, driver, template, no capacity in time, Consul never reached
	ReasonGitAuthFailed    Reason = "git_auth_failed"    // the repository refused the credentials
	ReasonRateLimited      Reason = "rate_limited"       // the model or the forge said to wait
	ReasonLocked           Reason = "locked"             // paths that the item is to have for itself were held by another for too long
	ReasonBudgetExceeded   Reason = "budget_exceeded"    // tokens, cost or time of the item are used up
	ReasonCancelled        Reason = "cancelled"          // the item was cancelled
	ReasonNoChange         Reason = "no_change"          // the agent said that there is nothing to change
	ReasonNoWork           Reason = "no_work"            // the agent changed nothing and said nothing
	ReasonSilent           Reason = "silent"             // the agent printed nothing for longer than its limit
	ReasonPushRefused      Reason = "push_refused"       // the git server refuses the commits themselves
	ReasonFenced           Reason = "fenced"             // the worker lost its session and could not take the attempt back
	ReasonUnreachable      Reason = "unreachable"        // no heartbeat came, while Nomad says that the worker runs
)

// Reasons lists every Reason.
func Reasons() []Reason {
	return []Reason{
		ReasonCompleted, ReasonStuck, ReasonMaxIterations, ReasonAgentError, ReasonOOMKilled, ReasonCrashed,
		ReasonHeartbeatLost, ReasonTimeout, ReasonKilledByOperator, ReasonNodeLost, ReasonDrained, ReasonPreempted,
		ReasonStartFailed, ReasonGitAuthFailed, ReasonRateLimited, ReasonLocked, ReasonBudgetExceeded, ReasonCancelled,
		ReasonNoChange, ReasonNoWork, ReasonSilent, ReasonPushRefused, ReasonFenced, ReasonUnreachable,
	}
}

// CutOff reports whether an attempt that ended so was torn from its work, or
// stopped in it at a limit: the next may go on with the agent's conversation. Where the agent itself came to an
// end, a fresh look is worth more.
func (r Reason) CutOff() bool {
	switch r {
	case ReasonCrashed, ReasonOOMKilled, ReasonNodeLost, ReasonDrained, ReasonPreempted, ReasonTimeout, ReasonHeartbeatLost, ReasonSilent, ReasonMaxIterations, ReasonFenced, ReasonUnreachable:
		return true
	}
	return false
}

// Infrastructure reports whether Nomad, Consul, a node or a registry ended the
// attempt: the item has no part in it.
func (r Reason) Infrastructure() bool {
	switch r {
	case ReasonNodeLost, ReasonDrained, ReasonPreempted, ReasonStartFailed, ReasonFenced, ReasonUnreachable:
		return true
	}
	return false
}

// AttemptState returns the state in which a reason leaves its attempt.
func (r Reason) AttemptState() AttemptState {
	switch r {
	case ReasonCompleted, ReasonNoChange:
		return AttemptCompleted
	case ReasonStuck:
		return AttemptStuck
	case ReasonMaxIterations, ReasonAgentError, ReasonStartFailed, ReasonGitAuthFailed, ReasonRateLimited, ReasonLocked, ReasonBudgetExceeded, ReasonNoWork, ReasonPushRefused:
		return AttemptFailed
	default:
		return AttemptKilled
	}
}

// PRStatus is the state of an item's pull request, apart from the item's own.
type PRStatus string

// The states of a pull request.
const (
	PRNone    PRStatus = "none"    // no pull request is wanted, or there is nothing to put in one
	PRPending PRStatus = "pending" // wanted, not made yet
	PRCreated PRStatus = "created" // made, or found
	PRFailed  PRStatus = "failed"  // could not be made; the error says why
)

// TestStatus is the outcome of an item's test command.
type TestStatus string

// The outcomes of a test command.
const (
	TestPassed  TestStatus = "passed"
	TestFailed  TestStatus = "failed"
	TestTimeout TestStatus = "timeout"
	TestSkipped TestStatus = "skipped" // no test command, or nothing to test
	TestError   TestStatus = "error"   // the command could not be run
)
