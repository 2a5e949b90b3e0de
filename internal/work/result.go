package work

import "time"

// Tokens count what a model read and wrote.
type Tokens struct {
	In  int64 `json:"in"`
	Out int64 `json:"out"`
}

// Conversation is an agent's own session, which a later run may go on with.
type Conversation struct {
	ID string `json:"id"`
	// Before is what the item had used when the conversation began: some agents
	// count their tokens from there on.
	Before Tokens `json:"before,omitzero"`
}

// TestOutcome is what the item's test command came to.
type TestOutcome struct {
	Status TestStatus `json:"status"`
	Run    int        `json:"run,omitempty"`
	Passed int        `json:"passed,omitempty"`
	Failed int        `json:"failed,omitempty"`
	Flaky  int        `json:"flaky,omitempty"`  // of the passed ones: failed at first, and passed when run again
	Detail string     `json:"detail,omitempty"` // a sentence, or the end of the output
}

// PullRequest is what became of an item's branch.
type PullRequest struct {
	Status PRStatus `json:"status"`
	URL    string   `json:"url,omitempty"`
	Number int      `json:"number,omitempty"`
	Title  string   `json:"title,omitempty"`
	Body   string   `json:"body,omitempty"` // kept for request-pull, where there is no other place for it
	Error  string   `json:"error,omitempty"`
}

// Changes is the scope of an attempt's work, against the base.
type Changes struct {
	Commits int `json:"commits,omitempty"`
	Files   int `json:"files,omitempty"`
	Added   int `json:"added,omitempty"`   // lines
	Removed int `json:"removed,omitempty"` // lines
}

// Result is what a worker reports at the end of its attempt.
type Result struct {
	Attempt    AttemptID `json:"attempt"`
	Allocation string    `json:"allocation"`
	Reason     Reason    `json:"reason"`
	Detail     string    `json:"detail"` // a sentence; never empty
	ExitCode   int       `json:"exit_code"`
	Signal     int       `json:"signal,omitempty"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`

	Branch       string `json:"branch,omitempty"`
	Start        string `json:"start,omitempty"`         // commit that the attempt began at
	Commit       string `json:"commit,omitempty"`        // head of the work
	RemoteCommit string `json:"remote_commit,omitempty"` // head of the remote branch, read back after the last push

	Iteration    int         `json:"iteration"`
	Tokens       Tokens      `json:"tokens"`
	CostUSD      float64     `json:"cost_usd,omitempty"` // as far as the agent stated it, over all attempts
	Changes      Changes     `json:"changes"`
	Test         TestOutcome `json:"test"`
	PR           PullRequest `json:"pull_request"`
	Tree         Tree        `json:"tree,omitzero"` // what drover did with what was not committed on the branch
	PeakMemoryMB int         `json:"peak_memory_mb,omitempty"`
	OOMKills     int         `json:"oom_kills,omitempty"` // processes below the agent that the kernel killed while it went on
	RetryAt      time.Time   `json:"retry_at,omitzero"`   // rate_limited: when the limit resets
	NoRetry      bool        `json:"no_retry,omitempty"`  // another attempt would end the same

	Conversation *Conversation `json:"conversation,omitempty"` // the agent's latest
}

// Proven reports whether the result proves what it says: completed work names a
// commit and the remote branch was seen at it, or there was nothing to push; where
// nothing was to be changed, there was nothing to push.
func (r *Result) Proven() bool {
	switch r.Reason {
	case ReasonCompleted:
		return r.Changes.Commits == 0 || (r.Commit != "" && r.Commit == r.RemoteCommit)
	case ReasonNoChange:
		return r.Changes.Commits == 0
	}
	return false
}

// Phase is what a worker is busy with.
type Phase string

