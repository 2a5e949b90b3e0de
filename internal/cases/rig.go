package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drover/internal/control"
	"drover/internal/testkit/devproc"
	"drover/internal/testkit/forgetest"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	owner        = "acme"
	gitUsername  = "drover"
	token        = "of-the-cases" // of the git server and the forge
	startTimeout = time.Minute
	pollInterval = 100 * time.Millisecond
)

// rig is a drover and all that its items need, for the rows of one configuration.
type rig struct {
	dir    string
	cases  string // testdata, for the agents
	git    *gittest.Server
	forge  *forgetest.Server
	drover *devproc.Process
	client *http.Client

	mu   sync.Mutex
	runs map[string]*run // by repository
}

// startRig starts a drover with a configuration and a queue for each of the rows.
func startRig(ctx context.Context, dir, binary, config string, rows []row) (*rig, error) {
	r := &rig{dir: dir, cases: filepath.Join(dir, "testdata"), client: &http.Client{}, runs: map[string]*run{}}
	err := r.start(ctx, binary, r.queues(rows)+config)
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

func (r *rig) start(ctx context.Context, binary, config string) (err error) {
	data, err := fs.Sub(testdata, "testdata")
	if err != nil {
		return err
	}
	if err := os.CopyFS(r.cases, data); err != nil {
		return fmt.Errorf("copy the recorded inputs: %w", err)
	}
	repositories := filepath.Join(r.dir, "git")
	if err := os.Mkdir(repositories, 0o755); err != nil {
		return err
	}
	if r.git, err = gittest.Start(repositories, gittest.Options{Username: gitUsername, Password: token, Before: r.beforeGit}); err != nil {
		return err
	}
	r.forge = forgetest.Start(token)
	path, err := pathForDrover(filepath.Join(r.dir, "path"))
	if err != nil {
		return err
	}
	r.drover, err = devproc.Start(ctx, devproc.Options{
		Binary: binary, Dir: r.dir, Configuration: r.configuration() + config, Args: []string{"--driver", "raw_exec"},
		Env: []string{"PATH=" + path, "DROVER_GIT_USERNAME=" + gitUsername, "DROVER_GIT_TOKEN=" + token, "DROVER_FORGE_TOKEN=" + token},
	})
	if err != nil {
		return err
	}
	if !strings.Contains(r.drover.Servers, "Consul (consul agent -dev)") {
		return fmt.Errorf("drover dev runs on %s: the cases need a real Consul (make consul)", r.drover.Servers)
	}
	return r.ready(ctx)
}

// queues gives each row a queue: a limit of one row's model must not hold the others back.
func (*rig) queues(rows []row) string {
	var text strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&text, "queue %q {}\n", row.name())
	}
	return text.String()
}

func (*rig) configuration() string {
	return `
http {
  address = "127.0.0.1:0"
}
defaults {
  memory_mb = 128
  cpu_mhz   = 100
}
retry {
  backoff       = ["1s"]
  start_backoff = ["1s"]
  jitter        = 0
}
`
}

// pathForDrover returns a PATH with the real Consul that the module has built, if it has, and without a Nomad: workers
// are to be dispatched by the embedded one, which is there at once.
func pathForDrover(dir string) (string, error) {
	built, err := filepath.Abs("build/bin")
	if err != nil {
		return "", err
	}
	dirs := append([]string{built}, filepath.SplitList(os.Getenv("PATH"))...)
	for i, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "nomad")); err != nil {
			continue
		}
		dirs[i] = filepath.Join(dir, fmt.Sprint(i))
		if err := linkAllBut(d, dirs[i], "nomad"); err != nil {
			return "", err
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator)), nil
}

func linkAllBut(from, to, name string) error {
	entries, err := os.ReadDir(from)
	if err == nil {
		err = os.MkdirAll(to, 0o755)
	}
	for _, entry := range entries {
		if err == nil && entry.Name() != name {
			err = os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()))
		}
	}
	return err
}

// stop ends what runs.
func (r *rig) stop() error {
	var errs []error
	if r.drover != nil {
		errs = append(errs, r.drover.Stop())
	}
	if r.forge != nil {
		r.forge.Close()
	}
	if r.git != nil {
		errs = append(errs, r.git.Close())
	}
	r.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// ready waits until drover takes items and dispatches them.
func (r *rig) ready(ctx context.Context) error {
	err := poll(ctx, startTimeout, func() (bool, error) {
		var status control.Status
		err := r.call(ctx, http.MethodGet, "/v1/status", nil, &status)
		return err == nil && len(status.NotReady) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for drover dev: %w; its log ends with:\n%s", err, r.drover.LogEnd())
	}
	return nil
}

// refusal is an answer of drover's API that is not a success.
type refusal struct {
	Status int
	Detail string `json:"detail"`
}

func (e *refusal) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Detail) }

// call calls drover's API. An answer above 299 is a *refusal.
func (r *rig) call(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.drover.Exports["DROVER_ADDR"]+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		no := &refusal{Status: resp.StatusCode}
		if json.Unmarshal(answer, no) != nil {
			no.Detail = string(answer)
		}
		return no
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (r *rig) item(ctx context.Context, id string) (work.Item, error) {
	var detail control.Detail
	err := r.call(ctx, http.MethodGet, "/v1/items/"+id, nil, &detail)
	return detail.Item, err
}

// beforeGit runs what a row does between two attempts once the second of them asks for the repository.
func (r *rig) beforeGit(repository string) {
	r.mu.Lock()
	run := r.runs[repository]
	r.mu.Unlock()
	if run != nil {
		run.between()
	}
}

// poll calls until it returns true or an error, or the limit is reached.
func poll(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
