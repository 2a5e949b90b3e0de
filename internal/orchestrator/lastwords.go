package orchestrator

import (
	"context"
	"slices"
	"strings"
	"time"

	"drover/internal/work"
)

// Bounds of the last line that a worker without a result left on its standard error.
const (
	wordsTimeout = 3 * time.Second
	wordsBytes   = 400
)

// withLastWords adds to the end of a worker that never got to work what it said
// last: a worker that can't reach Consul names there the address that it tried.
// Where Nomad can't tell, the end is as good without.
func (o *Orchestrator) withLastWords(ctx context.Context, end work.Ending) work.Ending {
	if end.Reason != work.ReasonStartFailed || end.Result != nil || end.ExitCode == nil || end.Allocation == "" {
		return end
	}
	if line := o.lastLine(ctx, end.Allocation); line != "" {
		end.Detail += ": " + line
	}
	return end
}

// lastLine returns the last line of an allocation's standard error, empty where
// there is none, or Nomad can't tell.
func (o *Orchestrator) lastLine(ctx context.Context, allocation string) string {
	ctx, cancel := context.WithTimeout(ctx, wordsTimeout)
	defer cancel()
	data, err := o.readLog(ctx, work.Allocation{ID: allocation, Task: work.Task{Finished: time.Now()}}, "stderr")
	if err != nil {
		o.log.Debug("last words of a worker not read", "allocation", allocation, "error", err)
		return ""
	}
	for _, line := range slices.Backward(lastLines(data)) {
		if line = strings.TrimSpace(line); line != "" {
			return strings.ToValidUTF8(line[:min(wordsBytes, len(line))], "")
		}
	}
	return ""
}
