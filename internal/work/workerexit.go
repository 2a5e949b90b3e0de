package work

// Exit statuses of a worker that could store no result in Consul. Nomad's word of
// them is all that the leader learns, so each has one meaning.
const (
	// WorkerExitFenced: it lost its session, and could not take its attempt back (EX_TEMPFAIL of sysexits.h).
	WorkerExitFenced = 75
	// WorkerExitNoConsul: it never reached Consul to claim its attempt; the last
	// line of its standard error names the address that it tried.
	WorkerExitNoConsul = 76
)
