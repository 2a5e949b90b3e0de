package app

import (
	"context"

	"drover/internal/control"
	"drover/internal/work"
)

func (s service) Locks(ctx context.Context, repository string) ([]work.Lock, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Locks(ctx, repository)
}

func (s service) ReleaseLocks(ctx context.Context, r control.LockRelease) (control.ReleasedLocks, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.ReleasedLocks{}, err
	}
	return o.ReleaseLocks(ctx, r)
}
