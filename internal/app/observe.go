package app

import (
	"context"
	"time"

	"drover/internal/control"
	"drover/internal/report"
	"drover/internal/work"
)

// Explain says why an item is where it is, and what a person can do.
func (s service) Explain(ctx context.Context, id string) (control.Explanation, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Explanation{}, err
	}
	return o.Explain(ctx, id)
}

// Report says how the items ended that did so since a time.
func (s service) Report(ctx context.Context, since time.Time) (report.Report, error) {
	var items []work.Item
	err := s.Export(ctx, control.Filter{}, func(item work.Item) error {
		items = append(items, item)
		return nil
	})
	if err != nil {
		return report.Report{}, err
	}
	return report.Make(items, since.UTC(), time.Now().UTC()), nil
}
