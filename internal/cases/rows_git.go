package main

import (
	"maps"
	"slices"
	"strings"
)

// Kinds of cases about the agent's tree and the git server.
const (
	kindNoRepository = "agent that removes its repository"
	kindElsewhere    = "commits left on another branch"
	kindUncommitted  = "work left uncommitted"
	kindDirty        = "tests in a tree that is not what was pushed"
	kindRewritten    = "history rewritten after a push"
	kindUnfit        = "repository that the item can't be worked on in"
	kindBaseReplaced = "history of the base replaced between attempts"
	kindEmbedded     = "repository inside the tree"
	kindRefused      = "push refused by the server"
	kindLFS          = "attributes that mention Git LFS"
)

// Subjects of drover's own commits.
const (
	subjectLeft     = "Commit what the agent left uncommitted"
	subjectEmbedded = "Keep the files of embedded repositories"
	subjectFinal    = "Bring the branch to the agent's final state"
)

// gitRows are about what agents do to their tree, and what git servers answer.
func gitRows() []row {
	return slices.Concat(noRepositoryRows(), elsewhereRows(), uncommittedRows(), dirtyRows(), rewrittenRows(), unfitRows(), baseReplacedRows(), embeddedRows(), refusedRows(), lfsRows())
}

// gitAgent is a recorded agent. It waits for its push where the recording sleeps.
func gitAgent(name string) agent {
	return agent{Script: strings.ReplaceAll(input("git/"+name+".agent.sh"), "sleep 2", "pushed")}
}

// script is an agent that is a script.
func script(text string) agent { return agent{Script: text} }

// done is the outcome of an item that completed in its first attempt, with a pull request.
func done(commits []string, changed files, sentence string) outcome {
	return outcome{State: "completed", Reasons: reasons("completed"), Commits: commits, Files: changed, PR: "created", Sentence: sentence}
}

// onceOnly keeps an attempt that fails from being repeated.
func onceOnly() fields { return fields{"retry": fields{"max_retries": 0}} }

// second is an agent that runs first in attempt 1, which fails once that is pushed, and text in attempt 2.
func second(first, text string) agent {
	return script("if [ \"$DROVER_ATTEMPT\" = 1 ]; then\n" + first + "\npushed; exit 3\nfi\n" + text)
}

// retried makes the outcome one of an item whose first attempt failed.
func retried(o outcome) outcome {
	o.Reasons, o.Retries = append(reasons("agent_error"), o.Reasons...), 1
	return o
}

func ownAll(rows ...row) []row {
	for i := range rows {
		rows[i].Own = true
	}
	return rows
}

// named sets the kind of rows.
func named(kind string, rows ...row) []row {
	for i := range rows {
		rows[i].Kind = kind
	}
	return rows
}

func noRepositoryRows() []row {
	broken := func(commits []string, changed files) outcome {
		return outcome{State: "failed", Reasons: reasons("agent_error"), Commits: commits, Files: changed, Sentence: "the agent removed or broke its repository (.git)"}
	}
	rows := []row{
		{ID: "G1", Agent: gitAgent("01-remove-dotgit"), Spec: onceOnly(), Right: broken(nil, nil)},
		{ID: "G1b", Agent: gitAgent("01b-remove-dotgit-after-push"), Spec: onceOnly(), Right: broken([]string{"one"}, files{"work.txt": "one\n"})},
	}
	rows = append(rows, ownAll(
		row{ID: "G1-files", Agent: script("commit one; pushed; echo x >w; rm -rf .git"), Spec: onceOnly(), Right: broken([]string{"one", subjectLeft}, files{"work.txt": "one\n", "w": "x\n"})},
		row{ID: "G1-new", Agent: script("commit one; pushed; rm -rf .git; git init -q; echo x >w; git add -A; git commit -qm anew"),
			Right: done([]string{"one", "anew"}, files{"work.txt": "one\n", "w": "x\n"}, "the agent rewrote what was pushed")},
		row{ID: "G1-tree", Agent: script(`commit one; pushed; rm -rf "$PWD"`), Spec: onceOnly(), Right: broken([]string{"one"}, files{"work.txt": "one\n"})},
		row{ID: "G1-again", Agent: second("commit one; pushed; rm -rf .git; exit 0", "commit two"),
			Right: retried(done([]string{"one", "two"}, files{"work.txt": "one\ntwo\n"}, ""))},
	)...)
	return named(kindNoRepository, rows...)
}

