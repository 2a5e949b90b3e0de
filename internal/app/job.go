package app

import (
	"maps"

	"drover/internal/config"
	"drover/internal/work"
	"drover/nomad"
)

// workerJob returns the worker job as it is configured.
func workerJob(cfg config.Config) (nomad.Job, error) {
	source, err := cfg.Worker.Specification()
	if err != nil {
		return nomad.Job{}, err
	}
	// A job dispatched by hand has no envelope that would tell its worker.
	worker := cfg.Worker
	worker.Env = maps.Clone(worker.Env)
	if worker.Env == nil {
		worker.Env = map[string]string{}
	}
	worker.Env["DROVER_KV_PREFIX"] = cfg.Consul.Prefix
	return nomad.Job{
		ID: worker.JobID, Source: source, Variables: worker.Variables(),
		Default: nomad.RunnerOf(work.Spec{}.WithDefaults(cfg.Defaults())),
	}, nil
}
