package api

import (
	"context"
	"net/http"
	"net/url"

	"drover/internal/control"
	"drover/internal/work"
)

// Locks are the calls about what attempts have locked.
type Locks interface {
	// Locks returns what is locked, of one repository by its URL or key, or of all.
	Locks(ctx context.Context, repository string) ([]work.Lock, error)
	// ReleaseLocks breaks what an item's attempt has locked, and ends that attempt.
	// It returns work.ErrNotFound when it has locked nothing, and work.ErrInvalid
	// for an ambiguous id.
	ReleaseLocks(ctx context.Context, r control.LockRelease) (control.ReleasedLocks, error)
}

func (h *handler) lockRoutes() []route {
	return []route{
		{http.MethodGet, "/v1/locks", work.RoleRead, h.call(http.StatusOK, h.locks)},
		{http.MethodPost, "/v1/locks/release", work.RoleOperate, h.call(http.StatusOK, h.releaseLocks)},
	}
}

func (h *handler) locks(r *http.Request) (any, error) {
	return h.Service.Locks(r.Context(), r.URL.Query().Get("repository"))
}

func (h *handler) releaseLocks(r *http.Request) (any, error) {
	var release control.LockRelease
	if err := decodeBody(r, &release); err != nil {
		return nil, err
	}
	return h.Service.ReleaseLocks(r.Context(), release)
}

// Locks returns what is locked.
func (c *Client) Locks(ctx context.Context, repository string) (locks []work.Lock, err error) {
	u := c.url("locks")
	if repository != "" {
		u.RawQuery = url.Values{"repository": {repository}}.Encode()
	}
	err = c.call(ctx, c.repeat, http.MethodGet, u, nil, &locks)
	return locks, err
}

// ReleaseLocks breaks what an item's attempt has locked.
func (c *Client) ReleaseLocks(ctx context.Context, r control.LockRelease) (released control.ReleasedLocks, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("locks", "release"), r, &released)
	return released, err
}
