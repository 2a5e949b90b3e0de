package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/client"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/spf13/cobra"

	"drover/internal/app"
	"drover/internal/config"
	"drover/internal/devcluster"
	"drover/internal/work"
)

const (
	// devImage is what make image builds.
	devImage = "drover-worker:dev"
	// devMemoryMB and devCPUMHz let several workers run on a laptop.
	devMemoryMB = 512
	devCPUMHz   = 500

	driverAuto = "auto"
	workerName = "drover-worker"
)

// devSecrets are the variables of the environment that the workers of a dev
// cluster are given.
var devSecrets = []string{"DROVER_GIT_USERNAME", "DROVER_GIT_TOKEN", "DROVER_FORGE_TOKEN"}

type devOptions struct {
	serverOptions
	driver   string
	image    string
	embedded bool
}

func newDev(sh *shell) *cobra.Command {
	var opts devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a server with a Nomad and a Consul of its own",
		Long: `Run a server and all it needs in one process, for development: Nomad and Consul are
the agents on PATH in their dev mode, or else servers in this process. Nothing is
kept, and nothing runs on after the end. The configuration may say where Nomad and
Consul are served (nomad.address, consul.address); free ports are taken otherwise.
Workers are given ` + strings.Join(devSecrets, ", ") + `
where this environment has them.`,
		Example: "  drover dev\n  DROVER_GIT_TOKEN=… drover dev --driver docker --image drover-worker:dev",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{driverAuto, config.DriverDocker, config.DriverRawExec}, opts.driver) {
				return usage(cmd, "driver %q: use %s, %s or %s", opts.driver, driverAuto, config.DriverDocker, config.DriverRawExec)
			}
			return runDev(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd)
	flags := cmd.Flags()
	flags.StringVar(&opts.driver, "driver", driverAuto, "docker, raw_exec, or auto: docker where an engine has the image")
	flags.StringVar(&opts.image, "image", "", "worker image ("+config.EnvImage+"; "+devImage+" if not given)")
	flags.BoolVar(&opts.embedded, "embedded", false, "take no nomad and consul from PATH")
	return cmd
}

func runDev(ctx context.Context, opts devOptions, sh *shell) (err error) {
	cfg, err := opts.load(sh)
	if err != nil {
		return err
	}
	if err := opts.prepare(ctx, &cfg, sh); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	served, end, err := opts.begin(ctx, cfg, sh)
	if err != nil {
		return err
	}
	defer end()
	cluster, err := devcluster.Start(ctx, devcluster.Options{
		Embedded: opts.embedded, Logger: served.Logs.Logger(), Consul: hostPort(cfg.Consul.Address), Nomad: hostPort(cfg.Nomad.Address),
	})
	if err != nil {
		return orDone(ctx, err)
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	connect(&cfg, cluster)
	if err := giveSecrets(ctx, cfg, sh); err != nil {
		return orDone(ctx, err)
	}

	running, stop := context.WithCancel(ctx)
	var failed error
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case failed = <-cluster.Failed():
			stop()
		case <-running.Done():
		}
	}()
	served.Config, served.Ready = cfg, func(address string) { printDev(sh, cluster, cfg, address) }
	err = app.Run(running, served)
	stop()
	<-watched
	if failed != nil {
		return failed
	}
	return orDone(ctx, err)
}

// prepare fits the configuration to one machine, where it was left as it is by default.
func (o devOptions) prepare(ctx context.Context, cfg *config.Config, sh *shell) error {
	standard := config.Default()
	worker, items := &cfg.Worker, &cfg.ItemDefaults
	worker.Image = cmp.Or(o.image, worker.Image, devImage)
	if items.MemoryMB == standard.ItemDefaults.MemoryMB {
		items.MemoryMB = devMemoryMB
	}
	if items.Cores == 0 && items.CPUMHz == 0 {
		items.CPUMHz = devCPUMHz
	}
	if worker.NetworkMode == standard.Worker.NetworkMode {
		worker.NetworkMode = "host" // where Consul's loopback address is the cluster's
	}
	switch {
	case o.driver != driverAuto:
		worker.Driver = o.driver
	case worker.Driver == config.DriverDocker && !hasImage(ctx, worker.Image):
		worker.Driver = config.DriverRawExec
	}
	if worker.Driver != config.DriverRawExec || worker.Binary != "" || worker.SpecFile != "" {
		return nil
	}
	var err error
	worker.Binary, err = findWorker(sh)
	return err
}

// findWorker returns the path of the worker beside this program, or on PATH.
func findWorker(sh *shell) (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), workerName)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	for _, dir := range filepath.SplitList(sh.getenv("PATH")) {
		if path, err := exec.LookPath(filepath.Join(dir, workerName)); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("the program %s is neither beside drover nor on PATH; name it in worker.binary: %w", workerName, work.ErrInvalid)
}

// hasImage reports whether a Docker engine answers and has the image.
func hasImage(ctx context.Context, image string) bool {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return false
	}
	defer engine.Close()
	_, err = engine.ImageInspect(ctx, image)
	return err == nil
}

// hostPort takes the scheme off an address.
func hostPort(address string) string {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return address
	}
	return rest
}

// connect points the configuration at the cluster.
func connect(cfg *config.Config, cluster *devcluster.Cluster) {
	cfg.Consul.Address = cluster.ConsulAddr
	cfg.Nomad.Address, cfg.Nomad.Namespace, cfg.Nomad.Region = cluster.NomadAddr, "default", "global"
	cfg.Worker.ConsulAddr = cmp.Or(cfg.Worker.ConsulAddr, cluster.ConsulAddr)
}

// giveSecrets stores the workers' secrets where their job reads them.
func giveSecrets(ctx context.Context, cfg config.Config, sh *shell) error {
	secrets := nomad.NewVariable(cfg.Worker.SecretsPath)
	for _, name := range devSecrets {
		if value := sh.getenv(name); value != "" {
			secrets.Items[name] = value
		}
	}
	if len(secrets.Items) == 0 {
		return nil
	}
	transport := &http.Transport{DisableKeepAlives: true}
	api, err := nomad.NewClient(&nomad.Config{
		Address: cfg.Nomad.Address, Namespace: cfg.Nomad.Namespace, HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return fmt.Errorf("nomad at %s: %w", cfg.Nomad.Address, err)
	}
	if _, _, err := api.Variables().Update(secrets, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("store the workers' secrets in nomad variable %s: %w", cfg.Worker.SecretsPath, err)
	}
	return nil
}

// printDev says how the cluster is reached, as lines for another shell.
func printDev(sh *shell, cluster *devcluster.Cluster, cfg config.Config, address string) {
	p := newPrinter(sh)
	p.printf("# Nomad (%s), Consul (%s), driver %s. An interrupt ends them all.\n", cluster.NomadKind, cluster.ConsulKind, cfg.Worker.Driver)
	p.printf("export NOMAD_ADDR=%s\nexport CONSUL_HTTP_ADDR=%s\nexport %s=%s\n", cluster.NomadAddr, cluster.ConsulAddr, envAddress, address)
}
