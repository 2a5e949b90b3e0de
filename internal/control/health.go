package control

// Health is the answer to a health check, of a server and of a worker.
type Health struct {
	Live  bool `json:"live"`  // it answers; a process that is not is to be started anew
	Ready bool `json:"ready"` // it can do its work
	Leads bool `json:"leads,omitempty"`
	// Reasons say why it is not ready, or why a server that takes items dispatches none.
	Reasons []string `json:"reasons,omitempty"`
}
