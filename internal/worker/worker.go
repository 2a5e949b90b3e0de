package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"drover/internal/wait"
	"drover/internal/work"
	"drover/internal/worker/gitrepo"
	"drover/internal/worker/memory"
	"drover/internal/worker/process"
	"drover/internal/worker/redact"
)

// Bounds of what a worker still does after SIGTERM. Together they stay below the
// job's kill_timeout of 20 s.
const (
	stopGrace      = 5 * time.Second // of the agent
	stopPush       = 8 * time.Second
	stopSave       = 2 * time.Second
	releaseTimeout = 3 * time.Second
	fenceGrace     = 500 * time.Millisecond // of the agent, once the hold is lost
)

const (
	// claimPatience is how long a starting worker waits for a Consul that does not
	// answer, and claimTimeout how long each call may take.
	claimPatience = 2 * time.Minute
	claimTimeout  = 15 * time.Second
	// adoptPatience is how long a job that was dispatched by hand waits for a
	// server to adopt it: that looks around every half a minute, once it leads.
	adoptPatience = 10 * time.Minute
	retryPause    = time.Second
	// pushCheck is how often the tree is looked at for new commits.
	pushCheck = 250 * time.Millisecond
)

var (
	// ErrStopped says that the worker was told to end, by SIGTERM.
	ErrStopped = errors.New("stopped by a signal")
	// ErrNoConsul says that the worker never reached Consul to claim its attempt.
	ErrNoConsul = errors.New("no answer from Consul")
	// errNotAdopted says that no server has adopted a job that was dispatched by hand.
	errNotAdopted = fmt.Errorf("no server has adopted this job yet: %w", work.ErrUnavailable)
)

// Why an attempt's time is up.
var (
	errTimeout   = errors.New("the attempt's time is up")
	errTimeSpent = fmt.Errorf("the item's budget of time is used up: %w", errTimeout)
)

// Options of a worker.
type Options struct {
	Payload    string          // path of the envelope
	Allocation string          // id
	Job        string          // id of the dispatched job
	KVPrefix   string          // of drover's keys, for a job that was dispatched by hand
	Dir        string          // for the worker's own files
	AgentDir   string          // for the agent's tree and home; Dir if empty
	Agent      process.Starter // of the agent's processes; nil makes them children of this one
	// CountReports is the command line that counts test reports as the agent's user, see testrun.Options.CountAs.
	CountReports []string
	Environ      []string
	Stdout       io.Writer // gets the agent's output, redacted
	Stderr       io.Writer
	Redactor     *redact.Redactor
	Logger       hclog.Logger
	Health       string               // address that /health and /metrics are served on; nowhere if empty
	Registry     *prometheus.Registry // takes the worker's metrics; none if nil
	Tracer       trace.Tracer         // takes its spans; none if nil
	Timing       Timing
	// RemotePatience is how long the git server may be away at the attempt's end; DefaultRemotePatience if 0.
	RemotePatience time.Duration
	// Open opens the store that keeps its keys below a prefix.
	Open func(prefix string) (Store, error)
}

// Run runs one attempt. It returns nil once the attempt's result is reported,
// and when the attempt is another allocation's: then it has done nothing. Every
// error ends the container with a status other than 0. ErrNoConsul, ErrFenced and
// ErrStopped are told apart.
func Run(ctx context.Context, opts Options) error {
	envelope, store, err := opts.load(ctx)
	if err != nil {
		return err
	}
	log := opts.Logger.With(envelope.LogFields(opts.Allocation)...)
	claimed := time.Now()
	var claim Claim
	err = persist(ctx, claimPatience, log, func(ctx context.Context) error {
		claimed = time.Now()
		claim, err = store.Claim(ctx, envelope, opts.Allocation)
		return err
	})
	if errors.Is(err, work.ErrClaimed) {
		log.Warn("nothing to do", "reason", err)
		return nil
	}
	if err != nil {
		return err
	}
	log.Info("attempt claimed")
	return newWorker(opts, envelope, claim, log).run(ctx, claimed)
}

