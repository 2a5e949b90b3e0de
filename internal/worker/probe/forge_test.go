package probe_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"drover/internal/work"
	"drover/internal/worker/probe"
)

// away is a Consul that does not answer.
type away struct{ err error }

func (a away) HasLeader(context.Context) error                        { return a.err }
func (away) ProbeWorker(context.Context, string) []probe.Try          { return nil }
func same(text string) string                                         { return text }
func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type transport func(*http.Request) (*http.Response, error)

// TestForgeIsAskedAboutItsOwnRepositories: those of its hosts in every spelling, and no others.
func TestForgeIsAskedAboutItsOwnRepositories(t *testing.T) {
	repositories := []string{"https://GitHub.com/Acme/One.git", "git@github.com:acme/two.git", "ssh://git@ssh.github.com:443/acme/three", "https://acme.ghe.com/o/r", "https://git.example.org/acme/four.git"}
	for name, c := range map[string]struct{ api, host, want string }{
		"github.com":        {"", "api.github.com", "acme/one acme/two acme/three"},
		"a tenant":          {"https://api.acme.ghe.com/", "api.acme.ghe.com", "o/r"},
		"enterprise server": {"https://git.example.org/api/v3", "git.example.org", "acme/four"},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var elsewhere []string
			answer := transport(func(r *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if r.URL.Host != c.host || r.Header.Get("Authorization") != "Bearer the-forge-token" {
					elsewhere = append(elsewhere, r.URL.String())
				}
				w := httptest.NewRecorder()
				_, _ = w.WriteString(`{"permissions":{"push":true}}`)
				return w.Result(), nil
			})
			found := probe.Run(t.Context(), probe.Options{
				Probe: work.Probe{Forge: work.ProviderGitHub, APIURL: c.api, Repositories: repositories}, Consul: away{work.ErrUnavailable}, Dir: t.TempDir(),
				Env: map[string]string{"DROVER_FORGE_TOKEN": "the-forge-token"}, Environ: []string{"PATH=/nonexistent"}, Transport: answer, Redact: same,
			})
			var asked []string
			for _, f := range found {
				if path, ok := strings.CutPrefix(f.Check, "github "); ok && path != "token" {
					asked = append(asked, path)
				}
				if strings.Contains(f.Says+f.Do, "the-forge-token") {
					t.Errorf("a finding has the token: %+v", f)
				}
			}
			if got := strings.Join(asked, " "); got != c.want || len(elsewhere) > 0 {
				t.Errorf("asked about %q, want %q; calls elsewhere: %q", got, c.want, elsewhere)
			}
		})
	}
}
