// Package cli is the drover command: a file for each verb. The cobra layer only
// binds flags; what a verb does is a function of its options, a context and the
// shell it runs in, so that tests call what main calls.
package cli