func elsewhereRows() []row {
	one := func(name string) files { return files{name: anything} }
	rows := []row{
		{ID: "G2", Agent: gitAgent("02-own-branch-and-back"), Right: done([]string{"one"}, one("work.txt"), "1 commits")},
		{ID: "G3", Agent: gitAgent("03-own-branch-back-at-once"), Right: done([]string{"one"}, one("work.txt"), "1 commits")},
		{ID: "G3b", Agent: gitAgent("03b-worktree"), Right: done([]string{"one"}, files{"w": "x\n"}, "1 commits")},
		{ID: "G3c", Agent: second("commit one", input("git/03c-second-attempt-from-main.agent.sh")),
			Right: retried(done([]string{"one", "two"}, files{"work.txt": "two\n"}, "began elsewhere"))},
	}
	rows = append(rows, ownAll(
		row{ID: "G3-detached", Agent: script("git checkout -q --detach; commit one; commit two; git checkout -q -"), Right: done([]string{"one", "two"}, files{"work.txt": "one\ntwo\n"}, "")},
		row{ID: "G3-removed", Agent: script("git checkout -q -b feature; commit one; git checkout -q -; git branch -qD feature"), Right: done([]string{"one"}, one("work.txt"), "")},
		row{ID: "G3-renamed", Agent: script("git branch -m mine; commit one"), Right: done([]string{"one"}, one("work.txt"), "")},
		row{ID: "G3-beside", Agent: second("commit one", "git checkout -q -b fix origin/main; echo x >x; git add -A; git commit -qm x"),
			Right: retried(done([]string{"one", "x"}, files{"work.txt": "one\n", "x": "x\n"}, "were rebased onto the branch"))},
		row{ID: "G3-two", Agent: script("git checkout -q -b a; commit one; git checkout -q -; git checkout -q -b b; commit two; git checkout -q -; echo x >x; git add -A; git commit -qm x"),
			Right: done([]string{"x"}, files{"x": "x\n"}, "left behind: 1 commit on branch")},
		row{ID: "G3-stash", Agent: script("commit one; echo x >>work.txt; git stash -q"), Right: done([]string{"one"}, files{"work.txt": "one\n"}, "left behind: a stash")},
	)...)
	return named(kindElsewhere, rows...)
}

func uncommittedRows() []row {
	with := func(mode string) fields { return fields{"uncommitted": mode, "retry": fields{"max_retries": 0}} }
	large := done([]string{subjectLeft}, files{"w": "x\n"}, "not committed: big (larger than 10 MiB)")
	large.Draft = true
	rows := []row{{ID: "G4", Agent: gitAgent("04-uncommitted"), Right: done([]string{subjectLeft}, files{"w": "x\n"}, "drover committed 1 file that the agent had left uncommitted")}}
	rows = append(rows, ownAll(
		row{ID: "G4-staged", Agent: script("commit one; echo x >w; git add w; echo y >>README.md"),
			Right: done([]string{"one", subjectLeft}, files{"work.txt": "one\n", "w": "x\n", "README.md": anything}, "drover committed 2 files")},
		row{ID: "G4-large", Agent: script("echo x >w; truncate -s 11M big"), Right: large},
		row{ID: "G4-ignored", Agent: script("echo '*.o' >.gitignore; commit one; echo x >x.o"), Right: done([]string{"one"}, files{"work.txt": "one\n", ".gitignore": "*.o\n"}, "")},
		row{ID: "G4-fail", Spec: with("fail"), Agent: script("commit one; echo x >w"), Right: outcome{
			State: "failed", Reasons: reasons("agent_error"), Commits: []string{"one"}, Files: files{"work.txt": "one\n"}, Sentence: "left behind: the uncommitted file w",
		}},
		row{ID: "G4-ignore", Spec: with("ignore"), Agent: script("commit one; echo x >w"), Right: done([]string{"one"}, files{"work.txt": "one\n"}, "left behind: the uncommitted file w")},
		row{ID: "G4-crash", Spec: onceOnly(), Agent: script("echo x >w; kill -KILL $$"), Right: outcome{
			State: "failed", Reasons: reasons("crashed"), Commits: []string{subjectLeft}, Files: files{"w": "x\n"}, Sentence: "signal 9",
		}},
	)...)
	return named(kindUncommitted, rows...)
}

