package gitrepo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/work"
	"drover/internal/worker/gitrepo"
)

// harvest delivers what the agent has left.
func (d *desk) harvest(uncommitted string) *gitrepo.Harvest {
	d.t.Helper()
	h, err := d.repo.Harvest(d.t.Context(), uncommitted)
	if err != nil {
		d.t.Fatal(err)
	}
	commit, err := d.repo.Deliver(d.t.Context(), h)
	head := d.git.Head("app", branch)
	if head == "" {
		head = d.repo.Start()
	}
	if err != nil || commit != head {
		d.t.Fatalf("delivered %s, the branch is at %s: %v", commit, head, err)
	}
	return h
}

// tree is the paths and contents of the branch, as path=content.
func (d *desk) files() string {
	d.t.Helper()
	out, err := d.git.Git("app", "ls-tree", "-r", "--format=%(path)=%(objecttype)", "refs/heads/"+branch)
	if err != nil {
		return ""
	}
	var files []string
	for line := range strings.Lines(out) {
		path, kind, _ := strings.Cut(strings.TrimSpace(line), "=")
		content := kind
		if kind == "blob" {
			text, err := d.git.File("app", branch, path)
			if err != nil {
				d.t.Fatal(err)
			}
			content = strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "/")
			if len(content) > 40 {
				content = content[:40] + "…"
			}
		}
		files = append(files, path+"="+content)
	}
	return strings.Join(files, " ")
}

// commitFunction is what the scripts of agents share.
const commitFunction = `commit() { echo "$1" >>work; git add -A; git commit -qm "$1"; }; main=$(git rev-parse HEAD)
`

type treeCase struct {
	before string // attempt 1; pushed
	pushed string // of this attempt; pushed as it is made
	agent  string // what it does then
	log    string // subjects on the branch
	files  string // on the branch, beside a=b
	says   string // part of what the result says
	silent bool   // it says nothing
	fault  string
}

