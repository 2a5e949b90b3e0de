package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"drover/internal/app"
	"drover/internal/config"
	"drover/internal/work"
)

type serverOptions struct {
	files     []string
	address   string
	advertise string
	logLevel  string
	logFormat string
}

func (o *serverOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.files, "config", "c", nil, "configuration file; may be repeated, later ones win")
	flags.StringVar(&o.address, "http-addr", "", "host:port to listen on ("+config.EnvAddress+"; "+config.DefaultAddress+" if not given)")
	flags.StringVar(&o.advertise, "advertise", "", "host:port where others reach this server ("+config.EnvAdvertise+")")
	flags.StringVar(&o.logLevel, "log-level", "", "trace, debug, info, warn, error or off ("+config.EnvLogLevel+")")
	flags.StringVar(&o.logFormat, "log-format", "", "auto (text on a terminal, JSON elsewhere), text or json ("+config.EnvLogFormat+")")
}

// load returns the configuration that files, environment and flags make, not validated yet.
func (o serverOptions) load(sh *shell) (config.Config, error) {
	cfg, err := config.Load(sh.getenv, o.files...)
	if err != nil {
		return cfg, err
	}
	for _, set := range []struct {
		to   *string
		from string
	}{{&cfg.HTTP.Address, o.address}, {&cfg.HTTP.Advertise, o.advertise}, {&cfg.Orchestrator.LogLevel, o.logLevel}, {&cfg.Orchestrator.LogFormat, o.logFormat}} {
		if set.from != "" {
			*set.to = set.from
		}
	}
	return cfg, nil
}

func newServer(sh *shell) *cobra.Command {
	var opts serverOptions
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a server, which leads or waits to take over",
		Long: `Run a server. It keeps nothing on disk: run as many as you like, one leads and the
others forward to it. Nomad and Consul are found as their own CLIs find them (NOMAD_ADDR,
NOMAD_TOKEN, CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and their companions).`,
		Example: "  drover server --config /etc/drover/drover.hcl",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runServer(cmd.Context(), opts, sh) },
	}
	opts.bind(cmd)
	return cmd
}

func runServer(ctx context.Context, opts serverOptions, sh *shell) error {
	cfg, err := opts.load(sh)
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.HTTP.Token == "" {
		return fmt.Errorf("a server needs a token that clients show: set %s or http.token_file; only drover dev runs without one, on a loopback address: %w", config.EnvToken, work.ErrInvalid)
	}
	served, end, err := opts.begin(ctx, cfg, sh)
	if err != nil {
		return err
	}
	defer end()
	served.Ready = func(address string) { served.Logs.Logger().Info("serving", "address", address) }
	return orDone(ctx, app.Run(ctx, served))
}

// begin opens a server's logs, whose levels SIGHUP has read anew, and its traces,
// until end is called.
func (o serverOptions) begin(ctx context.Context, cfg config.Config, sh *shell) (served app.Options, end func(), err error) {
	logs, err := serverLogs(cfg, sh)
	if err != nil {
		return served, nil, err
	}
	traces, closeTraces, err := sh.traces(ctx, "drover", logs.Logger())
	if err != nil {
		return served, nil, err
	}
	sh.collectAfter(serverGrowth)
	stopReading := o.rereadOnHangup(sh, logs)
	end = func() {
		closeTraces()
		stopReading()
	}
	return app.Options{Config: cfg, Logs: logs, Traces: traces, Version: currentVersion().Version}, end, nil
}

// orDone returns err, unless ctx ended: then all went as it was told to.
func orDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
