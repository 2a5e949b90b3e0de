package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	oomKills     = 50
	oomAtATime   = 2 // more would measure how two cores start containers
	oomMemoryMB  = 64
	oomCPUMHz    = 250
	oomTarget    = time.Second
	oomPoll      = 5 * time.Millisecond
	oomPatience  = 2 * time.Minute // for one item, which takes a few seconds
	oomTimeLimit = 20 * time.Minute
)

// oomAgent is a shell that gives itself a name by which the kernel's log calls it, lets its attempt come to rest, and
// takes memory until it is killed.
const oomAgent = `printf %s >/proc/self/comm; sleep 2; a=0123456789abcdef; while :; do a=$a$a; done`

// oomSample is one kill, and how long after it each could tell.
type oomSample struct {
	Item             string  `json:"item"`
	Killed           string  `json:"killed"` // time
	VisibleMS        float64 `json:"visible_ms"`
	NomadEventMS     float64 `json:"nomad_event_ms"`
	NomadOOMKilled   bool    `json:"nomad_oom_killed"`   // what Nomad's event says
	WorkerReportedMS float64 `json:"worker_reported_ms"` // end that the worker's result states
	StoredMS         float64 `json:"stored_ms"`          // end that the leader has stored

	visible, nomadEvent time.Duration
}

type oomResults struct {
	Servers string      `json:"servers"`
	Date    time.Time   `json:"date"`
	CPUs    int         `json:"cpus"`
	AtATime int         `json:"at_a_time"`
	Samples []oomSample `json:"samples"`
}

// oomBench measures the latency from the kernel's kill of an agent to the end of its attempt in drover's API.
type oomBench struct {
	drover *drover
	forge  *gittest.Server
	kernel kernelLog
	nomad  nomadEvents
}

const oomRepository = "app"

func oomVisible(ctx context.Context, real bool) (figures []figure, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, oomTimeLimit, fmt.Errorf("not done in %s", oomTimeLimit))
	defer cancel()
	dir, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &oomBench{}
	if b.forge, err = gittest.Start(dir, gittest.Options{}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.forge.Close()) }()
	if err := b.forge.CreateRepo(oomRepository, map[string]string{"README.md": "An application.\n"}); err != nil {
		return nil, err
	}
	if b.drover, err = startDrover(ctx, dir, real); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.drover.stop()) }()
	samples, err := b.measure(ctx)
	if err != nil {
		return nil, err
	}
	name := "oom_visible-embedded"
	if real {
		name = "oom_visible-real"
	}
	err = writeResults(name, oomResults{
		Servers: b.drover.Servers, Date: time.Now().UTC(), CPUs: runtime.NumCPU(), AtATime: oomAtATime, Samples: samples,
	})
	return oomFigures(samples), err
}

// measure has oomKills agents killed, oomAtATime at a time.
func (b *oomBench) measure(ctx context.Context) ([]oomSample, error) {
	done := errors.New("all is measured")
	watching, stop := context.WithCancelCause(ctx)
	watches, watching := errgroup.WithContext(watching)
	watches.Go(func() error { return b.kernel.follow(watching) })
	watches.Go(func() error { return b.nomad.follow(watching, b.drover.Exports["NOMAD_ADDR"]) })

	samples := make([]oomSample, oomKills)
	kills, killing := errgroup.WithContext(watching)
	kills.SetLimit(oomAtATime)
	for n := range samples {
		kills.Go(func() (err error) {
			samples[n], err = b.kill(killing, n)
			return err
		})
	}
	err := kills.Wait()
	stop(done)
	if watched := watches.Wait(); !errors.Is(watched, done) {
		err = errors.Join(err, watched)
	}
	return samples, err
}

