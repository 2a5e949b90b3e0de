package api

import (
	"context"
	"net/http"

	"drover/internal/control"
	"drover/internal/work"
)

// Breakers are the calls about repositories' breakers.
type Breakers interface {
	// Breakers returns those that count failures or are not closed.
	Breakers(ctx context.Context) ([]work.Breaker, error)
	// TripBreaker opens one. It returns work.ErrInvalid.
	TripBreaker(ctx context.Context, trip control.Trip) (work.Breaker, error)
	// ResetBreaker closes one, by the repository's URL or key.
	// It returns work.ErrNotFound when there is nothing to reset.
	ResetBreaker(ctx context.Context, repository string) (work.Breaker, error)
}

func (h *handler) breakerRoutes() []route {
	return []route{
		{http.MethodGet, "/v1/breakers", work.RoleRead, h.call(http.StatusOK, h.breakers)},
		{http.MethodPost, "/v1/breakers/trip", work.RoleOperate, h.call(http.StatusOK, h.tripBreaker)},
		{http.MethodPost, "/v1/breakers/reset", work.RoleOperate, h.call(http.StatusOK, h.resetBreaker)},
	}
}

func (h *handler) breakers(r *http.Request) (any, error) { return h.Service.Breakers(r.Context()) }

func (h *handler) tripBreaker(r *http.Request) (any, error) {
	var trip control.Trip
	if err := decodeBody(r, &trip); err != nil {
		return nil, err
	}
	return h.Service.TripBreaker(r.Context(), trip)
}

// breakerReset is the body of a reset. Repositories are URLs, which go badly into a path.
type breakerReset struct {
	Repository string `json:"repository"`
}

func (h *handler) resetBreaker(r *http.Request) (any, error) {
	var reset breakerReset
	if err := decodeBody(r, &reset); err != nil {
		return nil, err
	}
	return h.Service.ResetBreaker(r.Context(), reset.Repository)
}

// Breakers returns the breakers that count failures or are not closed.
func (c *Client) Breakers(ctx context.Context) (breakers []work.Breaker, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("breakers"), nil, &breakers)
	return breakers, err
}

// TripBreaker opens a repository's breaker.
func (c *Client) TripBreaker(ctx context.Context, trip control.Trip) (b work.Breaker, err error) {
	err = c.call(ctx, c.repeat, http.MethodPost, c.url("breakers", "trip"), trip, &b)
	return b, err
}

// ResetBreaker closes a repository's breaker.
func (c *Client) ResetBreaker(ctx context.Context, repository string) (b work.Breaker, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("breakers", "reset"), breakerReset{repository}, &b)
	return b, err
}
