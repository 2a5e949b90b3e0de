//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/mitchellh/mapstructure"
)

const (
	// dockerCall bounds a call to the engine that should answer at once.
	dockerCall = 30 * time.Second

	// What Nomad's driver has Docker keep of a container's output.
	keptFiles, keptFileSize = "2", "2m"

	// cpuPeriod is the kernel's default period of a CPU quota, in microseconds.
	cpuPeriod = 100_000
)

// Docker runs tasks as containers of the Docker engine that the environment
// names (DOCKER_HOST and so on). Each container is removed after its end.
type Docker struct{ engine *client.Client }

// NewDocker connects to the engine; it is an error if none answers.
func NewDocker(ctx context.Context) (*Docker, error) {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("make a docker client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dockerCall)
	defer cancel()
	if _, err := engine.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the docker engine: %w", err), engine.Close())
	}
	return &Docker{engine}, nil
}

// Layout tells where the task's directories are mounted.
func (*Docker) Layout(Layout) Layout {
	return Layout{Alloc: "/alloc", Local: "/local", Secrets: "/secrets"}
}

// Close closes the connections to the engine.
func (d *Docker) Close() error { return d.engine.Close() }

// dockerConfig is the part of the docker driver's config that is understood;
// anything else fails the task.
type dockerConfig struct {
	Image          string            `mapstructure:"image"`
	Command        string            `mapstructure:"command"`
	Args           []string          `mapstructure:"args"`
	Entrypoint     []string          `mapstructure:"entrypoint"`
	NetworkMode    string            `mapstructure:"network_mode"`
	PidsLimit      int64             `mapstructure:"pids_limit"`
	CPUHardLimit   bool              `mapstructure:"cpu_hard_limit"`
	CapAdd         []string          `mapstructure:"cap_add"`
	CapDrop        []string          `mapstructure:"cap_drop"`
	SecurityOpt    []string          `mapstructure:"security_opt"`
	ReadonlyRootfs bool              `mapstructure:"readonly_rootfs"`
	Init           bool              `mapstructure:"init"`
	WorkDir        string            `mapstructure:"work_dir"`
	ForcePull      bool              `mapstructure:"force_pull"`
	ExtraHosts     []string          `mapstructure:"extra_hosts"`
	Volumes        []string          `mapstructure:"volumes"`
	Labels         map[string]string `mapstructure:"labels"`
	Ports          []string          `mapstructure:"ports"`
	Mounts         []dockerMount     `mapstructure:"mount"`
}

type dockerMount struct {
	Type         string `mapstructure:"type"`
	Source       string `mapstructure:"source"`
	Target       string `mapstructure:"target"`
	Readonly     bool   `mapstructure:"readonly"`
	TmpfsOptions []struct {
		Size int64  `mapstructure:"size"`
		Mode uint32 `mapstructure:"mode"`
	} `mapstructure:"tmpfs_options"`
}

func parseDockerConfig(raw map[string]any) (dockerConfig, error) {
	var config dockerConfig
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &config, ErrorUnused: true, WeaklyTypedInput: true})
	if err != nil {
		return config, err
	}
	if err := decoder.Decode(raw); err != nil {
		return config, fmt.Errorf("failed to parse config: %w", err)
	}
	if config.Image == "" {
		return config, errors.New("image name required for docker driver")
	}
	return config, nil
}

// Start pulls the image where it must, and starts a container. Only the pull
// heeds ctx: a creation that is cut short could leave a container behind.
func (d *Docker) Start(ctx context.Context, task *Task) (Process, error) {
	config, err := parseDockerConfig(task.Config)
	if err != nil {
		return nil, &Unrecoverable{err}
	}
	if err := d.pull(ctx, config, task.Notify); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dockerCall)
	defer cancel()
	container, host := containerConfig(config, task), hostConfig(config, task)
	if container.ExposedPorts, host.PortBindings, err = publish(config.Ports, task.Ports); err != nil {
		return nil, &Unrecoverable{err}
	}
	created, err := d.engine.ContainerCreate(ctx, container, host, nil, nil, task.Name+"-"+task.AllocID)
	if err != nil {
		return nil, &Unrecoverable{fmt.Errorf("Failed to create container: %w", err)}
	}
	c := &dockerContainer{engine: d.engine, id: created.ID, copied: make(chan struct{})}
	if err := c.start(ctx, task); err != nil {
		return nil, &Unrecoverable{errors.Join(fmt.Errorf("Failed to start container %s: %w", created.ID, err), c.remove())}
	}
	return c, nil
}

