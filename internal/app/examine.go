package app

import (
	"context"
	"time"

	"drover/internal/doctor"
	"drover/internal/work"
)

// examineTimeout bounds the probe of an examination by the API, whose calls take a
// minute at most. One whose image has to be pulled for longer is for drover doctor
// with the server's configuration.
const examineTimeout = 45 * time.Second

// Examine runs the doctor with this server's configuration. It names no repositories
// but those of stored items: a caller who could name others could have the workers'
// token sent anywhere.
func (l local) Examine(ctx context.Context) ([]work.Finding, error) {
	return doctor.Run(ctx, doctor.Options{Config: l.opts.Config, Version: l.opts.Version, ProbeTimeout: examineTimeout})
}
