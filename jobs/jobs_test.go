package jobs_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/nomad/api"

	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/jobs"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestSpecificationsAreTaken has Nomad parse and plan each shipped job.
func TestSpecificationsAreTaken(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) *api.Client{
		"embedded": embedded,
		"real":     func(t *testing.T) *api.Client { return testkit.Nomad(t) },
	} {
		t.Run(name, func(t *testing.T) {
			client := open(t)
			t.Cleanup(client.Close)
			for job, source := range map[string][2]string{
				"worker":          {jobs.Worker, `image = "worker:1"`},
				"worker raw_exec": {jobs.WorkerRawExec, `command = "/usr/local/bin/drover-worker"`},
				"server":          {jobs.Server, `image = "drover:1"`},
			} {
				parsed, err := client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: source[0], Variables: source[1], Canonicalize: true})
				if err != nil {
					t.Errorf("%s: %v", job, err)
					continue
				}
				if _, _, err := client.Jobs().Plan(parsed, false, nil); err != nil {
					t.Errorf("%s: %v", job, err)
				}
			}
		})
	}
}

func embedded(t *testing.T) *api.Client {
	t.Helper()
	server, err := nomadd.New(nomadd.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		listener.Close()
	})
	client, err := api.NewClient(&api.Config{Address: listener.URL, HttpClient: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
