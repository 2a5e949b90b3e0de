// Package jobs holds the Nomad job specifications that drover ships.
package jobs

import _ "embed"

// Worker is the parameterized job of which each dispatch is one attempt, with
// the docker driver. Its variable "image" has no default.
//
//go:embed worker.nomad.hcl
var Worker string

// WorkerRawExec is Worker as a plain process, for development clusters
// without Docker. Its variable "command" has no default.
//
//go:embed worker-rawexec.nomad.hcl
var WorkerRawExec string

// Server runs drover itself as a service. Its variable "image" has no default.
//
//go:embed server.nomad.hcl
var Server string