var treeCases = map[string]treeCase{
	"own branch, then back":             {agent: "git checkout -q -b feature; commit one; git checkout -q -", log: "one", files: "work=one", silent: true},
	"own branch removed, then back":     {agent: "git checkout -q -b feature; commit one; git checkout -q -; git branch -qD feature", log: "one", files: "work=one", silent: true},
	"detached, then back":               {agent: "git checkout -q --detach; commit one; commit two; git checkout -q -", log: "one two", files: "work=one/two", silent: true},
	"renamed branch":                    {agent: "git branch -m mine; commit one", log: "one", files: "work=one", silent: true},
	"worktree":                          {agent: "git worktree add -q ../wt -b side; cd ../wt; commit one", log: "one", files: "work=one", silent: true},
	"detached worktree":                 {agent: "git worktree add -q --detach ../wt; cd ../wt; commit one", log: "one", files: "work=one", silent: true},
	"worktree inside the tree":          {agent: "git worktree add -q wt -b side; cd wt; commit one", log: "one", files: "work=one", silent: true},
	"worktree removed":                  {agent: "git worktree add -q ../wt -b side; (cd ../wt; commit one); git worktree remove ../wt", log: "one", files: "work=one", silent: true},
	"branch of an earlier push":         {pushed: "git checkout -q -b feature; commit one", agent: "git checkout -q -", log: "one", files: "work=one", silent: true},
	"earlier push, branch removed":      {pushed: "git checkout -q -b feature; commit one", agent: "git checkout -q -; git branch -qD feature", log: "one", files: "work=one", silent: true},
	"two branches, then back":           {agent: "git checkout -q -b x; commit one; git checkout -q $main; git checkout -q -b y; commit two; git checkout -q " + branch, says: "left behind: 1 commit on branch"},
	"another branch beside own work":    {agent: "git checkout -q -b try; echo try >t; git add -A; git commit -qm try; git checkout -q -; commit one", log: "one", files: "work=one", says: "1 commit on branch try"},
	"branch merged by squash":           {agent: "git checkout -q -b try; commit one; commit two; git checkout -q -; git merge -q --squash try; git commit -qm both", log: "both", files: "work=one/two", silent: true},
	"branch picked":                     {agent: "git checkout -q -b try; commit one; git checkout -q -; git cherry-pick try >/dev/null; commit two", log: "one two", files: "work=one/two", silent: true},
	"amended before a push":             {agent: "commit one; echo y >>work; git commit -qa --amend -m better", log: "better", files: "work=one/y", silent: true},
	"amended after a push":              {pushed: "commit one", agent: "echo y >>work; git commit -qa --amend -m better", log: "one better", files: "work=one/y", says: "rewrote what was pushed"},
	"amended message alone":             {pushed: "commit one", agent: "git commit -q --amend -m better", log: "one", files: "work=one", silent: true},
	"amended after a push, and more":    {pushed: "commit one", agent: "echo y >>work; git commit -qa --amend -m better; commit two", log: "one Bring the branch to the agent's final state", files: "work=one/y/two", says: "rewrote what was pushed"},
	"squashed after a push":             {pushed: "commit one; commit two", agent: "git reset -q --soft HEAD~2; git commit -qm both", log: "one two", files: "work=one/two", silent: true},
	"squashed and changed":              {pushed: "commit one; commit two", agent: "git reset -q --soft HEAD~2; echo three >t; git add -A; git commit -qm both", log: "one two both", files: "t=three work=one/two", says: "rewrote what was pushed"},
	"reset after a push":                {pushed: "commit one; commit two", agent: "git reset -q --hard HEAD~1", log: "one two Bring the branch to the agent's final state", files: "work=one", says: "rewrote what was pushed"},
	"reset before a push":               {agent: "commit one; git reset -q --hard HEAD~1", says: "1 commit on no branch"},
	"reset, then other work":            {agent: "commit one; git reset -q --hard HEAD~1; echo x >x; git add -A; git commit -qm x", log: "x", files: "x=x", silent: true},
	"rebased after a push":              {pushed: "commit one; echo x >x; git add -A; git commit -qm x", agent: "git rebase -q --onto HEAD~2 HEAD~1", log: "one x x", files: "x=x", says: "rewrote what was pushed"},
	"rewritten, then gone back to main": {pushed: "commit one", agent: "echo y >>work; git commit -qa --amend -m better; git checkout -q $main", log: "one better", files: "work=one/y", says: "rewrote what was pushed"},
	"second attempt from main":          {before: "commit one", agent: "git checkout -q -b fix origin/main; commit two", log: "one two", files: "work=two", says: "began elsewhere and conflict with the branch"},
	"second attempt from main, apart":   {before: "commit one", agent: "git checkout -q -b fix origin/main; echo x >x; git add -A; git commit -qm x", log: "one x", files: "work=one x=x", says: "rebased onto the branch"},
	"second attempt goes back to main":  {before: "commit one", agent: "git checkout -q origin/main", log: "one", files: "work=one", silent: true},
	"second attempt amends the first":   {before: "commit one", agent: "echo y >>work; git commit -qa --amend -m better", log: "one better", files: "work=one/y", says: "rewrote what was pushed"},
	"origin removed":                    {before: "commit one", agent: "git remote remove origin; commit two", log: "one two", files: "work=one/two", silent: true},
	"packed and pruned":                 {pushed: "commit one", agent: "commit two; git reflog expire --expire=now --all; git gc -q --prune=now", log: "one two", files: "work=one/two", silent: true},
	"uncommitted":                       {agent: "echo x >w", log: "Commit what the agent left uncommitted", files: "w=x", says: "drover committed 1 file"},
	"staged":                            {agent: "echo x >w; git add w; echo y >>a", log: "Commit what the agent left uncommitted", files: "a=b/y w=x", says: "drover committed 2 files"},
	"removed file":                      {agent: "rm a; git rm -q --cached a; echo z >z", log: "Commit what the agent left uncommitted", files: "z=z", says: "drover committed 2 files"},
	"renamed and odd names":             {agent: "git mv a 'b c'; echo x >'ü\"*'; mkdir -p d/e; ln -s ../a d/e/l", log: "Commit what the agent left uncommitted", says: "drover committed 4 files"},
	"ignored files":                     {agent: "echo '*.o' >.gitignore; git add -A; git commit -qm ignore; echo x >x.o", log: "ignore", files: ".gitignore=*.o", silent: true},
	"uncommitted on a detached HEAD":    {agent: "git checkout -q --detach; echo x >w", log: "Commit what the agent left uncommitted", files: "w=x", says: "drover committed 1 file"},
	"uncommitted after a commit":        {pushed: "commit one", agent: "echo x >>work", log: "one Commit what the agent left uncommitted", files: "work=one/x", says: "drover committed 1 file"},
	"lock of a git that was killed":     {agent: "echo x >w; touch .git/index.lock", log: "Commit what the agent left uncommitted", files: "w=x", says: "drover committed 1 file"},
	"large file":                        {agent: "echo x >w; truncate -s 11M big; git add big", log: "Commit what the agent left uncommitted", files: "w=x", says: "not committed: big (larger than 10 MiB)"},
	"large change":                      {agent: "echo x >w; truncate -s 11M a", log: "Commit what the agent left uncommitted", files: "w=x", says: "not committed: a (larger than 10 MiB)"},
	"unreadable file":                   {agent: "echo x >w; mkdir p; echo x >p/u; chmod 0 p/u", log: "Commit what the agent left uncommitted", files: "w=x", says: "drover committed"},
	"stash":                             {agent: "commit one; echo x >>work; git stash -q", log: "one", files: "work=one", says: "left behind: a stash"},
	"merge in progress, resolved":       {agent: "git checkout -q -b side; echo s >s; git add -A; git commit -qm s; git checkout -q -; commit one; git merge -q --no-commit --no-ff side", log: "s one Commit what the agent left uncommitted", files: "s=s work=one", says: "drover committed 1 file"},
	"merge in conflict":                 {agent: "git checkout -q -b side; commit s; git checkout -q -; commit one; ! git merge -q side >/dev/null", log: "one", files: "work=one", says: "work (in conflict)"},
	"pick in conflict":                  {agent: "git checkout -q -b side; commit s; git checkout -q -; commit one; ! git cherry-pick side >/dev/null 2>&1", log: "one", files: "work=one", says: "a cherry-pick was under way"},
	"rebase in progress":                {agent: "git checkout -q -b side; commit s; git checkout -q -; commit one; commit two; ! git rebase -q side >/dev/null 2>&1", log: "one two", files: "work=one/two", says: "a rebase was under way"},
	"embedded repository":               {agent: "mkdir app; (cd app; git init -q; echo x >f; git add -A; git commit -qm inner; echo y >g); git add -A 2>/dev/null; git commit -qm one", log: "one Keep the files of embedded repositories", files: "app/f=x app/g=y", says: "app, was turned into plain files"},
	"embedded repository, uncommitted":  {agent: "mkdir -p x/app; (cd x/app; git init -q; echo x >f; git add -A; git commit -qm inner)", log: "Commit what the agent left uncommitted", files: "x/app/f=x", says: "x/app, was turned into plain files"},
	"embedded without a commit":         {agent: "mkdir app; (cd app; git init -q; echo x >f; mkdir sub; cd sub; git init -q; echo y >g)", log: "Commit what the agent left uncommitted", files: "app/f=x app/sub/g=y", says: "app, was turned into plain files"},
	"worktree committed as a link":      {agent: "git worktree add -q wt -b side; cd wt; echo x >x; git add -A; git commit -qm x; cd ..; git add -A 2>/dev/null; commit two", log: "two Keep the files of embedded repositories", files: "work=two", says: "1 commit on branch side"},
	"embedded repository, ignored":      {agent: "mkdir app; (cd app; git init -q; echo x >f; git add -A; git commit -qm inner); echo app >.gitignore; git add -A; git commit -qm one", log: "one", files: ".gitignore=app", silent: true},
	"submodule with an address":         {agent: "git init -q --bare ../lib; git clone -q ../lib lib 2>/dev/null; (cd lib; commit l); printf '[submodule \"lib\"]\\n\\tpath = lib\\n\\turl = ../lib\\n' >.gitmodules; git add -A 2>/dev/null; git commit -qm one", log: "one", says: ""},
	"no repository":                     {agent: "rm -rf .git", fault: "removed or broke its repository"},
	"no repository after a push":        {pushed: "commit one", agent: "rm -rf .git", log: "one", files: "work=one", fault: "removed or broke its repository"},
	"no repository, but files":          {pushed: "commit one", agent: "rm -rf .git a; echo y >>work; echo x >w", log: "one Commit what the agent left uncommitted", files: "a=b w=x work=one/y", says: "a (missing", fault: "removed or broke its repository"},
	"repository is a file":              {pushed: "commit one", agent: "rm -rf .git; echo nonsense >.git; echo x >w", log: "one Commit what the agent left uncommitted", files: "w=x work=one", fault: "removed or broke its repository"},
	"broken index, but commits":         {agent: "commit one; echo nonsense >.git/index; echo x >w", log: "one Commit what the agent left uncommitted", files: "w=x work=one", fault: "removed or broke its repository"},
	"new repository":                    {pushed: "commit one", agent: "rm -rf .git; git init -q; echo x >w; git add -A; git commit -qm anew", log: "one anew", files: "w=x work=one", says: "rewrote what was pushed"},
	"new repository, uncommitted":       {pushed: "commit one", agent: "rm -rf .git; git init -q; echo x >w", log: "one Commit what the agent left uncommitted", files: "w=x work=one", says: "drover committed"},
	"orphan in place of the branch":     {pushed: "commit one", agent: "git checkout -q --orphan new; echo x >w; git add -A; git commit -qm all; git branch -D " + branch + " >/dev/null; git branch -m " + branch, log: "one all", files: "w=x work=one", says: "rewrote what was pushed"},
	"grafted away":                      {pushed: "commit one", agent: "commit two; git rev-parse HEAD >.git/shallow", log: "one two", files: "work=one/two", silent: true},
	"commit lost":                       {pushed: "commit one", agent: "commit two; lost=$(git rev-parse HEAD | sed 's,^..,&/,'); commit three; rm -f .git/objects/$lost", log: "one Bring the branch to the agent's final state", files: "work=one/two/three", says: "could not be read"},
	"replaced objects":                  {agent: "commit one; commit two; git replace HEAD HEAD~1", log: "one two", files: "work=one/two"},
}

