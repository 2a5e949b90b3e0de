package config

import (
	"fmt"
	"os"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"drover/internal/work"
	"drover/jobs"
)

// Specification returns the job specification that workers run by: the file
// that is configured, or else the shipped one of the driver.
// It returns work.ErrInvalid when the file can't be read.
func (w Worker) Specification() (string, error) {
	if w.SpecFile != "" {
		data, err := os.ReadFile(w.SpecFile)
		if err != nil {
			return "", fmt.Errorf("worker.spec_file: %v: %w", err, work.ErrInvalid)
		}
		return string(data), nil
	}
	if w.Driver == DriverRawExec {
		return jobs.WorkerRawExec, nil
	}
	return jobs.Worker, nil
}

// Variables returns the values of the specification's variables that the
// configuration decides, as HCL expressions. Values are taken literally, so
// that Nomad interpolates what it finds in them ("${attr.…}") on the node.
func (w Worker) Variables() map[string]string {
	values := map[string]cty.Value{
		"secrets_path": cty.StringVal(w.SecretsPath),
		"kill_timeout": cty.StringVal(string(w.KillTimeout)),
	}
	if w.Driver == DriverDocker {
		values["network_mode"] = cty.StringVal(w.NetworkMode)
	} else {
		values["command"] = cty.StringVal(w.Binary)
	}
	if w.ConsulAddr != "" {
		values["consul_addr"] = cty.StringVal(w.ConsulAddr)
	}
	for name, given := range map[string][]string{"datacenters": w.Datacenters, "agent_env": w.AgentEnv} {
		if len(given) == 0 {
			continue
		}
		var texts []cty.Value
		for _, text := range given {
			texts = append(texts, cty.StringVal(text))
		}
		values[name] = cty.ListVal(texts)
	}
	for name, given := range map[string]map[string]string{"env": w.Env, "links": w.Links} {
		if len(given) == 0 {
			continue
		}
		texts := map[string]cty.Value{}
		for key, text := range given {
			texts[key] = cty.StringVal(text)
		}
		values[name] = cty.MapVal(texts)
	}
	expressions := make(map[string]string, len(values))
	for name, value := range values {
		expressions[name] = string(hclwrite.TokensForValue(value).Bytes())
	}
	return expressions
}