func dirtyRows() []row {
	tested := func(o outcome, t tests) outcome {
		o.Test, o.Draft = t, t.Status != "passed"
		return o
	}
	test := func(command string, more fields) fields {
		spec := fields{"test": fields{"command": command}}
		maps.Copy(spec, more)
		return spec
	}
	ignore := fields{"uncommitted": "ignore"}
	rows := []row{{ID: "G5", Spec: test("test -f helper.txt", nil), Agent: gitAgent("05-dirty-tree-tests"),
		Right: tested(done([]string{"code", subjectLeft}, files{"code.txt": "a\n", "helper.txt": "b\n"}, "drover committed 1 file"), tests{Status: "passed"})}}
	rows = append(rows, ownAll(
		row{ID: "G5-ignore", Spec: test("test -f helper.txt", ignore), Agent: gitAgent("05-dirty-tree-tests"),
			Right: tested(done([]string{"code"}, files{"code.txt": "a\n"}, "1 file set aside for the tests"), tests{Status: "failed"})},
		row{ID: "G5-changed", Spec: test("grep -q good code.txt", ignore), Agent: script("echo bad >code.txt; git add -A; git commit -qm code; echo good >code.txt"),
			Right: tested(done([]string{"code"}, files{"code.txt": "bad\n"}, "1 file set aside for the tests"), tests{Status: "failed"})},
		row{ID: "G5-removed", Spec: test("test -f README.md", ignore), Agent: script("commit one; rm README.md"),
			Right: tested(done([]string{"one"}, files{"work.txt": "one\n"}, "set aside for the tests"), tests{Status: "passed"})},
		row{ID: "G5-dependency", Spec: test("test -f deps/lib", ignore), Agent: script("echo deps >.gitignore; commit one; mkdir deps; echo x >deps/lib"),
			Right: tested(done([]string{"one"}, files{"work.txt": "one\n", ".gitignore": "deps\n"}, ""), tests{Status: "passed"})},
		row{ID: "G5-elsewhere", Spec: test("test -f work.txt", nil), Agent: script("git checkout -q -b feature; commit one; git checkout -q -"),
			Right: tested(done([]string{"one"}, files{"work.txt": "one\n"}, ""), tests{Status: "passed"})},
		row{ID: "G5-large", Spec: test("test -f big", nil), Agent: script("commit one; truncate -s 11M big"),
			Right: tested(done([]string{"one"}, files{"work.txt": "one\n"}, "not committed: big"), tests{Status: "failed"})},
	)...)
	return named(kindDirty, rows...)
}

func rewrittenRows() []row {
	const says = "the agent rewrote what was pushed: its files were committed on top of that"
	rows := []row{
		{ID: "G6", Agent: gitAgent("06-amend-after-push"), Right: done([]string{"one", "better"}, files{"work.txt": "one\ny\n"}, says)},
		{ID: "G6b", Agent: gitAgent("06b-squash-after-push"), Right: done([]string{"one", "two"}, files{"work.txt": "one\ntwo\n"}, "")},
	}
	rows = append(rows, ownAll(
		row{ID: "G6-squash", Agent: script("commit one; commit two; pushed; git reset -q --soft HEAD~2; echo x >x; git add -A; git commit -qm both"),
			Right: done([]string{"one", "two", "both"}, files{"work.txt": "one\ntwo\n", "x": "x\n"}, says)},
		row{ID: "G6-reset", Agent: script("commit one; commit two; pushed; git reset -q --hard HEAD~1"), Right: done([]string{"one", "two", subjectFinal}, files{"work.txt": "one\n"}, says)},
		row{ID: "G6-rebase", Agent: script("commit one; echo x >x; git add -A; git commit -qm x; pushed; git rebase -q --onto HEAD~2 HEAD~1"), Right: done([]string{"one", "x", "x"}, files{"x": "x\n"}, says)},
		row{ID: "G6-attempts", Agent: second("commit one", "echo y >>work.txt; git commit -qa --amend -m better"), Right: retried(done([]string{"one", "better"}, files{"work.txt": "one\ny\n"}, says))},
		row{ID: "G6-orphan", Agent: script("commit one; pushed; b=$(git branch --show-current); git checkout -q --orphan new; echo x >x; git add -A; git commit -qm all; git branch -qD $b; git branch -m $b"),
			Right: done([]string{"one", "all"}, files{"work.txt": "one\n", "x": "x\n"}, says)},
	)...)
	return named(kindRewritten, rows...)
}

