package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"drover/internal/work"
	"drover/internal/worker/process"
)

// Exit codes of an agent. Every other code is an error of it.
const (
	ExitComplete      = 0
	ExitStuck         = 1
	ExitMaxIterations = 2
	ExitError         = 3
)

// ErrNoCommand says that neither the item nor the server names an agent.
var ErrNoCommand = errors.New("no agent command is configured: set it in the item's specification or the server's defaults")

// gitConfig makes the agent commit as drover where it does not say otherwise.
const gitConfig = "[user]\n\tname = drover\n\temail = drover@localhost\n"

// Run is one run of an agent.
type Run struct {
	Envelope   work.Envelope
	Adapter    Adapter
	Prompt     string // on its standard input
	Options    Options
	Iteration  int    // that were before, over all attempts
	Tree       string // working directory
	Home       string // made if it is not there
	TaskFile   string // written by Start
	LockSocket string // where it may ask for locks
	Environ    []string
	Starter    process.Starter // of the agent and all that runs as it does; nil makes them children of this process
	Stdout     io.Writer
	Stderr     io.Writer
	Alive      func()
	Busy       func()               // see process.Command
	Grace      func() time.Duration // see process.Command
}

// Start runs the agent until it ends or ctx does.
// It returns ErrNoCommand, or an error when the agent could not be started.
func (r Run) Start(ctx context.Context) (process.Exit, error) {
	args := r.Adapter.Command(r.Options)
	if len(args) == 0 {
		return process.Exit{}, ErrNoCommand
	}
	if err := os.WriteFile(r.TaskFile, []byte(r.Envelope.Spec.Task), 0o644); err != nil { // for the agent to read
		return process.Exit{}, err
	}
	if err := r.makeHome(ctx); err != nil {
		return process.Exit{}, err
	}
	agent := r.command(args)
	agent.Stdin, agent.Stdout, agent.Stderr, agent.Sweep = r.Prompt, r.Stdout, r.Stderr, true
	return process.Run(ctx, agent)
}

// makeHome makes the home directory, as the agent: it is the agent's own.
func (r Run) makeHome(ctx context.Context) error {
	setup := r.command([]string{"sh", "-c", `mkdir -p "$HOME" && chmod 700 "$HOME" && cat >"$HOME/.gitconfig"`})
	complaint := &process.Tail{Max: 1 << 10}
	setup.Dir, setup.Stdin, setup.Stderr = "/", gitConfig, complaint
	exit, err := process.Run(ctx, setup)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("%s: %s", exit, strings.TrimSpace(complaint.String()))
	}
	if err != nil {
		return fmt.Errorf("make its home directory: %w", err)
	}
	return nil
}

// command is what runs as the agent does.
func (r Run) command(args []string) process.Command {
	return process.Command{Args: args, Dir: r.Tree, Env: r.environment(), Alive: r.Alive, Busy: r.Busy, Grace: r.Grace, Starter: r.Starter}
}

// untracked lists what is new in the tree, with size and time of change: neither
// git status nor git diff tells when its content changes.
const untracked = `git --no-optional-locks ls-files -z --others --exclude-standard | xargs -0 -r stat --format '%n %s %.9Y'`

// Fingerprint changes with the content of the working tree: what git status and
// git diff say, and the files that are new. The tree's configuration is the
// agent's, and git runs what it names: so it runs as the agent does, with nothing
// of the worker's.
func (r Run) Fingerprint(ctx context.Context) (string, error) {
	sum := sha256.New()
	for _, args := range [][]string{
		{"git", "--no-optional-locks", "--no-pager", "status", "--porcelain"}, {"git", "--no-optional-locks", "--no-pager", "diff", "HEAD"}, {"sh", "-c", untracked},
	} {
		command := r.command(args)
		command.Stdout = sum
		exit, err := process.Run(ctx, command)
		if err != nil {
			return "", err
		}
		if exit.Code != 0 {
			return "", fmt.Errorf("%s in the agent's tree: %s", strings.Join(args, " "), exit)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
