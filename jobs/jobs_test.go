package jobs_test

import (
	"net/http"
	"testing"

	"github.com/hashicorp/nomad/api"

	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/jobs"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestSpecificationsAreTaken has Nomad parse and plan each shipped job.
func TestSpecificationsAreTaken(t *testing.T) {
	for name, address := range map[string]func(t *testing.T) string{
		"embedded": func(t *testing.T) string { return testkit.EmbeddedNomad(t, nomadd.Options{}) },
		"real":     func(t *testing.T) string { return testkit.Nomad(t).Address() },
	} {
		t.Run(name, func(t *testing.T) {
			client, err := api.NewClient(&api.Config{Address: address(t), HttpClient: &http.Client{Transport: &http.Transport{}}})
			if err != nil {
				t.Fatal(err)
			}
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
