package gitrepo_test

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

func probe(t *testing.T, url, token string) error {
	t.Helper()
	return gitrepo.Probe(t.Context(), gitrepo.Options{
		URL: url, Dir: t.TempDir(), Username: "u", Token: token, Environ: os.Environ(), Redact: func(s string) string { return s },
	})
}

func TestProbe_ChangesNothing(t *testing.T) {
	t.Parallel()
	server := gittest.New(t, gittest.Options{Username: "u", Password: secret})
	if err := server.CreateRepo("app", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	before := strings.Join(server.Refs("app"), "\n")
	if err := probe(t, server.URL("app"), secret); err != nil {
		t.Errorf("probe: %v", err)
	}
	if after := strings.Join(server.Refs("app"), "\n"); after != before {
		t.Errorf("refs = %s, want %s", after, before)
	}
}

func TestProbe_Refusals(t *testing.T) {
	t.Parallel()
	readOnly := front(t, "app", func(r *http.Request) http.HandlerFunc {
		if !strings.Contains(r.URL.String(), "git-receive-pack") {
			return nil
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "you may not write to this repository", http.StatusForbidden)
		}
	})
	open := front(t, "app", func(*http.Request) http.HandlerFunc { return nil })
	for name, c := range map[string]struct {
		url, token string
		auth       bool
		says       string
	}{
		"may read alone": {readOnly, secret, true, "check push access"},
		"wrong token":    {open, "wrong-token", true, "read the references"},
		"no token":       {open, "", true, "read the references"},
		"no such host":   {"http://127.0.0.1:1/app.git", secret, false, "read the references"},
		"no such path":   {strings.Replace(open, "app", "other", 1), secret, true, "read the references"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := probe(t, c.url, c.token)
			if err == nil || errors.Is(err, gitrepo.ErrAuth) != c.auth || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("probe: %v, want an error with %q, ErrAuth %t, no token", err, c.says, c.auth)
			}
		})
	}
}
