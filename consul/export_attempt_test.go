package consul

import (
	"context"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// WorkerServices returns every worker's service as the catalog has it.
func (c *Client) WorkerServices(ctx context.Context) ([]*api.ServiceEntry, error) {
	entries, _, err := c.once.Health().Service(ServiceWorker, "", false, consistent(ctx))
	return entries, err
}

// AdvertiseHealth sets where the workers' /health is.
func (c *Client) AdvertiseHealth(address string) { c.health = address }

// ForgetWorker has Consul's agent forget a worker's service and check.
func (c *Client) ForgetWorker(ctx context.Context, a work.AttemptID, allocation string) error {
	return c.once.Agent().ServiceDeregisterOpts(workerServiceID(a, allocation), (&api.QueryOptions{}).WithContext(ctx))
}

// AgentOutput returns what a worker's check shows at its agent; the catalog may have it minutes later.
func (c *Client) AgentOutput(ctx context.Context, a work.AttemptID, allocation string) (string, error) {
	checks, err := c.once.Agent().ChecksWithFilterOpts("", (&api.QueryOptions{}).WithContext(ctx))
	if check := checks[workerCheckID(a, allocation)]; check != nil {
		return check.Output, err
	}
	return "", err
}