// pull fetches an image that isn't there; a tag of latest is always fetched.
func (d *Docker) pull(ctx context.Context, config dockerConfig, notify func(string)) error {
	_, err := d.engine.ImageInspect(ctx, config.Image)
	if err == nil && !config.ForcePull && !isLatest(config.Image) {
		return nil
	}
	notify("Downloading image")
	progress, err := d.engine.ImagePull(ctx, config.Image, image.PullOptions{})
	if err == nil {
		err = errors.Join(pulled(progress), progress.Close())
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("Failed to pull `%s`: %w", config.Image, err)
	if strings.Contains(err.Error(), "not found") || strings.Contains(err.Error(), "does not exist") {
		return &Unrecoverable{err}
	}
	return err
}

// pulled reads a pull to its end; an error comes in the progress.
func pulled(progress io.Reader) error {
	lines := json.NewDecoder(progress)
	for {
		var line struct{ Error string }
		if err := lines.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}

func isLatest(name string) bool {
	if strings.Contains(name, "@") {
		return false
	}
	tag := name[strings.LastIndex(name, "/")+1:]
	return !strings.Contains(tag, ":") || strings.HasSuffix(tag, ":latest")
}

func containerConfig(config dockerConfig, task *Task) *container.Config {
	labels := map[string]string{
		"com.hashicorp.nomad.alloc_id": task.AllocID, "com.hashicorp.nomad.job_id": task.JobID, "com.hashicorp.nomad.task_name": task.Name,
	}
	for k, v := range config.Labels {
		labels[k] = v
	}
	var command []string
	if config.Command != "" {
		command = []string{config.Command}
	}
	return &container.Config{
		Image: config.Image, Entrypoint: config.Entrypoint, Cmd: append(command, config.Args...),
		Env: environ(task.Env), User: task.User, WorkingDir: config.WorkDir, Labels: labels,
	}
}

func hostConfig(config dockerConfig, task *Task) *container.HostConfig {
	memory := task.Resources.Memory.MemoryMB << 20
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode(config.NetworkMode), CapAdd: config.CapAdd, CapDrop: config.CapDrop,
		LogConfig:   container.LogConfig{Type: "json-file", Config: map[string]string{"max-file": keptFiles, "max-size": keptFileSize}},
		SecurityOpt: config.SecurityOpt, ReadonlyRootfs: config.ReadonlyRootfs, Init: &config.Init, ExtraHosts: config.ExtraHosts,
		Binds: append([]string{
			task.Host.Alloc + ":/alloc", filepath.Join(task.Host.Alloc, "logs") + ":/alloc/logs:ro",
			task.Host.Local + ":/local", task.Host.Secrets + ":/secrets",
		}, config.Volumes...),
		// Memory and swap together being no more than memory means no swap.
		Resources: container.Resources{Memory: memory, MemorySwap: memory, CPUShares: max(task.Resources.Cpu.CpuShares, 2)},
	}
	if config.PidsLimit > 0 {
		host.PidsLimit = &config.PidsLimit
	}
	if cores := task.Resources.Cpu.ReservedCores; len(cores) > 0 {
		host.CpusetCpus = coreList(cores)
	}
	if config.CPUHardLimit {
		host.CPUPeriod, host.CPUQuota = cpuPeriod, int64(task.CPUs*cpuPeriod)
	}
	for _, m := range config.Mounts {
		host.Mounts = append(host.Mounts, m.mount())
	}
	return host
}

func (m dockerMount) mount() mount.Mount {
	out := mount.Mount{Type: mount.Type(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.Readonly}
	for _, o := range m.TmpfsOptions {
		out.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: o.Size}
		if o.Mode != 0 {
			out.TmpfsOptions.Mode = os.FileMode(o.Mode)
		}
	}
	return out
}

// dockerContainer is a started container.
type dockerContainer struct {
	engine *client.Client
	id     string
	copied chan struct{}
}

// start attaches to the output before the start, so that none is missed.
func (c *dockerContainer) start(ctx context.Context, task *Task) error {
	attached, err := c.engine.ContainerAttach(context.WithoutCancel(ctx), c.id, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		close(c.copied)
		return fmt.Errorf("attach: %w", err)
	}
	go func() {
		defer close(c.copied)
		defer attached.Close()
		_, _ = stdcopy.StdCopy(task.Stdout, task.Stderr, attached.Reader)
	}()
	if err := c.engine.ContainerStart(ctx, c.id, container.StartOptions{}); err != nil {
		attached.Close()
		<-c.copied
		return err
	}
	return nil
}

// Wait implements Process.
func (c *dockerContainer) Wait() Exit {
	exit := c.exit()
	<-c.copied
	if err := c.remove(); err != nil && exit.Message == "" && exit.Code != 0 {
		exit.Message = err.Error()
	}
	return exit
}

func (c *dockerContainer) exit() Exit {
	done, failed := c.engine.ContainerWait(context.Background(), c.id, container.WaitConditionNotRunning)
	select {
	case err := <-failed:
		return Exit{Code: 1, Message: fmt.Sprintf("wait for container %s: %v", c.id, err)}
	case <-done:
	}
	ctx, cancel := context.WithTimeout(context.Background(), dockerCall)
	defer cancel()
	info, err := c.engine.ContainerInspect(ctx, c.id)
	if err != nil {
		return Exit{Code: 1, Message: fmt.Sprintf("inspect container %s: %v", c.id, err)}
	}
	exit := Exit{Code: info.State.ExitCode, OOMKilled: info.State.OOMKilled}
	switch {
	case exit.OOMKilled:
		exit.Message = "OOM Killed"
	case exit.Code != 0:
		exit.Message = fmt.Sprintf("Docker container exited with non-zero exit code: %d", exit.Code)
	}
	return exit
}

func (c *dockerContainer) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), dockerCall)
	defer cancel()
	if err := c.engine.ContainerRemove(ctx, c.id, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	return nil
}

// Signal implements Process.
func (c *dockerContainer) Signal(sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), dockerCall)
	defer cancel()
	return c.engine.ContainerKill(ctx, c.id, strconv.Itoa(int(sig)))
}

// Usage implements Process.
func (c *dockerContainer) Usage(ctx context.Context) (Usage, error) {
	answer, err := c.engine.ContainerStatsOneShot(ctx, c.id)
	if err != nil {
		return Usage{}, fmt.Errorf("read the usage of container %s: %w", c.id, err)
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&stats); err != nil {
		return Usage{}, fmt.Errorf("read the usage of container %s: %w", c.id, err)
	}
	return Usage{
		MemoryBytes: stats.MemoryStats.Usage, MaxBytes: max(stats.MemoryStats.MaxUsage, stats.MemoryStats.Usage),
		CPUTime: time.Duration(stats.CPUStats.CPUUsage.TotalUsage),
	}, nil
}
