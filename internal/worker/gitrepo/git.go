package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drover/internal/worker/process"
)

// Errors that decide what becomes of an attempt. Every other error is trouble on the way, and may pass.
var (
	// ErrAuth says that the repository refused the credentials, or that there are none.
	ErrAuth = errors.New("access refused")
	// ErrMoved says that the remote branch has commits that the pushed ones do not descend from.
	ErrMoved = errors.New("push rejected, the remote branch has other commits")
	// ErrRefused says that the server takes neither these commits nor any on this branch; pushing them again is of no use.
	ErrRefused = errors.New("push refused")
	// ErrDeclined says that a hook of the server refused the push for a cause of its own, which may pass.
	ErrDeclined = errors.New("push declined")
	// ErrTree says that the agent has made its tree something that git can't work with.
	ErrTree = errors.New("the agent's tree is no repository")
	// ErrBranch says, with ErrRefused, that the server refuses the branch, whatever is pushed to it.
	ErrBranch = errors.New("branch refused")
	// ErrEmbedded says that a commit has a repository inside the tree, as a bare link to a commit that nobody can fetch.
	ErrEmbedded = errors.New("a repository inside the tree was committed as a link")
	// ErrUnsupported says that the repository needs more than git.
	ErrUnsupported = errors.New("not supported")
	// ErrUnfit says that the item can't be worked on in the repository as it is.
	ErrUnfit = errors.New("a person must change the item or the repository")
)

// defaultUsername is what forges take beside a token.
const defaultUsername = "x-access-token"

const maxStderrBytes = 32 << 10

// stopGrace is how long git may take to stop: it has nothing to finish, and what
// it leaves is removed.
const stopGrace = 500 * time.Millisecond

// passed are the variables of the worker's environment that git may see.
var passed = []string{
	"PATH", "LANG", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// askpass answers git's question for a user or password, for the repository's
// own host alone: a redirect to another must not learn them.
const askpass = `#!/bin/sh
case "$1" in
*[/@]"$DROVER_GIT_HOST'"*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) printf '%s\n' "$DROVER_GIT_USERNAME" ;;
*) printf '%s\n' "$DROVER_GIT_TOKEN" ;;
esac
`

// git runs git on the worker's own repository, without the credentials unless
// that may have to fetch what it misses.
func (r *Repo) git(ctx context.Context, args ...string) (string, error) {
	return r.run(ctx, r.local(), append([]string{"--git-dir=" + r.gitDir()}, args...)...)
}

// local is the environment of git on the worker's own repository.
func (r *Repo) local() []string {
	if r.opts.Partial {
		return append(r.environ(), r.credentials()...)
	}
	return r.environ()
}

// remote runs a git command that speaks to the remote, with the credentials.
func (r *Repo) remote(ctx context.Context, args ...string) (string, error) {
	return r.run(ctx, append(r.environ(), r.credentials()...), append([]string{"--git-dir=" + r.gitDir()}, args...)...)
}

func (r *Repo) run(ctx context.Context, env []string, args ...string) (string, error) {
	var stdout strings.Builder
	err := r.exec(ctx, process.Command{Args: args, Dir: r.opts.Dir, Env: env}, &stdout)
	return stdout.String(), err
}

// exec runs git with the arguments of a command.
func (r *Repo) exec(ctx context.Context, c process.Command, stdout io.Writer) error {
	what := "git " + verb(c.Args)
	stderr, said := &process.Tail{Max: maxStderrBytes}, &process.Tail{Max: maxStderrBytes}
	c.Args = append([]string{"git", "-c", "core.hooksPath=/dev/null", "-c", "credential.helper=", "-c", "gc.auto=0"}, c.Args...)
	c.Stdout, c.Stderr, c.Alive = io.MultiWriter(stdout, said), stderr, r.opts.Alive
	c.Grace = func() time.Duration { return stopGrace }
	exit, err := process.Run(ctx, c)
	switch {
	case ctx.Err() != nil:
		return errors.Join(fmt.Errorf("%s: %w", what, context.Cause(ctx)), r.removeLocks())
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case exit.Code != 0:
		return r.explain(what, exit, stderr.String()+rejections(said.String()))
	}
	return nil
}

// removeLocks removes the lock files that a git which was stopped underway can
// leave in the worker's own repository, where every later fetch would fail on
// them. Nothing else works in it, and never two commands at a time.
func (r *Repo) removeLocks() error {
	return filepath.WalkDir(r.gitDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".lock" {
			return ignoreAbsent(err)
		}
		return ignoreAbsent(os.Remove(path))
	})
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func verb(args []string) string {
	for i, arg := range args {
		value := i > 0 && (args[i-1] == "-C" || args[i-1] == "-c")
		if !value && !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}

// rejections are the lines of a porcelain push that say what was not taken.
func rejections(stdout string) string {
	var b strings.Builder
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, "!") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// What git and the forges say. The text is English, because git runs with LC_ALL=C.
var (
	refusals = []string{
		"Authentication failed", "could not read Username", "could not read Password", "terminal prompts disabled",
		"returned error: 401", "returned error: 403", "Permission denied (publickey", "Permission to ", "Host key verification failed",
		"Repository not found", "does not appear to be a git repository", "not allowed to push", "You are not allowed", "HTTP Basic: Access denied",
	}
	moved = []string{"[rejected]", "non-fast-forward", "fetch first"}
)

func (r *Repo) explain(what string, exit process.Exit, stderr string) error {
	text := r.opts.Redact(lastLines(stderr))
	contains := func(s string) bool { return strings.Contains(stderr, s) }
	if refusal := r.refusal(what, stderr); refusal != nil {
		return refusal
	}
	switch {
	case slices.ContainsFunc(refusals, contains), strings.Contains(stderr, "repository '") && contains("' not found"):
		return fmt.Errorf("%s: %w: %s; %s", what, ErrAuth, text, r.remedy())
	case slices.ContainsFunc(moved, contains):
		return fmt.Errorf("%s: %w: %s", what, ErrMoved, text)
	}
	return fmt.Errorf("%s: %s: %s", what, exit, text)
}

func (r *Repo) remedy() string {
	switch {
	case !strings.HasPrefix(r.opts.URL, "http"):
		return "the image needs a key, and a known_hosts entry, that may read and push " + r.opts.URL
	case r.opts.Token == "":
		return "set DROVER_GIT_TOKEN (and DROVER_GIT_USERNAME) for the workers: they have no credentials"
	}
	return "check that DROVER_GIT_TOKEN is valid and may read and push " + r.opts.URL
}

// lastLines joins the lines git ended with, without its progress.
func lastLines(stderr string) string {
	const kept = 4
	var lines []string
	for line := range strings.FieldsFuncSeq(stderr, func(c rune) bool { return c == '\n' || c == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "objects:") && !strings.HasPrefix(line, "hint:") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-kept):], " / ")
}

