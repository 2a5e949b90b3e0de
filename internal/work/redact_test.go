package work_test

import (
	"strings"
	"testing"

	"drover/internal/work"
)

func TestLinesLoseWhatLooksLikeASecret(t *testing.T) {
	const body = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ"
	for _, line := range []string{
		"token ghp_" + body, "github_pat_" + body, "glpat-" + body, "key sk-ant-" + body, "AKIA" + "ABCDEFGHIJ234567",
		"xoxb-" + body, "Authorization: Bearer " + body, "authorization: basic " + body, "https://user:" + body + "@git.example.org/a.git",
		"export MY_TOKEN=" + body, "?api_key=" + body + "&x=1", "jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4fw",
	} {
		got := work.RedactSecrets(line)
		if strings.Contains(got, body) || strings.Contains(got, "ABCDEFGHIJ234567") || strings.Contains(got, "SflKxwRJSMeKKF2QT4fw") || !strings.Contains(got, "[redacted]") {
			t.Errorf("%q became %q", line, got)
		}
	}
	for _, line := range []string{
		"ordinary output", "commit 3f786850e387550fdab836ed7e6dc881de23001b", "https://git.example.org/a/b.git", "task sk-1 done", "basic training",
		"tokens=41000",
	} {
		if got := work.RedactSecrets(line); got != line {
			t.Errorf("%q became %q", line, got)
		}
	}
}