func TestWhateverTheAgentDoesToItsTreeIsDeliveredOrNamed(t *testing.T) {
	t.Parallel()
	for name, c := range treeCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			if c.before != "" {
				d.agent(commitFunction + c.before)
				d.push()
				d.open(0)
			}
			if c.pushed != "" {
				d.agent(commitFunction + c.pushed)
				d.push()
			}
			d.agent(commitFunction + "main=$(git rev-parse origin/main)\n" + c.agent)
			h := d.harvest(work.UncommittedCommit)
			if log := d.git.Log("app", branch); strings.Join(log[min(1, len(log)):], " ") != c.log {
				t.Errorf("the branch has %q, want %q", log, c.log)
			}
			if want := strings.Fields("a=b " + c.files); c.log != "" && c.files != "" {
				got := strings.Fields(d.files())
				if strings.HasPrefix(c.files, "a=") || name == "removed file" {
					want = want[1:]
				}
				for _, file := range want {
					if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+file+" ") {
						t.Errorf("the branch holds %q, want %q", got, want)
						break
					}
				}
				if !strings.HasPrefix(c.files, ".") && len(got) != len(want) && name != "unreadable file" {
					t.Errorf("the branch holds %q, want %q", got, want)
				}
			}
			if said := h.Tree.String(); !strings.Contains(said, c.says) || c.silent && said != "" {
				t.Errorf("it says %q, want %q", said, c.says)
			}
			if !strings.Contains(h.Fault, c.fault) || c.fault == "" && h.Fault != "" {
				t.Errorf("the fault is %q, want %q", h.Fault, c.fault)
			}
			if c.fault == "" {
				d.wantTreeAsPushed(h)
			}
		})
	}
}