// environ is git's environment: what it needs, and nothing of the worker's else.
func (r *Repo) environ() []string {
	env := []string{
		"HOME=" + filepath.Join(r.opts.Dir, "home"), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_SSH_COMMAND=ssh -o BatchMode=yes",
	}
	env = append(env, r.identity()...)
	for _, pair := range r.opts.Environ {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(passed, name) {
			env = append(env, pair)
		}
	}
	return env
}

func (r *Repo) credentials() []string {
	if r.opts.Token == "" {
		return nil
	}
	host := ""
	if u, err := url.Parse(r.opts.URL); err == nil {
		host = u.Host
	}
	username := r.opts.Username
	if username == "" {
		username = defaultUsername
	}
	return []string{
		"GIT_ASKPASS=" + r.askpassPath(), "DROVER_GIT_HOST=" + host,
		"DROVER_GIT_USERNAME=" + username, "DROVER_GIT_TOKEN=" + r.opts.Token,
	}
}

func (r *Repo) askpassPath() string { return filepath.Join(r.opts.Dir, "askpass") }

func (r *Repo) gitDir() string { return filepath.Join(r.opts.Dir, "repository.git") }

// cloneConfig lets the agent's git read a repository of another user's.
const cloneConfig = "[safe]\n\tdirectory = *\n"

func (r *Repo) cloneConfigPath() string { return filepath.Join(r.opts.Dir, "clone.gitconfig") }

// prepare makes the directory of the worker's own files.
func (r *Repo) prepare() error {
	if err := os.MkdirAll(filepath.Join(r.opts.Dir, "home"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.cloneConfigPath(), []byte(cloneConfig), 0o644); err != nil {
		return err
	}
	return os.WriteFile(r.askpassPath(), []byte(askpass), 0o700)
}
