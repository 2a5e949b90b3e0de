package gitrepo_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

const secret = "correct-horse-battery"

// front answers git clients before the git server does; nil passes a request on.
func front(t *testing.T, repo string, answer func(*http.Request) http.HandlerFunc) (repoURL string) {
	t.Helper()
	server := gittest.New(t, gittest.Options{Username: "u", Password: secret})
	if err := server.CreateRepo(repo, map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	behind, err := url.Parse(server.URL(repo))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: behind.Scheme, Host: behind.Host})
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handle := answer(r); handle != nil {
			handle(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(listener.Close)
	return listener.URL + behind.Path
}

func openAt(t *testing.T, repoURL string) (*gitrepo.Repo, error) {
	t.Helper()
	return openWith(t, repoURL, gitrepo.Options{})
}

func openWith(t *testing.T, repoURL string, opts gitrepo.Options) (*gitrepo.Repo, error) {
	t.Helper()
	dir := t.TempDir()
	opts.URL, opts.Branch, opts.Dir, opts.Tree, opts.Username, opts.Token = repoURL, branch, filepath.Join(dir, "own"), filepath.Join(dir, "tree"), "u", secret
	opts.Environ, opts.Redact, opts.Alive = os.Environ(), func(s string) string { return s }, func() {}
	return gitrepo.Open(t.Context(), opts)
}

func TestCredentialsThatMayOnlyReadAreRefusedBeforeTheWork(t *testing.T) {
	t.Parallel()
	repoURL := front(t, "app", func(r *http.Request) http.HandlerFunc {
		if !strings.Contains(r.URL.String(), "git-receive-pack") {
			return nil
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "you may not write to this repository", http.StatusForbidden)
		}
	})
	_, err := openAt(t, repoURL)
	if !errors.Is(err, gitrepo.ErrAuth) || !strings.Contains(err.Error(), "check push access") || !strings.Contains(err.Error(), "DROVER_GIT_TOKEN") {
		t.Errorf("opened with %v", err)
	}
}

func TestRedirectToAnotherHostLearnsNoCredentials(t *testing.T) {
	t.Parallel()
	var asked, told atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			told.Add(1)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "who are you", http.StatusUnauthorized)
	}))
	t.Cleanup(thief.Close)
	repoURL := front(t, "app", func(*http.Request) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL+r.URL.RequestURI(), http.StatusFound)
		}
	})
	_, err := openAt(t, repoURL)
	if !errors.Is(err, gitrepo.ErrAuth) {
		t.Errorf("opened with %v", err)
	}
	if asked.Load() == 0 || told.Load() > 0 {
		t.Errorf("the other host was asked %d times and told %d times", asked.Load(), told.Load())
	}
}

func TestTroubleOfTheServerIsNotTheCredentials(t *testing.T) {
	t.Parallel()
	repoURL := front(t, "app", func(*http.Request) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) }
	})
	if _, err := openAt(t, repoURL); err == nil || errors.Is(err, gitrepo.ErrAuth) || !strings.Contains(err.Error(), "502") {
		t.Errorf("opened with %v", err)
	}
}

func TestRepositoryThatIsNotThereSaysWhichOne(t *testing.T) {
	t.Parallel()
	repoURL := strings.Replace(front(t, "app", func(*http.Request) http.HandlerFunc { return nil }), "app", "other", 1)
	if _, err := openAt(t, repoURL); !errors.Is(err, gitrepo.ErrAuth) || !strings.Contains(err.Error(), "other.git") {
		t.Errorf("opened with %v", err)
	}
}

func TestCredentialsAreInNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := gitrepo.Open(t.Context(), gitrepo.Options{
		URL: front(t, "app", func(*http.Request) http.HandlerFunc { return nil }), Branch: "drover/x",
		Dir: filepath.Join(dir, "own"), Tree: filepath.Join(dir, "tree"),
		Username: "u", Token: secret, Environ: os.Environ(), Redact: func(s string) string { return s }, Alive: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) {
			t.Errorf("the token is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