// The phases of an attempt, in order.
const (
	PhaseLocking   Phase = "locking"   // waits for the paths that the item declares
	PhasePreparing Phase = "preparing" // access check, clone, branch
	PhaseAgent     Phase = "agent"
	PhaseTesting   Phase = "testing"
	PhasePublish   Phase = "publishing" // last push, pull request
	PhaseCleanup   Phase = "cleaning"   // removes references of ended items; the only phase of its attempt
)

// Progress is how far a running attempt has come. The next attempt goes on from it.
type Progress struct {
	Attempt    AttemptID `json:"attempt"`
	Allocation string    `json:"allocation"`
	At         time.Time `json:"at"`
	Phase      Phase     `json:"phase"`
	Iteration  int       `json:"iteration"`
	LastTool   string    `json:"last_tool,omitempty"`
	Tokens     Tokens    `json:"tokens"`
	CostUSD    float64   `json:"cost_usd,omitempty"`
	Commit     string    `json:"commit,omitempty"` // last pushed
	// Conversation is the agent's latest.
	Conversation *Conversation `json:"conversation,omitempty"`
	// Finished is the result so far once the agent and the tests are done and
	// everything is pushed: should the attempt die between push and pull
	// request, the next one only publishes.
	Finished *Result `json:"finished,omitempty"`
}

// Resume tells an attempt what the ones before it did.
type Resume struct {
	Iteration  int      `json:"iteration,omitempty"`
	Tokens     Tokens   `json:"tokens,omitzero"`
	CostUSD    float64  `json:"cost_usd,omitempty"`
	Spent      Duration `json:"spent,omitempty"` // wall clock of all attempts before
	LastReason Reason   `json:"last_reason,omitempty"`
	LastDetail string   `json:"last_detail,omitempty"`
	LastLog    string   `json:"last_log,omitempty"` // the end of the last attempt's output, where it is kept
	// Conversation is the agent's, where the last attempt was cut off in it.
	Conversation *Conversation `json:"conversation,omitempty"`
	Finished     *Result       `json:"finished,omitempty"`
	// Tree says what the agent is to know about the state of its tree. Its worker finds that out.
	Tree string `json:"-"`
	// PublishOnly says that the attempt is to make the pull request of Finished, and nothing else.
	PublishOnly bool `json:"publish_only,omitempty"`
	// Cleanup are the items whose references the attempt is to remove; then it does nothing else.
	Cleanup []string `json:"cleanup,omitempty"`
}

// Envelope is the dispatch payload: all that a worker needs to know, and no secret.
type Envelope struct {
	Item     string    `json:"item"`
	Attempt  AttemptID `json:"attempt"`
	Spec     Spec      `json:"spec"`
	Branch   string    `json:"branch"`
	Resume   Resume    `json:"resume,omitzero"`
	KVPrefix string    `json:"kv_prefix"`
	// Traceparent is the W3C trace context of the attempt's run; empty where nothing is traced.
	Traceparent string `json:"traceparent,omitempty"`
	// Reference says that the envelope did not fit a payload: the worker reads
	// the whole of it from KV.
	Reference bool `json:"reference,omitempty"`
}

// Referenced returns the envelope to dispatch when e does not fit a payload: it
// names the attempt, and says that the rest is in KV.
func (e Envelope) Referenced() Envelope {
	spec := Spec{Image: e.Spec.Image, Resources: e.Spec.Resources, Limits: e.Spec.Limits}
	return Envelope{Item: e.Item, Attempt: e.Attempt, Spec: spec, Branch: e.Branch, KVPrefix: e.KVPrefix, Traceparent: e.Traceparent, Reference: true}
}

// Claim binds an attempt to the one allocation that runs it.
type Claim struct {
	Attempt    AttemptID `json:"attempt"`
	Allocation string    `json:"allocation,omitempty"`
	Session    string    `json:"session,omitempty"`
	Node       string    `json:"node,omitempty"` // Consul node whose agent holds the check
	At         time.Time `json:"at"`
	// Ended closes the attempt: an allocation that starts late finds it and does nothing.
	Ended   bool      `json:"ended,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
}
