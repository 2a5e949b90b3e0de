package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drover/internal/worker/process"
)

// passedToAgents are the variables that git may see on the agent's clone, and
// identities those that say whose commits drover's own are.
var (
	passedToAgents = []string{"PATH", "LANG", "TMPDIR"}
	identities     = []string{"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"}
)

// identity is whose commits drover's own are: the operator's word, or else drover.
func (r *Repo) identity() []string {
	env := make([]string, len(identities))
	for i, name := range identities {
		value := "drover"
		if strings.HasSuffix(name, "EMAIL") {
			value = "drover@localhost"
		}
		for _, pair := range r.opts.Environ {
			if given, ok := strings.CutPrefix(pair, name+"="); ok && given != "" {
				value = given
			}
		}
		env[i] = name + "=" + value
	}
	return env
}

// agentEnviron is the environment of git on the agent's clone: nothing of the
// worker's. global is the configuration besides the clone's own. Hooks, replaced
// objects and grafts of the clone mean nothing to drover, and a directory above
// the tree is never taken for its repository.
func (r *Repo) agentEnviron(global string) []string {
	env := append(r.identity(),
		"HOME=/", "GIT_CONFIG_GLOBAL="+global, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_CEILING_DIRECTORIES="+filepath.Dir(r.opts.Tree), "GIT_NO_REPLACE_OBJECTS=1", "GIT_GRAFT_FILE=/dev/null/none",
		"GIT_CONFIG_COUNT=4", "GIT_CONFIG_KEY_0=core.hooksPath", "GIT_CONFIG_VALUE_0=/dev/null",
		"GIT_CONFIG_KEY_1=credential.helper", "GIT_CONFIG_VALUE_1=", "GIT_CONFIG_KEY_2=gc.auto", "GIT_CONFIG_VALUE_2=0",
		"GIT_CONFIG_KEY_3=core.fsmonitor", "GIT_CONFIG_VALUE_3=false",
	)
	for _, pair := range r.opts.Environ {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(passedToAgents, name) {
			env = append(env, pair)
		}
	}
	return env
}

// asAgent runs git on the agent's clone as the agent, whose configuration it heeds.
func (r *Repo) asAgent(ctx context.Context, global string, stdout io.Writer, args ...string) error {
	return r.tell(ctx, "git "+verb(args), process.Command{Args: append([]string{"git"}, args...), Env: r.agentEnviron(global)}, stdout)
}

// script runs a shell script of git commands in the agent's tree, as the agent,
// so that one process is started for all of them.
func (r *Repo) script(ctx context.Context, what, script, stdin string, args ...string) (string, error) {
	var stdout strings.Builder
	command := process.Command{
		Args: slices.Concat([]string{"sh", "-c", "cd \"$1\" || exit 3\nshift\n" + script, "sh", r.opts.Tree}, args), Env: r.agentEnviron("/dev/null"), Stdin: stdin,
	}
	err := r.tell(ctx, what, command, &stdout)
	return stdout.String(), err
}

// treeError says that a command in the agent's tree failed. What it prints is the
// agent's word, so it is never taken for an answer of the remote.
type treeError struct {
	what string
	exit process.Exit
	said string
}

func (e *treeError) Error() string {
	return fmt.Sprintf("%s in the agent's tree: %s: %s", e.what, e.exit, e.said)
}

// tell runs a command as the agent. It returns a *treeError when the command fails.
func (r *Repo) tell(ctx context.Context, what string, c process.Command, stdout io.Writer) error {
	stderr := &process.Tail{Max: maxStderrBytes}
	c.Dir, c.Starter, c.Stdout, c.Stderr, c.Alive = "/", r.opts.Agent, stdout, stderr, r.opts.Alive
	c.Grace = func() time.Duration { return stopGrace }
	exit, err := process.Run(ctx, c)
	switch {
	case ctx.Err() != nil:
		return errors.Join(fmt.Errorf("%s in the agent's tree: %w", what, context.Cause(ctx)), r.removeLocks())
	case err != nil:
		return fmt.Errorf("%s in the agent's tree: %w", what, err)
	case exit.Code != 0:
		return &treeError{what, exit, r.opts.Redact(lastLines(stderr.String()))}
	}
	return nil
}

func (e *treeError) Is(target error) bool { return target == ErrTree }
