package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/doctor"
	"drover/internal/work"
)

// probeTimeout bounds the probe, with its image to be pulled.
const probeTimeout = 5 * time.Minute

var errUnwell = errors.New("the doctor found what keeps drover from working")

type doctorOptions struct {
	serverOptions
	server       remote
	ask          bool
	output       string
	repositories []string
	timeout      time.Duration
	noProbe      bool
}

func newDoctor(sh *shell) *cobra.Command {
	var opts doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine Nomad, Consul, and what workers reach, and say what to change",
		Long: `Examine whether a server with this configuration and environment can work: whether Nomad and
Consul answer, their versions and clocks, each permission that the server's tokens need (by doing
it once), and the nodes' driver, control groups and room. Then run a probe as a Nomad job on one
node of each class (at most 20), with the worker's image, user, network and secrets: it reaches
Consul at the address that workers use, reads the repositories and checks push access to them, and
tries the token that makes pull requests. Run the doctor where the server runs, or have a running
server do so with --ask, which takes a token of the role operate. The doctor removes what it makes
in Nomad and Consul. The exit status is 1 when it finds what keeps drover from working.`,
		Example: "  drover doctor --config /etc/drover/drover.hcl --repo https://git.example.com/team/app.git\n  drover doctor --ask -o json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, flag := range []string{"config", "repository", "probe-timeout", "no-probe"} {
				if opts.ask && cmd.Flags().Changed(flag) {
					return usage(cmd, "--%s is for a doctor that runs here: leave it or --ask out", flag)
				}
			}
			return runDoctor(cmd.Context(), opts, sh)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&opts.files, "config", "c", nil, "configuration file of the server; may be repeated")
	flags.StringArrayVar(&opts.repositories, "repo", nil, "repository that workers should reach, at most 20; may be repeated (one of each host that stored items name if not given)")
	flags.DurationVar(&opts.timeout, "probe-timeout", probeTimeout, "how long the probe may take, with its image to be pulled")
	flags.BoolVar(&opts.noProbe, "no-probe", false, "run no probe: examine nothing where workers run")
	flags.BoolVar(&opts.ask, "ask", false, "ask the server that is called to examine itself and its workers")
	opts.server.bindServer(cmd, sh)
	bindOutput(cmd, &opts.output)
	return cmd
}

func runDoctor(ctx context.Context, opts doctorOptions, sh *shell) error {
	findings, err := opts.examine(ctx, sh)
	if err != nil {
		return err
	}
	if err := printFindings(findings, opts.output, sh); err != nil {
		return err
	}
	failures := 0
	for _, f := range findings {
		if f.Status == doctor.Failure {
			failures++
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d findings: %w", failures, errUnwell)
	}
	return nil
}

// examine runs the doctor here, or at the server that is called.
func (opts doctorOptions) examine(ctx context.Context, sh *shell) ([]doctor.Finding, error) {
	if opts.ask {
		client, err := opts.server.client(sh)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		return client.Examine(ctx)
	}
	cfg, err := opts.load(sh)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return nil, err
	}
	return doctor.Run(ctx, doctor.Options{
		Config: cfg, Version: release, Repositories: opts.repositories, ProbeTimeout: opts.timeout, SkipProbe: opts.noProbe,
	})
}

func printFindings(findings []doctor.Finding, format string, sh *shell) error {
	if format == formatJSON {
		return printJSON(sh.out, findings)
	}
	p := newPrinter(sh)
	for _, f := range findings {
		p.printf("%s  %s: %s\n", p.colour(statusColours[f.Status], fmt.Sprintf("%-7s", f.Status)), f.Check, f.Says)
		if f.Do != "" {
			p.printf("         → %s\n", f.Do)
		}
	}
	return p.err
}

var statusColours = map[work.FindingStatus]colour{
	doctor.OK: green, doctor.Warning: yellow, doctor.Failure: red, doctor.Skipped: grey,
}

// colour writes a text in a colour.
func (p *printer) colour(c colour, text string) string {
	if !p.colours || c == 0 {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}
