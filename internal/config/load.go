package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"

	"drover/internal/work"
)

// Variables of the environment that Load reads. What speaks to Nomad and Consul
// reads NOMAD_* and CONSUL_* on its own, for what the files leave open.
const (
	EnvAddress   = "DROVER_HTTP_ADDRESS"
	EnvAdvertise = "DROVER_HTTP_ADVERTISE"
	EnvToken     = "DROVER_TOKEN"
	EnvImage     = "DROVER_WORKER_IMAGE"
	EnvLogLevel  = "DROVER_LOG_LEVEL"
	EnvLogFormat = "DROVER_LOG_FORMAT"
)

// file is the schema of a configuration file. Its blocks point into a Config,
// so that what a file does not name stays as it was.
type file struct {
	HTTP         *HTTP         `hcl:"http,block"`
	Consul       *Consul       `hcl:"consul,block"`
	Nomad        *Nomad        `hcl:"nomad,block"`
	Worker       *Worker       `hcl:"worker,block"`
	Defaults     *ItemDefaults `hcl:"defaults,block"`
	Retry        *Retry        `hcl:"retry,block"`
	Breaker      *Breaker      `hcl:"breaker,block"`
	Retention    *Retention    `hcl:"retention,block"`
	Orchestrator *Orchestrator `hcl:"orchestrator,block"`
	Queues       []Queue       `hcl:"queue,block"`
}

// Load returns the defaults, changed by each file in turn and then by the
// environment. getenv is os.Getenv, or stands for it. The configuration is not
// validated yet.
// It returns work.ErrInvalid for a file that can't be read or understood.
func Load(getenv func(string) string, paths ...string) (Config, error) {
	c := Default()
	for _, path := range paths {
		if err := c.read(path); err != nil {
			return Config{}, err
		}
	}
	if err := c.readTokens(); err != nil {
		return Config{}, err
	}
	c.override(getenv)
	return c, nil
}

func (c *Config) read(path string) error {
	f := file{
		HTTP: &c.HTTP, Consul: &c.Consul, Nomad: &c.Nomad, Worker: &c.Worker,
		Defaults: &c.ItemDefaults, Retry: &c.Retry, Breaker: &c.Breaker, Retention: &c.Retention, Orchestrator: &c.Orchestrator,
	}
	if err := hclsimple.DecodeFile(path, nil, &f); err != nil {
		return fmt.Errorf("configuration file %s: %w", faults(path, err), work.ErrInvalid)
	}
	c.QueueBlocks = append(c.QueueBlocks, f.Queues...)
	return nil
}

// faults puts every fault of a file on one line.
func faults(path string, err error) string {
	diagnostics, ok := err.(hcl.Diagnostics)
	if !ok {
		return path + ": " + err.Error()
	}
	var lines []string
	for _, d := range diagnostics {
		lines = append(lines, hcl.Diagnostics{d}.Error())
	}
	text := strings.Join(lines, "; ")
	if strings.Contains(text, path) {
		return text
	}
	return path + ": " + text
}

func (c *Config) readTokens() error {
	for _, token := range []struct {
		field, path string
		to          *Secret
	}{
		{"http.token_file", c.HTTP.TokenFile, &c.HTTP.Token},
		{"consul.token_file", c.Consul.TokenFile, &c.Consul.Token},
		{"nomad.token_file", c.Nomad.TokenFile, &c.Nomad.Token},
	} {
		if token.path == "" {
			continue
		}
		data, err := os.ReadFile(token.path)
		if err != nil {
			return fmt.Errorf("%s: %v: %w", token.field, err, work.ErrInvalid)
		}
		*token.to = Secret(strings.TrimSpace(string(data)))
	}
	return nil
}

func (c *Config) override(getenv func(string) string) {
	for name, to := range map[string]*string{
		EnvAddress: &c.HTTP.Address, EnvAdvertise: &c.HTTP.Advertise, EnvImage: &c.Worker.Image,
		EnvLogLevel: &c.Orchestrator.LogLevel, EnvLogFormat: &c.Orchestrator.LogFormat, EnvToken: (*string)(&c.HTTP.Token),
	} {
		if value := getenv(name); value != "" {
			*to = value
		}
	}
}
