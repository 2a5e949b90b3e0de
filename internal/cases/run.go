package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

// settledWait is how far off an item's next attempt must be for the item to have settled: no retry of the table waits
// that long.
const settledWait = 20 * time.Second

// run is a row that runs.
type run struct {
	row
	*rig
	ctx        context.Context
	repository string // owner/name
	id         string // of the item, once it is submitted

	mu   sync.Mutex
	done int   // scripts of Between that have run
	err  error // of one of them
}

// seen is what can be seen of an item once it has settled.
type seen struct {
	Item       work.Item
	Refusal    string // of the submission; empty if it was taken
	Repository string
	Commits    []string
	Files      files
	Refs       []string // of the remote
	Pulls      []forgetest.Pull
}

// run runs a row and returns what is wrong with its outcome.
func (g *rig) run(ctx context.Context, c row) (*seen, []string) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Within, DefaultWithin))
	defer cancel()
	r := &run{row: c, rig: g, ctx: ctx, repository: owner + "/" + c.name()}
	seen, err := r.play()
	if err != nil {
		return seen, []string{err.Error()}
	}
	return seen, c.Right.compare(seen)
}

func (r *run) play() (*seen, error) {
	if err := r.prepare(); err != nil {
		return nil, fmt.Errorf("prepare the row: %w", err)
	}
	s := &seen{Repository: r.repository}
	item, err := r.submit()
	var no *refusal
	switch {
	case errors.As(err, &no) && no.Status < http.StatusInternalServerError:
		s.Refusal = no.Detail
		return s, nil
	case err != nil:
		return s, fmt.Errorf("submit: %w", err)
	case r.SubmitOnly:
		s.Item = item
		return s, nil
	}
	r.setID(item.ID)
	if r.Meanwhile != nil {
		if err := r.Meanwhile(r.ctx, r); err != nil {
			return s, fmt.Errorf("the row's own steps: %w", err)
		}
	}
	s.Item, err = r.await(settled)
	if err != nil {
		_ = r.rig.call(context.WithoutCancel(r.ctx), http.MethodPost, "/v1/items/"+r.id+"/cancel", nil, nil) // the row is wrong in any case
		return s, fmt.Errorf("the item does not settle: %w; it is %s: %s", err, s.Item.State, s.Item.Why)
	}
	return s, r.look(s)
}

// prepare makes the repository and the agent's program.
func (r *run) prepare() error {
	contents := files{"README.md": "A repository.\n"}
	maps.Copy(contents, r.Files)
	if err := r.git.CreateRepo(r.repository, contents); err != nil {
		return err
	}
	if r.PreReceive != "" {
		if err := os.WriteFile(filepath.Join(r.git.Path(r.repository), "hooks", "pre-receive"), []byte(r.PreReceive), 0o755); err != nil {
			return err
		}
	}
	if r.Remote != "" {
		if err := r.script(r.Remote); err != nil {
			return err
		}
	}
	if r.Forge != nil {
		if err := r.Forge(r.forge, r.repository); err != nil {
			return err
		}
	}
	r.rig.mu.Lock()
	r.runs[r.repository] = r
	r.rig.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(r.program()), 0o755); err != nil {
		return err
	}
	return os.WriteFile(r.program(), []byte(r.agentScript()), 0o755)
}