// wantTreeAsPushed checks that the tests would find exactly what was pushed.
func (d *desk) wantTreeAsPushed(h *gitrepo.Harvest) {
	d.t.Helper()
	if err := d.repo.SetAside(d.t.Context(), h); err != nil {
		d.t.Fatal(err)
	}
	want := d.git.Head("app", branch)
	if want == "" {
		want = d.repo.Start()
	}
	d.agent(fmt.Sprintf(`export GIT_NO_REPLACE_OBJECTS=1; [ "$(git rev-parse HEAD)" = %s ] && git status --porcelain >"$PWD.status" && [ ! -s "$PWD.status" ] || { git log --oneline -3; cat "$PWD.status"; exit 1; }`, want))
}

func TestUncommittedWorkIsLeftWhereTheItemSaysSo(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{work.UncommittedFail, work.UncommittedIgnore} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.agent("echo o >o.o; echo '*.o' >.git/info/exclude; echo x >x; git add x; git commit -qm one; echo y >>a; echo z >z")
			h := d.harvest(mode)
			d.wantLog("one")
			if said := h.Tree.String(); h.Uncommitted != 2 || !strings.Contains(said, "the uncommitted file a") || !strings.Contains(said, "the uncommitted file z") {
				t.Errorf("%d files, %q; want 2, named", h.Uncommitted, said)
			}
			d.wantTreeAsPushed(h)
			if h.Tree.SetAside != 2 {
				t.Errorf("%d files were set aside, want 2", h.Tree.SetAside)
			}
			if _, err := os.Stat(filepath.Join(d.tree, "o.o")); err != nil {
				t.Errorf("an ignored file: %v, want it in its place", err)
			}
		})
	}
}

