package app

import (
	"context"

	"drover/internal/control"
	"drover/internal/work"
)

func (s service) Queues(ctx context.Context) ([]control.Queue, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Queues(ctx)
}

func (s service) Queue(ctx context.Context, name string) (control.Queue, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Queue{}, err
	}
	return o.Queue(ctx, name)
}

func (s service) SetQueue(ctx context.Context, name string, change control.QueueChange) (control.Queue, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Queue{}, err
	}
	return o.SetQueue(ctx, name, change)
}

func (s service) MoveQueue(ctx context.Context, name string, to control.QueueTransition) (control.Queue, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Queue{}, err
	}
	return o.MoveQueue(ctx, name, to)
}

func (s service) DeleteQueue(ctx context.Context, name string) error {
	o, err := s.orchestrator()
	if err != nil {
		return err
	}
	return o.DeleteQueue(ctx, name)
}

func (s service) Breakers(ctx context.Context) ([]work.Breaker, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Breakers(ctx)
}

func (s service) TripBreaker(ctx context.Context, trip control.Trip) (work.Breaker, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Breaker{}, err
	}
	return o.TripBreaker(ctx, trip)
}

func (s service) ResetBreaker(ctx context.Context, repository string) (work.Breaker, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Breaker{}, err
	}
	return o.ResetBreaker(ctx, repository)
}