func unfitRows() []row {
	unfit := func(sentence string) outcome {
		return outcome{State: "failed", Reasons: reasons("start_failed"), Sentence: sentence}
	}
	never := script("commit never")
	rows := []row{
		{ID: "G7", Agent: never, Remote: input("git/07-branch-named-drover.remote.sh"), Right: unfit("has a branch drover, beside which git can have no branch drover/")},
		{ID: "G8", Agent: never, Remote: input("git/08-dangling-head.remote.sh"), Right: unfit("names a branch that is not there: name the item's base, one of main")},
		{ID: "G8b", Agent: never, Remote: input("git/08b-detached-head.remote.sh"), Right: unfit("is detached")},
		{ID: "G8c", Agent: never, Spec: fields{"base": "nope"}, Right: unfit("base branch nope is not in")},
	}
	rows = append(rows, ownAll(
		row{ID: "G8-empty", Agent: never, Remote: `git --git-dir="$1" update-ref -d refs/heads/main`, Right: unfit("is empty: it has no commit to start from")},
		row{ID: "G7-base", Agent: never, Remote: `git --git-dir="$1" branch -m main drover`, Spec: fields{"base": "drover"}, Right: unfit("has a branch drover,")},
		row{ID: "G7-tag", Agent: script("commit one"), Remote: `git --git-dir="$1" tag drover main; git --git-dir="$1" branch Drover main`, Right: done([]string{"one"}, files{"work.txt": "one\n"}, "")},
	)...)
	return named(kindUnfit, rows...)
}

func baseReplacedRows() []row {
	replaced := input("git/09-base-rewritten.remote.sh")
	right := func() outcome {
		return retried(done([]string{"Initial commit", "one", "two"}, files{"a": removed, "README.md": anything, "work.txt": "one\ntwo\n"}, "3 commits"))
	}
	rows := []row{{ID: "G9", Agent: second("commit one", "commit two"), Between: []string{replaced}, Right: right()}}
	rows = append(rows, ownAll(
		row{ID: "G9-shallow", Agent: second("commit one", "commit two"), Between: []string{replaced}, Spec: fields{"clone_depth": 1}, Right: right()},
		row{ID: "G9-told", Agent: second("commit one", `grep -q 'The history of main was replaced' || exit 4; commit two`), Between: []string{replaced}, Right: right()},
	)...)
	return named(kindBaseReplaced, rows...)
}

func embeddedRows() []row {
	rows := []row{{ID: "G10", Agent: gitAgent("10-embedded-repository"), Right: done([]string{"one", subjectEmbedded}, files{"app/f": "x\n"}, "app, was turned into plain files")}}
	link := `t=$(mktemp -d); git clone -q "$1" "$t"; cd "$t"; b=$(git for-each-ref --format='%(refname:lstrip=3)' refs/remotes/origin/drover); git checkout -q "$b"
git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),app; git commit -qm link; git push -q origin "$b"`
	rows = append(rows, ownAll(
		row{ID: "G10-uncommitted", Agent: script("mkdir app; cd app; git init -q; echo x >f; git add -A; git commit -qm inner"),
			Right: done([]string{subjectLeft}, files{"app/f": "x\n"}, "app, was turned into plain files")},
		row{ID: "G10-mended", Agent: second("commit one", `grep -q 'app was committed as a link' || exit 4; git rm -q --cached app; echo x >app/f; git add -A; git commit -qm mended`), Between: []string{link},
			Right: retried(done([]string{"one", "link", "mended"}, files{"work.txt": "one\n", "app/f": "x\n"}, ""))},
		row{ID: "G10-kept", Agent: second("commit one", "commit two"), Between: []string{link},
			Right: retried(done([]string{"one", "link", "two"}, files{"work.txt": "one\ntwo\n", "app": gitlink}, ""))},
		row{ID: "G10-worktree", Agent: script("git worktree add -q wt -b side; cd wt; echo x >x; git add -A; git commit -qm one; cd ..; git add -A 2>/dev/null; commit two"),
			Right: done([]string{"two", subjectEmbedded}, files{"work.txt": "two\n"}, "left behind: 1 commit on branch side")},
	)...)
	return named(kindEmbedded, rows...)
}

