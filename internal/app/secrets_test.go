package app_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"drover/internal/testkit"
	"drover/internal/work"
)

const agentKey = "key-of-the-agent-in-the-spine"

// gossip puts a proxy before the git server that answers some pushes of each
// item, after the check of its access, with an error that tells every secret.
func (s *spine) gossip() (repository string, told *atomic.Int32) {
	s.t.Helper()
	behind, err := url.Parse(s.git.URL(""))
	if err != nil {
		s.t.Fatal(err)
	}
	var pushes atomic.Int32
	told = &atomic.Int32{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: behind.Scheme, Host: behind.Host})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, _ := r.BasicAuth(); user != "" && r.URL.Query().Get("service") == "git-receive-pack" && pushes.Add(1) == 2 {
			told.Add(1)
			http.Error(w, "no room for "+agentKey+" of "+gitToken, http.StatusInternalServerError)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	s.t.Cleanup(front.Close)
	return front.URL + "/" + repositoryPath, told
}

const repositoryPath = repository + ".git"

// telltale is an agent that tells its key wherever it can, ending with an exit status.
const telltale = `
echo "the key is $AGENT_API_KEY"; echo "wrong key $AGENT_API_KEY" >&2
echo "{\"type\":\"tool\",\"name\":\"Bash\",\"detail\":\"curl $AGENT_API_KEY\"}"
echo x >>work.txt; git add -A; git commit -q -m "use $AGENT_API_KEY"
echo "{\"type\":\"error\",\"code\":\"bad\",\"message\":\"$AGENT_API_KEY is refused\"}"
exit `

// TestSecretsAreFoundNowhere runs items whose agent and git server tell every
// secret, and reads all that is left of them.
func TestSecretsAreFoundNowhere(t *testing.T) {
	s := newSpine(t)
	s.giveWorkers(map[string]string{"AGENT_API_KEY": agentKey})
	server := s.start()
	var toldBy []*atomic.Int32
	specification := func(provider, status string) work.Spec {
		repositoryURL, told := s.gossip()
		toldBy = append(toldBy, told)
		return work.Spec{
			Task: "Tell nothing.", Repository: repositoryURL, Command: []string{"sh", "-c", telltale + status},
			PR: work.PR{Provider: provider}, Test: work.Test{Command: `echo "tested with $AGENT_API_KEY"; exit 1`},
			Retry: &work.RetryOverride{MaxRetries: new(int)},
		}
	}
	ids := s.submitSpecs([]work.Spec{
		specification(work.ProviderGitHub, "0"), specification(work.ProviderRequestPull, "0"), specification(work.ProviderGitHub, "7"),
	})
	seen := s.seenInNomad(ids)
	for i, state := range []work.State{work.StateCompleted, work.StateCompleted, work.StateFailed} {
		if item := s.await(ids[i]); item.State != state {
			t.Errorf("item %d is %s: %s", i, item.State, item.Why)
		}
		if toldBy[i].Load() != 1 {
			t.Errorf("the git server told item %d %d times", i, toldBy[i].Load())
		}
	}
	kept := s.kept()
	maps.Copy(kept, seen)
	for _, id := range ids {
		kept["the kept logs"] += s.keptLogs(id)
	}
	server.kill()
	kept["the server's log"] = server.log.String()
	for place, want := range map[string]string{
		"Consul's KV":       "[redacted] is refused",
		"the kept logs":     "the key is [redacted]",
		"the workers' logs": "no room for [redacted] of [redacted]",
		"the pull requests": "Tell nothing.",
		"Nomad's jobs":      ids[0],
		"the server's log":  ids[0],
		"the server's API":  "use [redacted]",
	} {
		if !strings.Contains(kept[place], want) {
			t.Errorf("%s: no %q in\n%s", place, want, kept[place])
		}
	}
	for place, text := range kept {
		for _, secret := range []string{agentKey, gitToken, forgeToken} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: %s is in\n%s", place, secret, text)
			}
		}
	}
}

// kept is all that can be read of the items, by the place it is in.
func (s *spine) kept() map[string]string {
	s.t.Helper()
	kept := map[string]string{"the pull requests": fmt.Sprintf("%+v", s.forge.Pulls())}
	pairs, _, err := testkit.ConsulClient(s.t, s.consul).KV().List(s.prefix, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, pair := range pairs {
		kept["Consul's KV"] += pair.Key + " " + string(pair.Value) + "\n"
	}
	kept["the server's API"], err = s.read("http://" + s.address + "/v1/items")
	if err != nil {
		s.t.Fatal(err)
	}
	return kept
}

// seenInNomad returns all that could be read in Nomad while items ran: it is
// removed soon after. What one place said last is kept.
func (s *spine) seenInNomad(ids []string) map[string]string {
	s.t.Helper()
	seen := map[string]map[string]string{"Nomad's jobs": {}, "Nomad's allocations": {}, "the workers' logs": {}}
	note := func(place, path string) {
		if text, err := s.read(s.nomad + path); err == nil { // or else it was just removed
			seen[place][path] = text
		}
	}
	nomad := s.nomadClient()
	testkit.Eventually(s.t, patience, func() error {
		jobs, _, err := nomad.Jobs().List(nil)
		if err != nil {
			return err
		}
		for _, stub := range jobs {
			note("Nomad's jobs", "/v1/job/"+url.PathEscape(stub.ID))
			if job, _, err := nomad.Jobs().Info(stub.ID, nil); err == nil {
				seen["Nomad's jobs"]["payload of "+stub.ID] = string(job.Payload)
			}
		}
		allocations, _, err := nomad.Allocations().List(nil)
		if err != nil {
			return err
		}
		for _, a := range allocations {
			note("Nomad's allocations", "/v1/allocation/"+a.ID)
			for _, stream := range []string{"stdout", "stderr"} {
				note("the workers' logs", "/v1/client/fs/logs/"+a.ID+"?plain=true&task=worker&type="+stream)
			}
		}
		return s.allEnded(ids)
	})
	texts := map[string]string{}
	for place, parts := range seen {
		texts[place] = strings.Join(slices.Collect(maps.Values(parts)), "\n")
	}
	return texts
}

func (s *spine) allEnded(ids []string) error {
	for _, id := range ids {
		item, _, err := s.client.Item(s.t.Context(), id)
		if err != nil || !item.State.Terminal() {
			return fmt.Errorf("item %s is %s %w", id, item.State, err)
		}
	}
	return nil
}

// keptLogs waits until the output of an item's attempt is kept.
func (s *spine) keptLogs(id string) (text string) {
	s.t.Helper()
	testkit.Eventually(s.t, patience, func() error {
		logs, err := s.client.Logs(s.t.Context(), id, 1)
		if err != nil || logs.CapturedAt.IsZero() {
			return fmt.Errorf("no logs of item %s yet: %s %w", id, logs.Missing, err)
		}
		text = strings.Join(append(logs.Stdout, logs.Stderr...), "\n")
		return nil
	})
	return text
}

func (s *spine) read(address string) (string, error) {
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+spineToken) // which Nomad does not heed
	answer, err := (&http.Client{Transport: s.transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("read %s: %s", address, answer.Status)
	}
	return string(body), err
}
