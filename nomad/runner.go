package nomad

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"drover/internal/work"
)

// DefaultJobID is the id of the parameterized worker job.
const DefaultJobID = "drover-worker"

// metaSpec is the meta key of a worker job that holds the hash of what it was
// registered from.
const metaSpec = "drover_spec"

// Job says how workers are run.
type Job struct {
	ID     string // DefaultJobID if empty
	Source string // HCL of the job specification
	// Variables are values of the specification's variables, as HCL expressions.
	Variables map[string]string
	// Default are the resources and the image of the job named ID itself. Items
	// that want others run in jobs of the same specification, named after the
	// difference: a dispatch can't change resources.
	Default Runner
}

// Runner is what distinguishes one worker job from another.
type Runner struct {
	Image    string
	MemoryMB int
	Cores    int
	CPUMHz   int
	PIDs     int
}

// RunnerOf returns the runner an item's attempt needs.
func RunnerOf(spec work.Spec) Runner {
	r := spec.Resources
	return Runner{Image: spec.Image, MemoryMB: r.MemoryMB, Cores: r.Cores, CPUMHz: r.CPUMHz, PIDs: r.PIDs}
}

func (j Job) withDefaults() Job {
	if j.ID == "" {
		j.ID = DefaultJobID
	}
	return j
}

// parentID returns the id of the worker job for a runner.
func (j Job) parentID(r Runner) string {
	if r == j.Default {
		return j.ID
	}
	text, _ := json.Marshal(r) // a struct of strings and numbers always encodes
	sum := sha256.Sum256(text)
	const length = 4
	return j.ID + "-" + hex.EncodeToString(sum[:length])
}

// owns reports whether a job id is the worker job, one of its variants, or a
// child of either.
func (j Job) owns(id string) bool {
	parent, _, _ := strings.Cut(id, childMark)
	rest, ok := strings.CutPrefix(parent, j.ID)
	return ok && (rest == "" || rest[0] == '-')
}

// variables returns the content of a variables file for the runner.
func (j Job) variables(id string, r Runner) string {
	values := map[string]string{
		"job_id": strconv.Quote(id), "memory": strconv.Itoa(r.MemoryMB), "cores": strconv.Itoa(r.Cores),
		"cpu": strconv.Itoa(r.CPUMHz), "pids": strconv.Itoa(r.PIDs),
	}
	if r.Image != "" {
		values["image"] = strconv.Quote(r.Image)
	}
	for name, value := range j.Variables {
		values[name] = value
	}
	lines := make([]string, 0, len(values))
	for name, value := range values {
		lines = append(lines, name+" = "+value+"\n")
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// hash names the specification and its variables, so that a changed
// configuration registers the job anew and an unchanged one does nothing.
func (j Job) hash(variables string) string {
	sum := sha256.Sum256([]byte(j.Source + "\x00" + variables))
	return hex.EncodeToString(sum[:8])
}

// prepare makes sure that the worker job for a runner is registered as
// configured, and returns its id.
func (c *Client) prepare(ctx context.Context, r Runner) (string, error) {
	id := c.job.parentID(r)
	c.mu.Lock()
	known := c.parents[id]
	c.mu.Unlock()
	if known {
		return id, nil
	}
	if err := c.register(ctx, id, r); err != nil {
		return "", err
	}
	c.setKnown(id, true)
	return id, nil
}

func (c *Client) setKnown(id string, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known {
		c.parents[id] = true
	} else {
		delete(c.parents, id)
	}
}

func (c *Client) register(ctx context.Context, id string, r Runner) error {
	variables := c.job.variables(id, r)
	hash := c.job.hash(variables)
	current, err := c.parent(ctx, id)
	if err != nil {
		return err
	}
	if current != nil && current.Meta[metaSpec] == hash && (current.Stop == nil || !*current.Stop) {
		return nil
	}
	job, err := c.parse(ctx, variables)
	if err != nil {
		return err
	}
	if job.ID == nil || *job.ID != id || job.ParameterizedJob == nil {
		return fmt.Errorf("worker job specification: must be a parameterized job whose id is the variable job_id: %w", work.ErrInvalid)
	}
	if job.Meta == nil {
		job.Meta = map[string]string{}
	}
	job.Meta[metaSpec] = hash
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, _, err := c.once.Jobs().RegisterOpts(job, nil, c.writeOpts(ctx)); err != nil {
		return classify("register job "+id, true, err)
	}
	c.log.Info("worker job registered", "job", id, "image", r.Image, "memory_mb", r.MemoryMB)
	return nil
}

// parent returns a registered worker job, nil if there is none.
func (c *Client) parent(ctx context.Context, id string) (*api.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	job, _, err := c.repeat.Jobs().Info(id, c.readOpts(ctx))
	err = classify("read job "+id, false, err)
	if errors.Is(err, work.ErrNotFound) {
		return nil, nil
	}
	return job, err
}

// parse has Nomad itself read the job specification: its jobspec library is not
// part of the api module, and the server's reading is the one that counts.
func (c *Client) parse(ctx context.Context, variables string) (*api.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request := &api.JobsParseRequest{JobHCL: c.job.Source, Variables: variables, Canonicalize: true}
	var job api.Job
	if _, err := c.once.Raw().Write("/v1/jobs/parse", request, &job, c.writeOpts(ctx)); err != nil {
		return nil, classify("parse the worker job specification", false, err)
	}
	return &job, nil
}

// RemoveIdleRunners removes the worker jobs of other runners than the default
// that have no child left and were registered before the time given. Registering
// one again costs a call.
// It returns work.ErrUnavailable and work.ErrUnknownOutcome.
func (c *Client) RemoveIdleRunners(ctx context.Context, before time.Time) error {
	jobs, err := c.list(ctx)
	if err != nil {
		return err
	}
	busy := map[string]bool{c.job.ID: true}
	for _, job := range jobs {
		if job.ParentID != "" {
			busy[job.ParentID] = true
		}
	}
	for _, job := range jobs {
		if job.ParentID == "" && !busy[job.ID] && time.Unix(0, job.SubmitTime).Before(before) {
			c.setKnown(job.ID, false)
			if err := c.Stop(ctx, job.ID, true); err != nil {
				return err
			}
		}
	}
	return nil
}