// load reads the envelope, and opens the store it names.
func (o Options) load(ctx context.Context) (work.Envelope, Store, error) {
	var e work.Envelope
	data, err := os.ReadFile(o.Payload)
	if err != nil {
		return e, nil, fmt.Errorf("read the dispatch payload: %w", err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, nil, fmt.Errorf("read the dispatch payload: %v: %w", err, work.ErrInvalid)
	}
	byHand := e.Attempt == ""
	if byHand {
		if e, err = o.handDispatched(); err != nil {
			return e, nil, err
		}
	}
	if _, err := work.ParseAttemptID(string(e.Attempt)); err != nil {
		return e, nil, fmt.Errorf("read the dispatch payload: %w", err)
	}
	store, err := o.Open(e.KVPrefix)
	if err != nil {
		return e, nil, err
	}
	if e.Reference {
		patience := claimPatience
		if byHand {
			patience = adoptPatience
		}
		err = persist(ctx, patience, o.Logger, func(ctx context.Context) error {
			whole, err := store.Envelope(ctx, e.Attempt)
			if byHand && errors.Is(err, work.ErrNotFound) {
				return errNotAdopted
			}
			if err == nil {
				e = whole
			}
			return err
		})
	}
	if e.Branch == "" {
		e.Branch = work.Branch(e.Item)
	}
	e.Spec = e.Spec.WithDefaults(work.NewDefaults())
	return e, store, err
}

// handDispatched returns the reference to the envelope that the leader makes of
// a payload which is an item's specification, when it adopts the job.
func (o Options) handDispatched() (work.Envelope, error) {
	attempt, err := work.HandDispatched(o.Job)
	if err != nil {
		return work.Envelope{}, fmt.Errorf("the dispatch payload names no attempt, and neither does the job: %w", err)
	}
	return work.Envelope{Item: attempt.Item(), Attempt: attempt, KVPrefix: o.KVPrefix, Reference: true}, nil
}

// persist repeats a call to Consul whose failure may pass, for at most patience.
// It returns ErrNoConsul when none got through.
func persist(ctx context.Context, patience time.Duration, log hclog.Logger, call func(context.Context) error) error {
	for deadline := time.Now().Add(patience); ; {
		limited, cancel := context.WithTimeout(ctx, claimTimeout)
		err := call(limited)
		cancel()
		passing := errors.Is(err, work.ErrUnavailable) || errors.Is(err, work.ErrUnknownOutcome)
		switch {
		case err == nil || !passing:
			return err
		case ctx.Err() == nil && time.Now().After(deadline) && !errors.Is(err, errNotAdopted):
			return fmt.Errorf("%w for %s: %w", ErrNoConsul, patience, err)
		case ctx.Err() == nil && time.Now().After(deadline):
			return err
		}
		log.Warn("trying again", "error", err)
		if stopped := wait.For(ctx, retryPause); stopped != nil {
			return errors.Join(err, stopped)
		}
	}
}

// worker runs the one attempt that it has claimed.
type worker struct {
	Options
	envelope work.Envelope
	claim    Claim
	log      hclog.Logger
	env      map[string]string
	began    time.Time
	memory   *memory.Group // nil where the kernel does not tell
	journal  *journal
	heart    *heart
	dog      *watchdog
	metrics  *metrics
	repo     *gitrepo.Repo    // nil until it is open
	pushing  sync.Mutex       // guards repo
	harvest  *gitrepo.Harvest // what the agent has left; nil until it has ended
	locked   atomic.Bool      // paths may be held
	doubtful atomic.Bool      // the remote branch may be elsewhere than it was left

	stdout, stderr *process.Flood // of the agent and the tests, over the whole attempt

	killsBefore int // for memory, in the worker's control group when it began
}

func newWorker(opts Options, e work.Envelope, claim Claim, log hclog.Logger) *worker {
	w := &worker{Options: opts, envelope: e, claim: claim, log: log, env: map[string]string{}, began: time.Now().UTC()}
	for _, pair := range opts.Environ {
		name, value, _ := strings.Cut(pair, "=")
		w.env[name] = value
	}
	group, err := memory.Open()
	if err != nil {
		log.Warn("memory is not watched", "error", err)
	}
	w.memory = group
	w.killsBefore = w.kills()
	w.stdout, w.stderr = &process.Flood{To: opts.Stdout}, &process.Flood{To: opts.Stderr}
	w.journal, w.dog = newJournal(claim, e, opts.Allocation, log), &watchdog{}
	return w
}

// run runs the attempt, and gives the claim up whatever became of it.
func (w *worker) run(told context.Context, claimed time.Time) (err error) {
	hold, lose := context.WithCancelCause(w.traced(context.WithoutCancel(told), claimed))
	ctx, stop := context.WithCancelCause(hold)
	w.heart = newHeart(hold, claimed, heartOptions{
		claim: w.claim, ttl: w.envelope.Spec.Limits.HeartbeatTTL.Std(), grace: w.envelope.Spec.Limits.FenceGrace.Std(), timing: w.Timing,
		text: w.journal.beatText, dog: w.dog, restore: w.restore, told: told, lose: lose, log: w.log,
	})
	w.journal.fenced = func() bool { return w.heart.fenced() != nil }
	w.metrics = newMetrics(w)
	defer context.AfterFunc(told, func() {
		if f := w.heart.fenced(); f != nil {
			w.heart.giveUp(fmt.Errorf("%w: %w", ErrStopped, f.cause))
		}
		stop(ErrStopped)
	})()
	defer w.serveHealth(hold)()
	var tasks sync.WaitGroup
	tasks.Go(func() { w.heart.run(hold) })
	tasks.Go(func() { w.journal.run(hold, w.dog.watch("progress")) })
	defer func() {
		stop(nil)
		w.unlockLast(hold)
		lose(nil)
		tasks.Wait()
		w.release()
	}()
	w.heart.touch()
	result, err := w.attempt(ctx, hold)
	if err != nil {
		return err
	}
	result.EndedAt = time.Now().UTC()
	w.unlock(hold)
	return w.report(hold, result)
}

// restore is what comes first once a lost attempt was taken back: what was used is
// stored, and the next push looks where the remote branch is.
func (w *worker) restore(ctx context.Context) error {
	w.doubtful.Store(true)
	return w.journal.store(ctx)
}

// report stores the result: for as long as the attempt is the worker's.
func (w *worker) report(hold context.Context, result work.Result) error {
	for {
		w.heart.touch()
		err := w.heart.held(hold, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, consulTimeout)
			defer cancel()
			return w.claim.Report(ctx, result)
		})
		if err == nil {
			w.log.Info("attempt reported", "reason", result.Reason, "detail", result.Detail, "commit", result.RemoteCommit)
			return nil
		}
		if hold.Err() != nil || errors.Is(err, work.ErrConflict) || errors.Is(err, work.ErrInvalid) {
			return err
		}
		w.log.Warn("result not stored, trying again", "error", err)
		if lost := wait.For(hold, retryPause); lost != nil {
			return errors.Join(err, lost)
		}
	}
}

