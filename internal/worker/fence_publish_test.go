package worker_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

// TestFencedWorkerPublishesNothing has Consul away while the pull request is made: the call is cut off with the fence, and made again once the attempt is taken back. A forge that had taken the first one has one pull request all the same.
func TestFencedWorkerPublishesNothing(t *testing.T) {
	t.Parallel()
	for name, took := range map[string]bool{"before the forge took it": false, "after the forge took it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const project = "acme/app"
			b := newBench(t, `commit one`)
			if err := b.git.CreateRepo(project, map[string]string{"README.md": "hello\n"}); err != nil {
				t.Fatal(err)
			}
			forge := forgetest.New(t, password)
			behind, err := url.Parse(forge.URL())
			if err != nil {
				t.Fatal(err)
			}
			proxy, cutOff := httputil.NewSingleHostReverseProxy(behind), make(chan struct{})
			var first sync.Once
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost {
					proxy.ServeHTTP(w, r)
					return
				}
				held := false
				first.Do(func() { held = true })
				if !held {
					proxy.ServeHTTP(w, r)
					return
				}
				if took {
					proxy.ServeHTTP(httptest.NewRecorder(), r.Clone(t.Context()))
				}
				_, _ = io.Copy(io.Discard, r.Body) // the server sees its client go once all is read
				b.line.Cut()
				<-r.Context().Done()
				close(cutOff)
			}))
			t.Cleanup(front.Close)
			b.envelope.Spec.Repository = b.git.URL(project)
			b.envelope.Spec.PR = work.PR{Provider: work.ProviderGitHub, APIURL: front.URL + "/"}
			b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
			wait := b.start(t.Context())
			<-cutOff
			b.eventuallySaid("fenced: nothing is pushed")
			b.line.Mend()
			if err := wait(); err != nil {
				t.Fatal(err)
			}
			if r := b.reported(); r.Reason != work.ReasonCompleted || r.PR.Status != work.PRCreated {
				t.Errorf("result %+v", r)
			}
			if pulls := forge.PullsOf(project); len(pulls) != 1 {
				t.Errorf("%d pull requests, want one", len(pulls))
			}
		})
	}
}
