package agent

// plain is any command that keeps to docs/agent-protocol.md.
type plain struct{}

func (plain) Command(o Options) []string { return o.program() }

func (plain) Variables() []string { return nil } // AGENT_ is for all

func (plain) State() []string { return []string{".agent-state"} }

func (plain) Reader() func(string) []Event {
	return func(line string) []Event {
		if e, ok := Parse(line); ok {
			return []Event{e}
		}
		return nil
	}
}

// Status: its exit status is its word.
func (plain) Status(code int, _ Said) int { return code }
