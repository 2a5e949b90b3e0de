// Package nomad is drover's adapter to Nomad: it registers the worker job,
// dispatches attempts, tells what became of them, reads their output and
// removes them. It is the only production importer of nomad/api.
package nomad
