package orchestrator

import (
	"context"
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
	ctx, cancel := context.WithTimeout(ctx, wordsTimeout)
	defer cancel()
	data, err := o.readLog(ctx, work.Allocation{ID: end.Allocation, Task: work.Task{Finished: time.Now()}}, "stderr")
	if err != nil {
		o.log.Debug("last words of a worker not read", "allocation", end.Allocation, "error", err)
		return end
	}
	lines := lastLines(data)
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" {
			end.Detail += ": " + strings.ToValidUTF8(line[:min(wordsBytes, len(line))], "")
			return end
		}
	}
	return end
}
