package gitrepo_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

// hooked is an open repository whose remote has a pre-receive hook.
func hooked(t *testing.T, hook string) *desk {
	t.Helper()
	dir := t.TempDir()
	git, err := gittest.Start(dir, gittest.Options{Username: "u", Password: secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := git.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := git.CreateRepo("app", map[string]string{"a": "b\n"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.git", "hooks", "pre-receive"), []byte("#!/bin/sh\n"+hook), 0o755); err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, git: git, url: git.URL("app")}
	d.open(0)
	return d
}

// TestRefusedPushKeepsItsWholeReason has servers answer as the forges do.
func TestRefusedPushKeepsItsWholeReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		said []string // lines of the hook
		want error    // nil is none of the sentinels: the push may be tried again
		says []string
	}{
		"GitHub push protection": {[]string{
			"error: GH013: Repository rule violations found for refs/heads/drover/x.", "", "- GITHUB PUSH PROTECTION", "  —————————————————————————————",
			"    - Push cannot contain secrets", "     (?) Learn how to resolve a blocked push", "      —— GitHub Personal Access Token ——————",
			"       locations:", "         - commit: 0123456789012345678901234567890123456789", "           path: config.yml:3",
			"       (?) To push, remove secret from commit(s) or follow this URL to allow the secret.", "       https://github.com/o/r/security/secret-scanning/unblock-secret/abc",
		}, gitrepo.ErrRefused, []string{"GH013", "GITHUB PUSH PROTECTION", "config.yml:3", "unblock-secret/abc", "the commits hold a secret"}},
		"GitHub signatures": {[]string{
			"error: GH013: Repository rule violations found for refs/heads/drover/x.", "- Commits must have verified signatures.", "  Found 1 violation:", "  0123456789",
		}, gitrepo.ErrRefused, []string{"must have verified signatures", "0123456789", "workers sign none"}},
		"GitHub protected branch": {[]string{
			"error: GH006: Protected branch update failed for refs/heads/drover/x.", "error: You're not authorized to push to this branch.",
		}, gitrepo.ErrRefused, []string{"GH006", "let the workers' user push to drover/*"}},
		"GitHub workflow permission": {[]string{
			"refusing to allow a Personal Access Token to create or update workflow `.github/workflows/ci.yml` without `workflow` scope",
		}, gitrepo.ErrRefused, []string{".github/workflows/ci.yml", "the scope `workflow`"}},
		"GitHub App's workflow permission": {[]string{
			"refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yml` without `workflows` permission",
		}, gitrepo.ErrRefused, []string{"Workflows: write"}},
		"GitHub large file": {[]string{
			"error: Trace: 0123", "error: See https://gh.io/lfs for more information.", "error: File big is 123.00 MB; this exceeds GitHub's file size limit of 100.00 MB",
			"error: GH001: Large files detected. You may want to try Git Large File Storage - https://git-lfs.github.com.",
		}, gitrepo.ErrRefused, []string{"File big is 123.00 MB", "GH001"}},
		"GitLab protected branch": {[]string{"GitLab: You are not allowed to push code to protected branches on this project."}, gitrepo.ErrRefused, []string{"protected branches on this project"}},
		"GitLab commit message":   {[]string{"GitLab: Commit message does not follow the pattern '^JIRA-'"}, gitrepo.ErrRefused, []string{"'^JIRA-'"}},
		"GitLab author":           {[]string{"GitLab: Author 'drover@localhost' is not a member of team"}, gitrepo.ErrRefused, []string{"drover@localhost"}},
		"GitLab secret":           {[]string{"PUSH BLOCKED: Secrets detected in code changes", "-- config.yml:3 | GitLab personal access token"}, gitrepo.ErrRefused, []string{"config.yml:3", "the commits hold a secret"}},
		"GitLab quota":            {[]string{"GitLab: Your push to this repository has been rejected because it would exceed storage limits."}, gitrepo.ErrRefused, []string{"storage limits"}},
		"Gitea protected branch":  {[]string{"", "Gitea: Not allowed to push to protected branch drover/x"}, gitrepo.ErrRefused, []string{"Not allowed to push"}},
		"Gitea protected file":    {[]string{"Gitea: branch drover/x is protected from changing file ci.yml"}, gitrepo.ErrRefused, []string{"ci.yml"}},
		"Bitbucket":               {[]string{"Permission denied to update branch drover/x."}, gitrepo.ErrRefused, []string{"Permission denied to update branch"}},
		"Azure DevOps":            {[]string{"error: TF402455: Pushes to this branch are not permitted; you must use a pull request to update this branch."}, gitrepo.ErrRefused, []string{"TF402455"}},
		"unknown hook":            {[]string{"the moon is full"}, gitrepo.ErrDeclined, []string{"the moon is full"}},
		"GitLab is down":          {[]string{"GitLab: Internal API unreachable"}, nil, []string{"Internal API unreachable"}},
		"GitLab too slow":         {[]string{"GitLab: Push operation timed out"}, nil, []string{"timed out"}},
		"server error":            {[]string{"Internal Server Error"}, nil, []string{"Internal Server Error"}},
		"rate limit":              {[]string{"You have exceeded a secondary rate limit."}, nil, []string{"rate limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := hooked(t, "cat >&2 <<'EOT'\n"+strings.Join(c.said, "\n")+"\nEOT\nexit 1\n")
			d.commits("work", "one")
			_, err := d.repo.Push(t.Context())
			if err == nil {
				t.Fatal("pushed")
			}
			for _, sentinel := range []error{gitrepo.ErrRefused, gitrepo.ErrDeclined, gitrepo.ErrAuth, gitrepo.ErrMoved} {
				if errors.Is(err, sentinel) != (sentinel == c.want) {
					t.Errorf("%v; want %v", err, c.want)
				}
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v; want %q in it", err, part)
				}
			}
			if strings.Contains(err.Error(), "—————————————") || !d.repo.Settled() && c.want != nil {
				t.Errorf("%v, settled %v", err, d.repo.Settled())
			}
		})
	}
}

// TestRefusalOfTheServerItself has git's own server refuse.
func TestRefusalOfTheServerItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ prepare, says string }{
		"branch that came meanwhile": {"branch drover main", "exists; cannot create"},
		"hidden ref":                 {"config receive.hideRefs refs/heads/drover", "deny updating a hidden ref"},
		"size":                       {"config receive.maxInputSize 100", "exceeds maximum allowed size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			if _, err := d.git.Git("app", strings.Fields(c.prepare)...); err != nil {
				t.Fatal(err)
			}
			d.agent("head -c 3000 /dev/urandom >random; git add -A; git commit -qm one")
			if _, err := d.repo.Push(t.Context()); !errors.Is(err, gitrepo.ErrRefused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("pushed with %v, want %q", err, c.says)
			}
		})
	}
}

func TestLongRefusalKeepsItsBeginningAndItsEnd(t *testing.T) {
	t.Parallel()
	d := hooked(t, "echo 'GH013: the rule' >&2; for i in $(seq 500); do echo \"violation $i of many\" >&2; done; echo 'the end' >&2; exit 1\n")
	d.commits("work", "one")
	_, err := d.repo.Push(t.Context())
	const most = 4 << 10
	if err == nil || !strings.Contains(err.Error(), "GH013: the rule") || !strings.Contains(err.Error(), "the end") || len(err.Error()) > most {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}
