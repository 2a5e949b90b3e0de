package app

import (
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
	return nomad.Job{
		ID: cfg.Worker.JobID, Source: source, Variables: cfg.Worker.Variables(),
		Default: nomad.RunnerOf(work.Spec{}.WithDefaults(cfg.Defaults())),
	}, nil
}
