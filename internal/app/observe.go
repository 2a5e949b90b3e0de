package app

import (
	"context"
	"time"

	"drover/internal/control"
	"drover/internal/report"
)

// Report says how the items ended that did so since a time.
func (s service) Report(ctx context.Context, since time.Time) (report.Report, error) {
	items, err := s.Items(ctx, control.Filter{})
	if err != nil {
		return report.Report{}, err
	}
	return report.Make(items, since.UTC(), time.Now().UTC()), nil
}