func refusedRows() []row {
	refused := func(sentence string) outcome {
		return outcome{State: "failed", Reasons: reasons("push_refused"), Sentence: sentence}
	}
	hook := func(lines ...string) string {
		return "#!/bin/sh\ncat >&2 <<'EOT'\n" + strings.Join(lines, "\n") + "\nEOT\nexit 1\n"
	}
	one := script("commit one")
	rows := []row{
		{ID: "G11", Agent: one, PreReceive: input("git/11-push-protection.pre-receive"), Right: refused("GH013: Repository rule violations found")},
		{ID: "G11b", Agent: one, PreReceive: hook("error: GH013: Repository rule violations found for refs/heads/drover/x.", "- Commits must have verified signatures."), Right: refused("Commits must have verified signatures")},
		{ID: "G11c", Agent: one, PreReceive: hook("error: GH006: Protected branch update failed for refs/heads/drover/x."), Right: refused("let the workers' user push to drover/*")},
		{ID: "G12", Agent: one, PreReceive: input("git/12-workflow-scope.pre-receive"), Right: refused("the workers' token lacks the permission to change workflows: the scope `workflow`")},
	}
	rows = append(rows, ownAll(
		row{ID: "G11-whole", Agent: one, PreReceive: input("git/11-push-protection.pre-receive"), Right: refused("https://github.com/o/r/security/secret-scanning/unblock-secret/abc")},
		row{ID: "G11-gitlab", Agent: one, PreReceive: hook("GitLab: Commit message does not follow the pattern '^JIRA-'"), Right: refused("does not follow the pattern '^JIRA-'")},
		row{ID: "G11-gitea", Agent: one, PreReceive: hook("", "Gitea: Not allowed to push to protected branch drover/x"), Right: refused("Gitea: Not allowed to push to protected branch")},
		row{ID: "G11-stopped", Agent: script("commit one; sleep 300"), PreReceive: hook("error: GH006: Protected branch update failed for refs/heads/drover/x."), Right: refused("the agent was stopped: git push: push refused")},
		row{ID: "G11-hook", Agent: one, PreReceive: hook("the moon is full"), Right: refused("the moon is full")},
		row{ID: "G11-passes", Agent: one, PreReceive: "#!/bin/sh\nn=$(cat count 2>/dev/null || echo 0)\n[ $n -lt 2 ] || exit 0\necho $((n+1)) >count\necho 'Internal Server Error' >&2\nexit 1\n",
			Right: done([]string{"one"}, files{"work.txt": "one\n"}, "")},
		row{ID: "G11-mended", Agent: script("commit secret; until [ -e \"$REMOTE/refused\" ]; do sleep 0.1; done; echo plain >work.txt; git commit -qa --amend -m plain"),
			PreReceive: "#!/bin/sh\nread old new ref\ncase $(git log -1 --format=%s $new) in secret) : >refused; echo 'GH013: Push cannot contain secrets' >&2; exit 1;; esac\n",
			Right:      done([]string{"plain"}, files{"work.txt": "plain\n"}, "")},
	)...)
	return named(kindRefused, rows...)
}

func lfsRows() []row {
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1\n"
	accepted := func() outcome { return done([]string{"one"}, files{"work.txt": "one\n"}, "") }
	one := script("commit one")
	rows := []row{
		{ID: "G14", Agent: one, Files: files{".gitattributes": input("git/14-lfs-macro.gitattributes")}, Right: accepted()},
		{ID: "G14b", Agent: one, Files: files{".gitattributes": input("git/14b-lfs-no-file.gitattributes")}, Right: accepted()},
	}
	rows = append(rows, ownAll(
		row{ID: "G14-plain", Agent: one, Files: files{".gitattributes": "*.psd filter=lfs\n", "a.psd": "not in LFS\n"}, Right: accepted()},
		row{ID: "G14-pointer", Agent: one, Files: files{"a.bin": pointer, ".gitattributes": "*.psd filter=lfs\n"}, Right: accepted()},
		row{ID: "G14-stored", Agent: one, Files: files{".gitattributes": "*.psd filter=lfs diff=lfs merge=lfs -text\n", "d/a.psd": pointer},
			Right: outcome{State: "failed", Reasons: reasons("start_failed"), Sentence: "d/a.psd is stored in Git LFS"}},
	)...)
	return named(kindLFS, rows...)
}
