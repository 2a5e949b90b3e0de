package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// What workers cost Consul so that its UI shows what each of them does.
const (
	// presenceInterval is the shortest time between two registrations of a worker.
	// With the spread, it keeps a change from being seen later than 15 s.
	presenceInterval = 12 * time.Second
	// presenceSpread is the part of the interval over which workers that began
	// together are spread.
	presenceSpread = 5 // a fifth
	// manyWorkers is how many may register that often; presenceRate is how many
	// of more register in a second, together.
	manyWorkers  = 300
	presenceRate = 20
	// A count is good for countInterval, and countPerWorker longer for each worker:
	// its answer grows with them, and so would what all of them ask for.
	countInterval  = 30 * time.Second
	countPerWorker = 300 * time.Millisecond
)

// presence shows in Consul's catalog what a worker does, whatever Consul's
// check_update_interval (5 minutes by default): for so long an agent keeps a check's
// changed output to itself, but it passes a changed registration on at once, with
// the output (1.14.11, agent/local/state.go). So the check is registered again,
// with the time in its notes.
type presence struct {
	client  *Client
	service api.AgentServiceRegistration

	mu       sync.Mutex
	shown    string    // last output that was registered
	next     time.Time // earliest next registration
	workers  int       // as counted last
	recount  time.Time
	complain bool // the last registration went well, so that trouble is news
}

// newPresence returns the presence of a service that is registered. Its first change is shown at once.
func newPresence(c *Client, service api.AgentServiceRegistration) *presence {
	service.Checks = nil // the check of /health stays as it is
	return &presence{client: c, service: service, complain: true}
}

// show registers the service again if there is something new to show, and it is
// time. The worker works as well without.
func (p *presence) show(ctx context.Context, output string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if output == p.shown || now.Before(p.next) {
		return
	}
	p.count(ctx, now)
	check := *p.service.Check
	check.Notes = fmt.Sprintf("%s; as of %s", check.Notes, now.UTC().Format(time.RFC3339))
	service := p.service
	service.Check = &check
	err := p.client.once.Agent().ServiceRegisterOpts(&service, api.ServiceRegisterOpts{}.WithContext(ctx))
	if err == nil {
		p.shown = output
	} else if p.complain && ctx.Err() == nil {
		p.client.log.Warn("Consul's UI does not show what the worker does, trying again", "error", err)
	}
	p.complain = err == nil
	interval := presenceEvery(p.workers)
	p.next = now.Add(interval + rand.N(interval/presenceSpread))
}

// presenceEvery is the time between two registrations of each of so many workers.
func presenceEvery(workers int) time.Duration {
	if workers <= manyWorkers {
		return presenceInterval
	}
	return time.Duration(workers) * time.Second / presenceRate
}

// count counts the workers now and then. It keeps the last count where it can't.
func (p *presence) count(ctx context.Context, now time.Time) {
	if now.Before(p.recount) {
		return
	}
	checks, _, err := p.client.once.Health().Checks(ServiceWorker, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
	if err == nil {
		p.workers = 0
		for _, check := range checks {
			if strings.HasPrefix(check.CheckID, checkPrefix) {
				p.workers++
			}
		}
	}
	p.recount = now.Add(countInterval + time.Duration(p.workers)*countPerWorker)
}