// kill submits an item whose agent the kernel kills, and waits until all have told of it.
func (b *oomBench) kill(ctx context.Context, n int) (oomSample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, oomPatience, fmt.Errorf("not seen in %s", oomPatience))
	defer cancel()
	process := fmt.Sprintf("oom-%07d-%02d", os.Getpid(), n) // at most 15 bytes, or the kernel cuts it
	item := work.NewID(time.Now())
	_, err := b.drover.client.Submit(ctx, []control.Submission{{ID: item, Spec: b.spec(process)}})
	if err != nil {
		return oomSample{}, err
	}
	var killed time.Time
	select {
	case killed = <-b.kernel.kills.of(process):
	case <-ctx.Done():
		return oomSample{}, fmt.Errorf("kill of the agent of item %s: %w", item, context.Cause(ctx))
	}
	attempt, visible, err := b.visible(ctx, item)
	if err != nil {
		return oomSample{}, fmt.Errorf("end of item %s: %w", item, err)
	}
	select {
	case end := <-b.nomad.ends.of(attempt.Child):
		return newOOMSample(item, attempt, killed, visible, end), nil
	case <-ctx.Done():
		return oomSample{}, fmt.Errorf("nomad's event of the end of %s: %w", attempt.Child, context.Cause(ctx))
	}
}

func (b *oomBench) spec(process string) work.Spec {
	never := 0
	return work.Spec{
		Repository: b.forge.URL(oomRepository), Task: "Take more memory than there is.",
		Command:   []string{"sh", "-c", fmt.Sprintf(oomAgent, process)},
		Resources: work.Resources{MemoryMB: oomMemoryMB, CPUMHz: oomCPUMHz},
		PR:        work.PR{Provider: work.ProviderNone},
		Retry:     &work.RetryOverride{MaxRetries: &never},
	}
}

// visible asks drover's API about the item, as drover show does, until it shows the attempt's end.
func (b *oomBench) visible(ctx context.Context, id string) (work.Attempt, time.Time, error) {
	tick := time.NewTicker(oomPoll)
	defer tick.Stop()
	for {
		item, _, err := b.drover.client.Item(ctx, id)
		now := time.Now()
		if err != nil {
			return work.Attempt{}, now, err
		}
		attempt := item.Attempt(1)
		if attempt != nil && attempt.State.Terminal() {
			return *attempt, now, faultOf(item, *attempt)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return work.Attempt{}, now, context.Cause(ctx)
		}
	}
}

// faultOf says what is wrong with the end of an item whose agent was killed for memory.
func faultOf(item work.Item, attempt work.Attempt) error {
	if attempt.Reason != work.ReasonOOMKilled || item.State != work.StateFailed {
		return fmt.Errorf("attempt ended as %s (%s), item is %s: want %s and %s",
			attempt.Reason, attempt.Detail, item.State, work.ReasonOOMKilled, work.StateFailed)
	}
	return nil
}

func newOOMSample(item string, attempt work.Attempt, killed, visible time.Time, end taskEnd) oomSample {
	s := oomSample{
		Item: item, Killed: killed.UTC().Format(time.RFC3339Nano), NomadOOMKilled: end.oomKilled,
		visible: visible.Sub(killed), nomadEvent: end.at.Sub(killed), StoredMS: inMS(attempt.EndedAt.Sub(killed)),
	}
	s.VisibleMS, s.NomadEventMS = inMS(s.visible), inMS(s.nomadEvent)
	if attempt.Result != nil {
		s.WorkerReportedMS = inMS(attempt.Result.EndedAt.Sub(killed))
	}
	return s
}

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func oomFigures(samples []oomSample) []figure {
	var ours, yardstick []time.Duration
	for _, s := range samples {
		ours, yardstick = append(ours, s.visible), append(yardstick, s.nomadEvent)
	}
	var figures []figure
	for _, p := range []int{50, 99} {
		figures = append(figures, figure{
			name: fmt.Sprintf("oom_visible_p%d", p), ours: percentile(ours, p), yardstick: percentile(yardstick, p), target: oomTarget,
		})
	}
	return figures
}