func TestManyNewFilesAreCommittedUpToTheBound(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.agent(fmt.Sprintf("mkdir deep; cd deep; seq %d | xargs touch; cd ..; echo x >own", work.MaxUncommittedNew+20))
	h := d.harvest(work.UncommittedCommit)
	files := strings.Fields(d.files())
	if len(files) != work.MaxUncommittedNew+1 || files[len(files)-1] != "own=x" || h.Tree.Committed != work.MaxUncommittedNew {
		t.Errorf("%d files on the branch, %d committed, the last is %s", len(files), h.Tree.Committed, files[len(files)-1])
	}
	if said := h.Tree.String(); !strings.Contains(said, "beyond 1000 new files") || !strings.Contains(said, "and 11 more") || !h.Tree.Incomplete() {
		t.Errorf("it says %q", said)
	}
}

func TestEmbeddedRepositoryIsNotPushedWhileTheAgentRuns(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.agent("mkdir app; cd app; git init -q; echo x >f; git add -A; git commit -qm inner; cd ..; git add -A 2>/dev/null; git commit -qm one")
	if _, err := d.repo.Push(t.Context()); err == nil || !strings.Contains(err.Error(), "app") || d.git.Head("app", branch) != "" {
		t.Errorf("pushed with %v", err)
	}
	d.agent("git rm -q --cached app; rm -rf app/.git; git add -A; git commit -qm mended")
	d.push()
	d.wantLog("one", "mended")
}

// TestLinkOnTheBranchIsToldToTheNextAttempt: branches have them from before drover refused them.
func TestLinkOnTheBranchIsToldToTheNextAttempt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	someone(t, d.url, `git checkout -q -b `+branch+`; git update-index --add --cacheinfo 160000,"$(git rev-parse HEAD)",app && git commit -qm one && git push -q origin `+branch)
	d.open(0)
	if notes := strings.Join(d.repo.Notes(), " "); !strings.Contains(notes, "app was committed as a link") || !strings.Contains(notes, "git rm --cached app") {
		t.Errorf("the agent is told %q", notes)
	}
	d.agent("echo x >f; git add -A; git commit -qm two")
	d.push()
	d.wantLog("one", "two")
}

func TestBaseWhoseHistoryWasReplacedIsNoObstacle(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.commits("work", "one")
	d.push()
	someone(t, d.url, "git checkout -q --orphan new; echo new >a; git add -A; git commit -qm new; git push -q -f origin HEAD:main")
	d.open(0)
	if notes := strings.Join(d.repo.Notes(), " "); !strings.Contains(notes, "shares no commit") {
		t.Errorf("the agent is told %q", notes)
	}
	d.commits("work", "two")
	d.push()
	changes, err := d.repo.Changes(t.Context(), d.repo.Pushed())
	if err != nil || changes.Commits != 3 || changes.Files != 2 {
		t.Errorf("changes %+v, %v; want 3 commits and 2 files", changes, err)
	}
	if text, err := d.repo.RequestPull(t.Context(), d.repo.Pushed()); err != nil || !strings.Contains(text, "shares no commit with main") {
		t.Errorf("request-pull says %q, %v", text, err)
	}
}
