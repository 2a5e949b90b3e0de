package contract_test

import (
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/nomad/api"

	"drover/internal/contract"
	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/jobs"
)

func TestEmbeddedNomadRawExec(t *testing.T) {
	contract.Nomad(t, func(t testing.TB) contract.NomadTarget { return rawExec(t, "embedded", embeddedNomad(t)) })
}

func TestRealNomadRawExec(t *testing.T) {
	contract.Nomad(t, func(t testing.TB) contract.NomadTarget { return rawExec(t, "real", testkit.Nomad(t)) })
}

func TestEmbeddedNomadDocker(t *testing.T) {
	contract.Nomad(t, func(t testing.TB) contract.NomadTarget {
		image := testImage(t)
		return docker("embedded", embeddedNomad(t), image)
	})
}

func TestRealNomadDocker(t *testing.T) {
	contract.Nomad(t, func(t testing.TB) contract.NomadTarget {
		image := testImage(t)
		return docker("real", testkit.Nomad(t), image)
	})
}

func testImage(t testing.TB) string {
	t.Helper()
	image, err := contract.BuildTestImage(t, contract.BuildTestTask(t))
	if err != nil {
		testkit.SkipWithout(t, "docker", err.Error())
	}
	return image
}

func docker(name string, client *api.Client, image string) contract.NomadTarget {
	return contract.NomadTarget{
		Name: name, Client: client, Driver: "docker",
		TaskConfig: func(args ...string) map[string]any { return map[string]any{"image": image, "args": args} },
		JobFile:    jobs.Worker, Variables: fmt.Sprintf("image = %q\n", image),
	}
}

// embeddedNomad starts the embedded server behind a listener.
func embeddedNomad(t testing.TB) *api.Client {
	t.Helper()
	server, err := nomadd.New(nomadd.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close the embedded nomad: %v", err)
		}
		listener.Close()
	})
	client, err := api.NewClient(&api.Config{Address: listener.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func rawExec(t testing.TB, name string, client *api.Client) contract.NomadTarget {
	t.Helper()
	binary := contract.BuildTestTask(t)
	return contract.NomadTarget{
		Name: name, Client: client, Driver: "raw_exec",
		TaskConfig: func(args ...string) map[string]any { return map[string]any{"command": binary, "args": args} },
		JobFile:    jobs.WorkerRawExec, Variables: fmt.Sprintf("command = %q\n", binary),
	}
}
