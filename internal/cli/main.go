package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"drover/consul"
	"drover/internal/api"
	"drover/internal/config"
)

// Variables of the environment that clients read.
const (
	envAddress       = "DROVER_ADDR"
	envToken         = "DROVER_TOKEN"
	envCACert        = "DROVER_CACERT"
	envClientCert    = "DROVER_CLIENT_CERT"
	envClientKey     = "DROVER_CLIENT_KEY"
	envTLSServerName = "DROVER_TLS_SERVER_NAME"
	envSkipVerify    = "DROVER_SKIP_VERIFY"
	envConsul        = "CONSUL_HTTP_ADDR"
	envConsulToken   = "CONSUL_HTTP_TOKEN"
	envConsulPrefix  = "DROVER_CONSUL_PREFIX"
)

// shell is what a verb runs in.
type shell struct {
	in     io.Reader
	out    io.Writer
	err    io.Writer
	env    []string
	getenv func(string) string
}

// Main runs the command of args, which do not hold the program's name, and
// returns its exit status. It ends early when ctx does.
func Main(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	sh := &shell{in: stdin, out: stdout, err: stderr, env: env, getenv: lookup(env)}
	sh.collectAfter(commandGrowth)
	root := newRoot(sh)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	status := exitStatus(ctx, err)
	if err != nil && status != exitInterrupted {
		fmt.Fprintln(stderr, "drover:", message(err))
	}
	return status
}

// How much the heap grows before it is collected, in percent. Most commands are
// over before that. Most of a server's heap are its items, which live long: to
// look through them half as often costs no more memory than they take.
const (
	commandGrowth = 400
	serverGrowth  = 200
)

// collectAfter sets the heap's growth, unless GOGC says another.
func (sh *shell) collectAfter(percent int) {
	if sh.getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

func lookup(env []string) func(string) string {
	values := make(map[string]string, len(env))
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	return func(name string) string { return values[name] }
}

func newRoot(sh *shell) *cobra.Command {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Turn a queue of work items into finished pull requests",
		Long: `drover turns a queue of work items into finished pull requests, unattended.
A work item is a git repository and a task for a coding agent. drover runs each
in a container on Nomad, watches it, retries it, and keeps what came of it in Consul.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2 // letters
	root.SetHelpTemplate(helpTemplate)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%v", err) })
	root.AddCommand(
		newSubmit(sh), newList(sh), newShow(sh), newLogs(sh), newWait(sh), newOpen(sh), newPR(sh),
		newRetry(sh), newRequeue(sh), newCancel(sh), newKill(sh), newPriority(sh), newEdit(sh), newRemove(sh),
		newTop(sh), newExport(sh), newImport(sh),
		newQueue(sh), newBreaker(sh), newLocks(sh), newToken(sh),
		newExplain(sh), newReport(sh), newDoctor(sh), newDebug(sh), newLogLevel(sh),
		newServer(sh), newDev(sh), newVersion(sh),
	)
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "repo" {
			name = "repository"
		}
		return pflag.NormalizedName(name)
	})
	eachCommand(root, func(cmd *cobra.Command) { completes(cmd, sh) })
	return root
}

// eachCommand calls f with a command and all below it.
func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, f)
	}
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usage(cmd, "no command %q; do you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usage(cmd, "no command %q", args[0])
}

// arguments makes a check of how many arguments there are.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usage(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// remote are the flags of verbs that call a server.
type remote struct {
	address string
	output  string
}

func (r *remote) bind(cmd *cobra.Command, sh *shell) {
	r.bindServer(cmd, sh)
	bindOutput(cmd, &r.output)
}

// bindServer binds the flags of verbs that have one form of output.
func (r *remote) bindServer(cmd *cobra.Command, sh *shell) {
	cmd.Flags().StringVar(&r.address, "address", sh.getenv(envAddress),
		"server to call ("+envAddress+"); if not given, the leader that the Consul at "+envConsul+" knows, or else "+config.DefaultAddress)
}

// discoverTimeout bounds the question which server leads.
const discoverTimeout = 5 * time.Second

// server returns the address to call: what was given, the leader's by Consul, or
// the one where a server listens that was told nothing.
func (r remote) server(sh *shell) (string, error) {
	if r.address != "" {
		return r.address, nil
	}
	if sh.getenv(envConsul) == "" {
		return config.DefaultAddress, nil
	}
	store, err := consul.Open(consul.Options{Address: sh.getenv(envConsul), Token: sh.getenv(envConsulToken), Prefix: sh.getenv(envConsulPrefix)})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), discoverTimeout)
	defer cancel()
	address, err := store.LeaderAddress(ctx)
	if err != nil {
		return "", fmt.Errorf("%s is not set, and %w", envAddress, err)
	}
	return address, nil
}

func (r remote) client(sh *shell) (*api.Client, error) {
	address, err := r.server(sh)
	if err != nil {
		return nil, err
	}
	return api.NewClient(api.ClientOptions{
		Address: address, Token: sh.getenv(envToken),
		TLS: api.TLS{
			CACert: sh.getenv(envCACert), Cert: sh.getenv(envClientCert), Key: sh.getenv(envClientKey),
			ServerName: sh.getenv(envTLSServerName), SkipVerify: isTrue(sh.getenv(envSkipVerify)),
		},
	})
}

// ask calls the server, and prints its answer: as JSON, or as tell writes it for people.
func ask[T any](ctx context.Context, opts remote, sh *shell, call func(*api.Client, context.Context) (T, error), tell func(*printer, T)) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := call(client, ctx)
	if err != nil {
		return err
	}
	if opts.output == formatJSON {
		return printJSON(sh.out, answer)
	}
	p := newPrinter(sh)
	tell(p, answer)
	return p.err
}

func isTrue(value string) bool { return value == "1" || strings.EqualFold(value, "true") }

// isTerminal reports whether a stream is a terminal: a person is there.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
