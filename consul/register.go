package consul

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/wait"
	"drover/internal/work"
)

// TagLeader marks the server that leads, in Consul's catalog.
const TagLeader = "leader"

const (
	// healthEvery is how often a server tells Consul how it is.
	healthEvery = 5 * time.Second
	// healthTTL is how long it may be silent about it.
	healthTTL = 30 * time.Second
)

func (t *Term) serviceID() string     { return ServiceServer + "-" + t.who.ID }
func (t *Term) healthCheckID() string { return "drover:health:" + t.who.ID }

// registration is the candidate's service, without its checks: where its API
// answers, and whether it leads.
func (t *Term) registration(leads bool) *api.AgentServiceRegistration {
	reg := &api.AgentServiceRegistration{
		ID: t.serviceID(), Name: ServiceServer, Tags: []string{},
		Meta: map[string]string{"address": t.who.Address, "prefix": t.client.Keys.Prefix(), "version": t.who.Version},
	}
	if leads {
		reg.Tags = append(reg.Tags, TagLeader)
	}
	if u, err := url.Parse(t.who.Address); err == nil {
		host, port, err := net.SplitHostPort(u.Host)
		if number, bad := strconv.Atoi(port); err == nil && bad == nil {
			reg.Address, reg.Port = host, number
		}
	}
	return reg
}

// register enters the candidate with its checks: one is the life of its
// session, the other says how it is.
func (t *Term) register() error {
	reg := t.registration(false)
	reg.Checks = api.AgentServiceChecks{
		{
			CheckID: t.checkID, Name: "drover server", TTL: t.who.TTL.String(), Status: api.HealthPassing,
			Notes: "the server lives; its lock hangs on this", DeregisterCriticalServiceAfter: time.Minute.String(),
		},
		{
			CheckID: t.healthCheckID(), Name: "drover health", TTL: healthTTL.String(), Status: api.HealthPassing,
			Notes: "what the server's /health says",
		},
	}
	err := t.client.repeat.Agent().ServiceRegisterOpts(reg, api.ServiceRegisterOpts{}.WithContext(t.ctx))
	return classify("register server", true, err)
}

// tagLeader marks the service as the leader's. Its checks stay as they are.
func (t *Term) tagLeader() {
	err := t.client.repeat.Agent().ServiceRegisterOpts(t.registration(true), api.ServiceRegisterOpts{}.WithContext(t.ctx))
	if err = classify("tag the leader", true, err); err != nil && t.ctx.Err() == nil {
		t.client.log.Warn("the leader is not tagged in Consul's catalog", "error", err)
	}
}

// tellHealth passes on how the server is, until the term ends.
func (t *Term) tellHealth() {
	for {
		status, output := api.HealthPassing, "ready"
		if err := t.who.Health(t.ctx); err != nil {
			status, output = api.HealthCritical, err.Error()
		}
		err := t.client.repeat.Agent().UpdateTTLOpts(t.healthCheckID(), output, status, (&api.QueryOptions{}).WithContext(t.ctx))
		if err != nil && t.ctx.Err() == nil {
			t.client.log.Debug("health not told to Consul", "error", err)
		}
		if wait.For(t.ctx, healthEvery) != nil {
			return
		}
	}
}

// Server is a drover server as Consul's catalog has it.
type Server struct {
	Address string // URL of its API
	Version string
	Leads   bool
	Healthy bool
}

// Servers returns the servers that share the client's prefix and live, the
// leader first, then those that are well.
// It returns work.ErrUnavailable.
func (c *Client) Servers(ctx context.Context) ([]Server, error) {
	entries, _, err := c.repeat.Health().Service(ServiceServer, "", false, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, classify("look for drover's servers", false, err)
	}
	var servers []Server
	for _, entry := range entries {
		if entry.Service.Meta["prefix"] != c.Keys.Prefix() {
			continue
		}
		s := Server{
			Address: entry.Service.Meta["address"], Version: entry.Service.Meta["version"],
			Leads: slices.Contains(entry.Service.Tags, TagLeader), Healthy: true,
		}
		lives := true
		for _, check := range entry.Checks {
			s.Healthy = s.Healthy && check.Status == api.HealthPassing
			lives = lives && (check.Status == api.HealthPassing || check.CheckID == "drover:health:"+entry.Service.ID[len(ServiceServer)+1:])
		}
		if lives {
			servers = append(servers, s)
		}
	}
	slices.SortStableFunc(servers, func(a, b Server) int { return b.rank() - a.rank() })
	return servers, nil
}

func (s Server) rank() int {
	rank := 0
	if s.Healthy {
		rank++
	}
	if s.Leads {
		rank += 2
	}
	return rank
}

// LeaderAddress returns where to call drover: at the leader, or at a server that
// will pass calls on to it. It returns work.ErrNoLeader where none is registered.
func (c *Client) LeaderAddress(ctx context.Context) (string, error) {
	servers, err := c.Servers(ctx)
	if err == nil && len(servers) == 0 {
		err = fmt.Errorf("no drover server with the prefix %s is registered in Consul: %w", c.Keys.Prefix(), work.ErrNoLeader)
	}
	if err != nil {
		return "", err
	}
	return servers[0].Address, nil
}
