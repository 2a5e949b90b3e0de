package jobs_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/nomad/api"

	droverapi "drover/internal/api"
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
				if job == "server" {
					checksAreAnswered(t, parsed)
					if name == "embedded" {
						continue // which gives no static ports
					}
				}
				if _, _, err := client.Jobs().Plan(parsed, false, nil); err != nil {
					t.Errorf("%s: %v", job, err)
				}
			}
		})
	}
}

// checksAreAnswered has a server that follows another answer the checks of its job.
func checksAreAnswered(t *testing.T, job *api.Job) {
	t.Helper()
	handler := droverapi.NewHandler(droverapi.Options{Leader: func(context.Context) (string, bool, error) { return "other:4700", false, nil }})
	checks := 0
	for _, service := range job.TaskGroups[0].Services {
		for _, check := range service.Checks {
			checks++
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, check.Path, nil))
			if answer.Code != http.StatusOK {
				t.Errorf("the check %s of %s is answered with %d: %s", check.Name, check.Path, answer.Code, answer.Body)
			}
		}
	}
	if checks != 2 {
		t.Errorf("the server's job has %d checks", checks)
	}
}
