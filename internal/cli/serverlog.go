package cli

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"drover/internal/config"
	"drover/internal/telemetry"
	"drover/internal/worker/redact"
)

// serverLogs returns a server's logs, which show none of the secrets that it has.
func serverLogs(cfg config.Config, sh *shell) (*telemetry.Logs, error) {
	environment := redact.FromEnviron(sh.env)
	tokens := redact.New(cfg.HTTP.Token.Reveal(), cfg.Consul.Token.Reveal(), cfg.Nomad.Token.Reveal())
	format := cfg.Orchestrator.LogFormat
	return telemetry.NewLogs(telemetry.LogOptions{
		Name: "drover", Output: sh.err, JSON: format == config.LogJSON || format == config.LogAuto && !isTerminal(sh.err),
		Level: cfg.Orchestrator.LogLevel, Levels: cfg.Orchestrator.LogLevels, Subsystems: config.LogSubsystems(),
		Redact: func(text string) string { return tokens.String(environment.String(text)) },
	})
}

// rereadOnHangup has SIGHUP take the levels of logs from the configuration anew,
// until the function it returns is called.
func (o serverOptions) rereadOnHangup(sh *shell, logs *telemetry.Logs) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	var reading sync.WaitGroup
	reading.Go(func() {
		for range hangups {
			log := logs.Logger()
			cfg, err := o.load(sh)
			if err == nil {
				err = cfg.Validate()
			}
			if err == nil {
				err = logs.SetLevels(cfg.Orchestrator.LogLevel, cfg.Orchestrator.LogLevels)
			}
			if err != nil {
				log.Error("log levels not read anew, they stay as they are", "error", err)
				continue
			}
			log.Info("log levels read anew", "levels", logs.Levels())
		}
	})
	return func() {
		signal.Stop(hangups)
		close(hangups)
		reading.Wait()
	}
}
