package cli

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/telemetry"
	"drover/internal/work"
)

// tracesTimeout bounds how long the end of a program waits for its spans to be sent.
const tracesTimeout = 3 * time.Second

// traces opens the traces of a program as the environment says, off if it says
// nothing. closed is to be called at the program's end.
func (sh *shell) traces(ctx context.Context, service string, log hclog.Logger) (traces *telemetry.Traces, closed func(), err error) {
	log = log.Named("telemetry")
	traces, err = telemetry.OpenTraces(ctx, sh.getenv, service, currentVersion().Version, log)
	if err != nil {
		return nil, nil, err
	}
	return traces, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesTimeout)
		defer cancel()
		if err := traces.Close(stop); err != nil {
			log.Warn("last spans not sent", "error", err)
		}
	}, nil
}

// traceSubmission tells of items that were stored for this program.
func (sh *shell) traceSubmission(ctx context.Context, items []work.Item) error {
	traces, closed, err := sh.traces(ctx, "drover-cli", hclog.New(&hclog.LoggerOptions{Name: "drover", Output: sh.err}))
	if err != nil {
		return err
	}
	traces.Submitted(items)
	closed()
	return nil
}
