package api

import (
	"context"
	"net/http"

	"drover/internal/control"
	"drover/internal/work"
)

// Queues are the calls about queues.
type Queues interface {
	// Queues returns how every queue stands, by name.
	Queues(ctx context.Context) ([]control.Queue, error)
	// Queue returns one, or work.ErrNotFound.
	Queue(ctx context.Context, name string) (control.Queue, error)
	// SetQueue changes what is stored of a queue, and makes the queue where there
	// is none. It returns work.ErrInvalid.
	SetQueue(ctx context.Context, name string, change control.QueueChange) (control.Queue, error)
	// MoveQueue pauses, drains or resumes a queue.
	// It returns work.ErrNotFound and work.ErrInvalid.
	MoveQueue(ctx context.Context, name string, to control.QueueTransition) (control.Queue, error)
	// DeleteQueue removes a queue. It returns work.ErrNotFound, and
	// work.ErrConflict when it has items left or the configuration declares it.
	DeleteQueue(ctx context.Context, name string) error
}

func (h *handler) queueRoutes() []route {
	return []route{
		{http.MethodGet, "/v1/queues", work.RoleRead, h.call(http.StatusOK, h.queues)},
		{http.MethodGet, "/v1/queues/{name}", work.RoleRead, h.call(http.StatusOK, h.queue)},
		{http.MethodPatch, "/v1/queues/{name}", work.RoleOperate, h.call(http.StatusOK, h.setQueue)},
		{http.MethodPost, "/v1/queues/{name}/state", work.RoleOperate, h.call(http.StatusOK, h.moveQueue)},
		{http.MethodDelete, "/v1/queues/{name}", work.RoleOperate, h.call(http.StatusOK, h.deleteQueue)},
	}
}

func (h *handler) queues(r *http.Request) (any, error) { return h.Service.Queues(r.Context()) }

func (h *handler) queue(r *http.Request) (any, error) {
	return h.Service.Queue(r.Context(), r.PathValue("name"))
}

func (h *handler) setQueue(r *http.Request) (any, error) {
	var change control.QueueChange
	if err := decodeBody(r, &change); err != nil {
		return nil, err
	}
	return h.Service.SetQueue(r.Context(), r.PathValue("name"), change)
}

func (h *handler) moveQueue(r *http.Request) (any, error) {
	var to control.QueueTransition
	if err := decodeBody(r, &to); err != nil {
		return nil, err
	}
	return h.Service.MoveQueue(r.Context(), r.PathValue("name"), to)
}

// deletedQueue is the answer to a deletion.
type deletedQueue struct {
	Name string `json:"name"`
}

func (h *handler) deleteQueue(r *http.Request) (any, error) {
	name := r.PathValue("name")
	return deletedQueue{name}, h.Service.DeleteQueue(r.Context(), name)
}

// Queues returns how every queue stands.
func (c *Client) Queues(ctx context.Context) (queues []control.Queue, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("queues"), nil, &queues)
	return queues, err
}

// Queue returns how a queue stands.
func (c *Client) Queue(ctx context.Context, name string) (q control.Queue, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("queues", name), nil, &q)
	return q, err
}

// SetQueue changes what is stored of a queue.
func (c *Client) SetQueue(ctx context.Context, name string, change control.QueueChange) (q control.Queue, err error) {
	err = c.call(ctx, c.repeat, http.MethodPatch, c.url("queues", name), change, &q)
	return q, err
}

// MoveQueue sets the state of a queue.
func (c *Client) MoveQueue(ctx context.Context, name string, to control.QueueTransition) (q control.Queue, err error) {
	err = c.call(ctx, c.repeat, http.MethodPost, c.url("queues", name, "state"), to, &q)
	return q, err
}

// DeleteQueue removes a queue.
func (c *Client) DeleteQueue(ctx context.Context, name string) error {
	var deleted deletedQueue
	return c.call(ctx, c.once, http.MethodDelete, c.url("queues", name), nil, &deleted)
}
