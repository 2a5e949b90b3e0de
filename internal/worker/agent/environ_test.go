package agent_test

import (
	"slices"
	"strings"
	"testing"

	"drover/internal/worker/agent"
)

// TestEnvironmentOfWhatRunsAsTheAgent: the image's own and what is listed passes, what came from the operator's Nomad
// variable or the job only where it is allowed, and the worker's never.
func TestEnvironmentOfWhatRunsAsTheAgent(t *testing.T) {
	image := []string{"PATH=/opt/bin:/bin", "JAVA_HOME=/jdk", "MY_TOOL=/tool", "BUILD_TOKEN=of-the-image", "HOME=/root", "PWD=/root"}
	secrets := []string{
		"DROVER_GIT_TOKEN=s", "CONSUL_HTTP_TOKEN=s", "VAULT_TOKEN=s", "NOMAD_TOKEN=s", "ANTHROPIC_API_KEY=s", "AWS_SECRET_ACCESS_KEY=s", "AWS_REGION=x",
		"DATABASE_PASSWORD=s", "plain_name=s", "AGENT_API_KEY=s", "HTTPS_PROXY=http://proxy:1",
	}
	job := []string{"CONSUL_HTTP_ADDR=a", "OTEL_EXPORTER_OTLP_HEADERS=h", "NODE_EXTRA_CA_CERTS=/ca.pem"}
	markers := []string{
		"DROVER_JOB_NAMES=OTEL_EXPORTER_OTLP_HEADERS NODE_EXTRA_CA_CERTS",
		"DROVER_SECRET_NAMES= AGENT_API_KEY ANTHROPIC_API_KEY AWS_REGION AWS_SECRET_ACCESS_KEY CONSUL_HTTP_TOKEN DATABASE_PASSWORD DROVER_GIT_TOKEN HTTPS_PROXY NOMAD_TOKEN VAULT_TOKEN plain_name",
	}
	listed := []string{"PATH", "JAVA_HOME", "AGENT_API_KEY", "HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"}
	for name, c := range map[string]struct {
		markers, more, want []string
	}{
		"in an image":                     {markers, nil, append([]string{"MY_TOOL", "BUILD_TOKEN"}, listed...)},
		"by prefix":                       {markers, []string{"AWS_*"}, append([]string{"MY_TOOL", "BUILD_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}, listed...)},
		"by name":                         {markers, []string{"AWS_REGION", "plain_name"}, append([]string{"MY_TOOL", "BUILD_TOKEN", "AWS_REGION", "plain_name"}, listed...)},
		"what is the worker's":            {markers, []string{"DROVER_*", "CONSUL_*", "VAULT_TOKEN", "NOMAD_*"}, append([]string{"MY_TOOL", "BUILD_TOKEN"}, listed...)},
		"the job does not say":            {nil, nil, listed},
		"it says of its own alone":        {markers[:1], nil, listed},
		"it says of the secrets alone":    {markers[1:], nil, listed},
		"without an image, what is named": {nil, []string{"MY_TOOL"}, append([]string{"MY_TOOL"}, listed...)},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, pair := range agent.Environment(slices.Concat(image, job, secrets, c.markers), "/home/agent", c.more...) {
				name, value, _ := strings.Cut(pair, "=")
				switch name {
				case "HOME":
					if value != "/home/agent" {
						t.Errorf("HOME is %s, want /home/agent", value)
					}
				case "GIT_TERMINAL_PROMPT":
				default:
					got = append(got, name)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
