package work_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"drover/internal/work"
)

// gitTakes asks git itself, outside of any repository.
func gitTakes(t testing.TB, dir, name string) bool {
	t.Helper()
	cmd := exec.Command("git", "check-ref-format", "--branch", name)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_CEILING_DIRECTORIES="+dir, "GIT_DIR="+dir+"/none")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err != nil && !strings.Contains(stderr.String(), "is not a valid branch name") {
		t.Fatalf("git check-ref-format --branch %q: %v: %s", name, err, &stderr)
	}
	return err == nil
}

func TestBranchNamesAreThoseThatGitTakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{
		"main", "feature/#123-fix", "rel+1", "renovate/@types-node", "@hotfix/x", "développement", "日本", "a,b", "x.lock", "a//b", "a/", "HEAD",
		"refs/heads/main", "", "@", "@@", "a@", "@/b", "a@{b", "@{-1}", "@{u}", "-x", "x-", "a/-b", ".a", "a/.b", "a.", "a./b", "a/b.", "a..b", "a...b",
		"a.lock", "a.lock/b", "a.lockb", "a.LOCK", ".lock", "/a", "/", "a/b/c", "a b", "a\tb", "a\nb", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a]b", `a\b`,
		"a\x7fb", "a\x01b", "a\u0080b", "a\xffb", "head", "HEAD/x", "x/HEAD", "FETCH_HEAD", "a{b}", "a|b", "a&b", "a;b", "$(a)", "a'b", `a"b`, "a<b>", "a!b", "a%b", "a=b", "🦀",
		"dependabot/npm_and_yarn/@babel/core-7.0.0", "release/2026.11", "user/name/fix(scope)", strings.Repeat("a", 300),
	} {
		if got, want := work.ValidBranchName(name), gitTakes(t, dir, name); got != want {
			t.Errorf("ValidBranchName(%q) = %t, want %t as git", name, got, want)
		}
	}
}

func TestBranchNames_AnyNameIsAsGitTakesIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	piece := rapid.SampledFrom([]string{"a", "B", "0", "/", ".", "..", ".lock", "@", "{", "@{", "}", "-", "~", "^", ":", "?", "*", "[", "]", `\`, " ", "\t", "\x7f", "é", "日", "HEAD", "refs/heads/", "#", "+", ","})
	rapid.Check(t, func(r *rapid.T) {
		name := strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(r, "pieces"), "")
		if got, want := work.ValidBranchName(name), gitTakes(t, dir, name); got != want {
			r.Fatalf("ValidBranchName(%q) = %t, want %t as git", name, got, want)
		}
	})
}

func TestBase(t *testing.T) {
	t.Parallel()
	for base, says := range map[string]string{
		"": "", "main": "", "feature/#123-fix": "", "日本": "", "a,b": "", "refs/x": "",
		"a//b":            `base "a//b": it is not a branch name`,
		"HEAD":            `base "HEAD": leave it out to start from the remote's default branch`,
		"refs/heads/main": `base "refs/heads/main": give the branch's name alone: main`,
		"refs/heads/a..b": `base "refs/heads/a..b": it is not a branch name`,
		"-x":              "it is not a branch name",
	} {
		err := work.Spec{Repository: "https://example.org/a/b", Task: "x", Base: base}.Validate()
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("base %q: error = %v, want %q", base, err, says)
		}
	}
}