// script runs a script of the remote.
func (r *run) script(text string) error {
	cmd := exec.CommandContext(r.ctx, "sh", "-ec", text, "sh", r.git.Path(r.repository))
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@localhost")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("script of the remote: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// program is the path of what takes the agent's place. It has the agent's name.
func (r *run) program() string {
	names := map[string]string{work.AgentClaudeCode: "claude", work.AgentCodex: "codex"}
	return filepath.Join(r.dir, "agents", filepath.Base(r.repository), cmp.Or(names[r.Agent.Kind], "agent"))
}

func (r *run) agentScript() string {
	var text strings.Builder
	fmt.Fprintf(&text, "#!/bin/sh\nCASES='%s' REMOTE='%s'\n", r.cases, r.git.Path(r.repository))
	text.WriteString(`commit() { echo "$1" >>work.txt; git add -A; git commit -qm "$1"; }
pushed() { until git --git-dir="$REMOTE" cat-file -e "$(git rev-parse HEAD)" 2>/dev/null; do sleep 0.1; done; }
`)
	fmt.Fprintln(&text, r.Agent.Script)
	if r.Agent.Recording != "" {
		input(r.Agent.Recording) // panics where there is none
		fmt.Fprintf(&text, "cat \"$CASES/%s\"\n", r.Agent.Recording)
	}
	if r.Agent.Exit != 0 {
		fmt.Fprintf(&text, "exit %d\n", r.Agent.Exit)
	}
	return text.String()
}

func (r *run) submit() (work.Item, error) {
	path := "/v1/items"
	if r.SubmitOnly {
		path += "?dry_run=true"
	}
	return r.post(path, r.spec())
}

// spec is what is submitted.
func (r *run) spec() fields {
	spec := fields{
		"repository": r.git.URL(r.repository), "task": "Do what the case says.", "queue": r.name(),
		"agent": cmp.Or(r.Agent.Kind, work.AgentPlain), "command": []string{r.program()},
		"pull_request": fields{"provider": work.ProviderGitHub, "api_url": r.forge.URL()},
	}
	merge(spec, r.Spec)
	if test, ok := spec["test"].(fields); ok {
		command, _ := test["command"].(string)
		test["command"] = strings.ReplaceAll(command, "$CASES", r.cases)
	}
	return spec
}

// post submits one specification.
func (r *run) post(path string, spec fields) (work.Item, error) {
	var items []work.Item
	err := r.call(r.ctx, http.MethodPost, path, fields{"spec": spec}, &items)
	if err == nil && len(items) != 1 {
		err = fmt.Errorf("the answer has %d items, not 1", len(items))
	}
	if err != nil {
		return work.Item{}, err
	}
	return items[0], nil
}

// merge sets the fields of from in to, those of nested objects one by one. It keeps nothing of from that can change.
func merge(to, from fields) {
	for name, value := range from {
		inner, ok := value.(fields)
		if !ok {
			to[name] = value
			continue
		}
		present, ok := to[name].(fields)
		if !ok {
			present = fields{}
			to[name] = present
		}
		merge(present, inner)
	}
}

// settled reports whether nothing more happens to an item for a while.
func settled(item work.Item) bool {
	if item.State.Terminal() {
		return true
	}
	return item.State == work.StateQueued && len(item.Attempts) > 0 && time.Until(item.NotBefore) > settledWait
}

// await waits until the item is as ok says, and returns it as it was last seen.
func (r *run) await(ok func(work.Item) bool) (item work.Item, err error) {
	err = poll(r.ctx, cmp.Or(r.Within, DefaultWithin), func() (bool, error) {
		if err := r.betweenError(); err != nil {
			return false, err
		}
		now, err := r.item(r.ctx, r.id)
		if err != nil {
			return false, err
		}
		item = now
		return ok(item), nil
	})
	return item, err
}

// between runs the scripts whose attempt has ended. An attempt that is the item's latest has not.
func (r *run) between() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Between) == r.done || r.id == "" || r.err != nil {
		return
	}
	item, err := r.item(r.ctx, r.id)
	for err == nil && r.done < len(r.Between) && r.done < len(item.Attempts)-1 {
		err = r.script(r.Between[r.done])
		r.done++
	}
	r.err = err
}

func (r *run) betweenError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *run) setID(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id = id
}

// look looks at the remote and at the forge.
func (r *run) look(s *seen) error {
	s.Refs = r.git.Refs(r.repository)
	s.Pulls = r.forge.PullsOf(r.repository)
	if r.git.Head(r.repository, s.Item.Branch) == "" {
		return nil
	}
	log, err := r.git.Git(r.repository, "log", "--reverse", "--format=%s", "refs/heads/"+s.Item.Branch, "--not", "--exclude=drover/*", "--branches")
	if err != nil {
		return err
	}
	if log = strings.TrimSuffix(log, "\n"); log != "" {
		s.Commits = strings.Split(log, "\n")
	}
	s.Files, err = r.changed(cmp.Or(s.Item.Spec.Base, "main"), s.Item.Branch)
	return err
}

// changed returns the files of a branch that differ from those of base.
func (r *run) changed(base, branch string) (files, error) {
	raw, err := r.git.Git(r.repository, "diff-tree", "-r", "-z", "--no-renames", "refs/heads/"+base, "refs/heads/"+branch)
	if err != nil {
		return nil, err
	}
	changed := files{}
	entries := strings.Split(strings.TrimSuffix(raw, "\x00"), "\x00")
	for i := 0; i+1 < len(entries); i += 2 { // ":100644 100644 <blob> <blob> M", path
		meta, path := strings.Fields(entries[i]), entries[i+1]
		switch mode := meta[1]; {
		case mode == "000000":
			changed[path] = removed
		case mode == "160000":
			changed[path] = gitlink
		default:
			if changed[path], err = r.git.Git(r.repository, "cat-file", "blob", meta[3]); err != nil {
				return nil, err
			}
		}
	}
	return changed, nil
}
