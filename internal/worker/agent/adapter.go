package agent

import "drover/internal/work"

// Adapter knows one kind of agent: how it is started and what its lines mean.
// docs/agents.md shows how to add one.
type Adapter interface {
	// Command returns the command line of a run. The prompt comes on standard input.
	Command(o Options) []string
	// Variables returns with what the names of the operator's variables begin that
	// this agent, and nothing else, may see: its credentials and settings.
	Variables() []string
	// State returns where, below its home, the agent keeps its conversations: what
	// it needs to go on with one elsewhere. Credentials are to be somewhere else.
	State() []string
	// Reader returns what reads the lines of one run's standard output, in their
	// order. A line that it does not know gives no event.
	Reader() func(line string) []Event
	// Status translates an exit status, and what the agent last said of its end,
	// to the table of docs/agent-protocol.md.
	Status(code int, said Said) int
}

// Options of a run.
type Options struct {
	Program      []string // the item's command; the adapter's own if empty
	Conversation string   // to go on with; a new one if empty
	CostLeftUSD  float64  // of the item's budget; 0 is no bound
}

var adapters = map[string]Adapter{
	work.AgentPlain:      plain{},
	work.AgentClaudeCode: claudeCode{},
	work.AgentCodex:      codex{},
}

// For returns the adapter of a kind of agent, nil if there is none.
func For(kind string) Adapter { return adapters[kind] }

// program returns the item's command, or the adapter's own.
func (o Options) program(own ...string) []string {
	if len(o.Program) > 0 {
		return append([]string(nil), o.Program...)
	}
	return own
}

// spoken is the status of an agent that says how its run ended: that counts more
// than its exit status, and one that said nothing has not completed.
func spoken(said Said) int {
	if said == SaidWell {
		return ExitComplete
	}
	return ExitError
}