// unlockLast gives up what is locked still, unless the worker is fenced: its last
// push may still reach the git server.
func (w *worker) unlockLast(hold context.Context) {
	ctx, cancel := context.WithTimeout(hold, releaseTimeout)
	defer cancel()
	if hold.Err() == nil {
		w.unlock(ctx)
	}
}

// release gives the claim up.
func (w *worker) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := w.claim.Release(ctx); err != nil {
		w.log.Warn("could not leave cleanly, the TTL will", "error", err)
	}
}

// open makes the clone.
func (w *worker) open(ctx context.Context) (err error) {
	ctx, ended := w.span(ctx, "clone")
	defer func() { ended(err) }()
	tree := w.tree()
	if w.envelope.Resume.PublishOnly {
		tree = ""
	}
	repo, err := gitrepo.Open(ctx, gitrepo.Options{
		URL: w.envelope.Spec.Repository, Base: w.envelope.Spec.Base, Branch: w.envelope.Branch, StateRef: stateRef(w.envelope.Item), Depth: w.envelope.Spec.CloneDepth, Partial: w.envelope.Spec.ClonePartial,
		Dir: filepath.Join(w.Dir, "git"), Tree: tree,
		Username: w.env["DROVER_GIT_USERNAME"], Token: w.env["DROVER_GIT_TOKEN"],
		Agent: w.Agent, Environ: w.Environ, Redact: w.Redactor.String, Alive: w.heart.touch,
	})
	if err == nil {
		w.repo = repo
		w.envelope.Resume.Tree = strings.Join(repo.Notes(), "\n")
	}
	return err
}

// kills counts what the kernel killed for memory in the worker's control group.
// Without counters, such a kill looks like any other.
func (w *worker) kills() int {
	usage, _ := w.memory.Usage()
	return usage.OOMKills
}

// stream returns a writer whose lines, free of secrets and bounded, go to line,
// where it is not nil, and then, unless they are a flood, to to.
func (w *worker) stream(to *process.Flood, line func(string)) (out io.Writer, flush func()) {
	lines := &process.Lines{Objects: line != nil, Line: func(text string) {
		if line != nil {
			line(text)
		}
		to.Line(process.Shown(text))
	}}
	redacted := w.Redactor.Writer(lines)
	return redacted, func() {
		_ = redacted.Flush() // nobody reads: no reason to stop the agent
		lines.Flush()
		to.Flush()
	}
}

func (w *worker) tree() string { return filepath.Join(cmp.Or(w.AgentDir, w.Dir), "tree") }
func (w *worker) home() string { return filepath.Join(cmp.Or(w.AgentDir, w.Dir), "home") }
