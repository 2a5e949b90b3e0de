package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"drover/consul"
	"drover/internal/work"
	"drover/internal/worker/probe"
	"drover/internal/worker/redact"
)

// runProbe examines, as the worker's user, what an attempt would need, and prints
// a finding a line.
func runProbe(ctx context.Context, environ []string, stdout, stderr io.Writer) int {
	redactor := redact.FromEnviron(environ)
	env := variables(environ)
	findings, err := examine(ctx, environ, env, redactor)
	if err != nil {
		fmt.Fprintln(stderr, "drover-worker probe:", redactor.String(err.Error()))
		return exitFailed
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetEscapeHTML(false)
	for _, f := range findings {
		if err := encoder.Encode(f); err != nil {
			return exitFailed
		}
	}
	return 0
}

func examine(ctx context.Context, environ []string, env map[string]string, redactor *redact.Redactor) ([]work.Finding, error) {
	dir, err := filepath.Abs(env["NOMAD_TASK_DIR"])
	if err != nil {
		return nil, fmt.Errorf("find the task's directory: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, payloadFile))
	if err != nil {
		return nil, fmt.Errorf("read the dispatch payload: %w", err)
	}
	var asked work.Probe
	if err := json.Unmarshal(data, &asked); err != nil {
		return nil, fmt.Errorf("read the dispatch payload: %w", err)
	}
	client, err := consul.Open(consul.Options{Prefix: asked.KVPrefix})
	if err != nil {
		return nil, err
	}
	return probe.Run(ctx, probe.Options{
		Probe: asked, Version: version, Env: env, Environ: environ, Dir: filepath.Join(dir, workDirectory, "probe"),
		Consul: probedConsul{client}, Redact: redactor.String,
	}), nil
}

// probedConsul makes a Consul client what the probe needs.
type probedConsul struct{ *consul.Client }

func (c probedConsul) ProbeWorker(ctx context.Context, name string) []probe.Try {
	var tries []probe.Try
	for _, t := range c.Client.ProbeWorker(ctx, name) {
		tries = append(tries, probe.Try(t))
	}
	return tries
}
