package contract

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// register registers this case's service with one passing TTL check; all bear the case's name. It ends with the case.
func (c *consulUser) register(ttl time.Duration, options ...func(*api.AgentServiceRegistration)) {
	c.Helper()
	service := &api.AgentServiceRegistration{
		ID: c.name, Name: c.name, Tags: []string{"tag"}, Meta: map[string]string{"item": "1"}, Port: 4100,
		Check: &api.AgentServiceCheck{
			CheckID: c.name, Name: "heartbeat", TTL: ttl.String(), Status: api.HealthPassing, Notes: "attempt 1",
		},
	}
	for _, option := range options {
		option(service)
	}
	c.must(c.api.Agent().ServiceRegister(service), "register service")
	c.Cleanup(func() {
		// A case may have deregistered it already.
		if err := c.api.Agent().ServiceDeregister(service.ID); err != nil && c.agentHas(service.ID) {
			c.Errorf("clean up service: %v", err)
		}
	})
}

func (c *consulUser) agentHas(service string) bool {
	services, err := c.api.Agent().Services()
	if err != nil {
		c.Errorf("list services of the agent: %v", err)
	}
	return services[service] != nil
}

func (c *consulUser) update(status, output string) {
	c.Helper()
	c.must(c.api.Agent().UpdateTTLOpts(c.name, output, status, c.query()), "update check")
}

// agentCheck is this case's check as its agent has it.
func (c *consulUser) agentCheck() *api.AgentCheck {
	c.Helper()
	checks, err := c.api.Agent().Checks()
	c.must(err, "list checks of the agent")
	check := checks[c.name]
	if check == nil {
		c.Fatalf("the agent has no check %s", c.name)
	}
	return check
}

// catalogCheck is this case's check as the catalog has it.
func (c *consulUser) catalogCheck() *api.HealthCheck {
	c.Helper()
	checks, _, err := c.api.Health().Checks(c.name, c.query())
	c.must(err, "list checks of the service")
	if len(checks) != 1 {
		c.Fatalf("the catalog has %d checks of %s, want 1", len(checks), c.name)
	}
	return checks[0]
}

// instances lists this case's service's instances with their health.
func (c *consulUser) instances(onlyPassing bool) []*api.ServiceEntry {
	c.Helper()
	entries, _, err := c.api.Health().Service(c.name, "", onlyPassing, c.query())
	c.must(err, "health of the service")
	return entries
}

// healthy serves a health page and returns its address, and what changes its answer.
func (c *consulUser) healthy() (address string, answer *atomic.Int32) {
	c.Helper()
	answer = &atomic.Int32{}
	answer.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(answer.Load()))
		fmt.Fprint(w, "as asked")
	}))
	c.Cleanup(server.Close)
	return server.URL + "/health", answer
}

// withHealth adds an HTTP check of the address to the TTL check.
func withHealth(c *consulUser, address string) func(*api.AgentServiceRegistration) {
	return func(r *api.AgentServiceRegistration) {
		r.Check.Status = api.HealthPassing
		r.Checks = api.AgentServiceChecks{{CheckID: c.name + ":health", Name: "health", HTTP: address, Interval: "1s", Timeout: "1s"}}
	}
}

// healthCheck is the HTTP check of this case's service, as the catalog has it.
func (c *consulUser) healthCheck() *api.HealthCheck {
	c.Helper()
	checks, _, err := c.api.Health().Checks(c.name, c.query())
	c.must(err, "list checks of the service")
	for _, check := range checks {
		if check.CheckID == c.name+":health" {
			return check
		}
	}
	c.Fatalf("the catalog has no health check of %s", c.name)
	return nil
}

// withoutStatus registers the check with the status that a registration has by default.
func withoutStatus(r *api.AgentServiceRegistration) { r.Check.Status = "" }

var checkCases = []consulCase{
	{"a check is critical until it is said to pass", func(c *consulUser) {
		c.register(time.Minute, withoutStatus)
		is(c, "status", c.catalogCheck().Status, api.HealthCritical)
		c.update(api.HealthPassing, "")
		is(c, "status", c.catalogCheck().Status, api.HealthPassing)
	}},
	{"a check is shown as it was registered", func(c *consulUser) {
		c.register(time.Minute)
		check := c.catalogCheck()
		is(c, "id", check.CheckID, c.name)
		is(c, "name", check.Name, "heartbeat")
		is(c, "notes", check.Notes, "attempt 1")
		is(c, "type", check.Type, "ttl")
		is(c, "service id", check.ServiceID, c.name)
		is(c, "service name", check.ServiceName, c.name)
		is(c, "service tags", fmt.Sprint(check.ServiceTags), "[tag]")
		is(c, "node", check.Node, c.node())
		is(c, "the agent's status", c.agentCheck().Status, api.HealthPassing)
	}},
	{"an HTTP check is run, and says what was answered", func(c *consulUser) {
		address, answer := c.healthy()
		c.register(time.Minute, withHealth(c, address))
		is(c, "status before the first answer", c.healthCheck().Status, api.HealthCritical)
		is(c, "type", c.healthCheck().Type, "http")
		for status, code := range map[string]int32{
			api.HealthPassing: http.StatusOK, api.HealthWarning: http.StatusTooManyRequests, api.HealthCritical: http.StatusServiceUnavailable,
		} {
			answer.Store(code)
			c.eventually(func() bool { return c.healthCheck().Status == status })
			want := fmt.Sprintf("HTTP GET %s: %d %s Output: as asked", address, code, http.StatusText(int(code)))
			c.eventually(func() bool { return c.healthCheck().Output == want })
		}
	}},
	{"a session bound to the TTL check outlives a failing HTTP check", func(c *consulUser) {
		address, answer := c.healthy()
		c.register(time.Minute, withHealth(c, address))
		id, _, err := c.api.Session().Create(&api.SessionEntry{TTL: "60s", Behavior: api.SessionBehaviorDelete, ServiceChecks: []api.ServiceCheck{{ID: c.name}}}, c.write())
		c.must(err, "create a session")
		c.eventually(func() bool { return c.healthCheck().Status == api.HealthPassing })
		answer.Store(http.StatusServiceUnavailable)
		c.eventually(func() bool { return c.healthCheck().Status == api.HealthCritical })
		info, _, err := c.api.Session().Info(id, c.query())
		c.must(err, "read the session")
		is(c, "the session is there", info != nil, true)
		_, err = c.api.Session().Destroy(id, c.write())
		c.must(err, "destroy the session")
	}},
	{"an update's output and status show at once", func(c *consulUser) {
		c.register(time.Minute)
		for _, update := range []struct{ status, output string }{
			{api.HealthPassing, "iteration 1"},
			{api.HealthPassing, "iteration 2"},
			{api.HealthWarning, "iteration 2"},
			{api.HealthCritical, "no more"},
		} {
			c.update(update.status, update.output)
			is(c, "the agent's output", c.agentCheck().Output, update.output)
			// The servers have it an instant later when only the output changed.
			c.eventually(func() bool { return c.catalogCheck().Output == update.output })
			is(c, "status", c.catalogCheck().Status, update.status)
		}
	}},
	{"an update that says the same moves nothing", func(c *consulUser) {
		c.register(time.Minute)
		c.update(api.HealthPassing, "iteration 1")
		c.eventually(func() bool { return c.catalogCheck().Output == "iteration 1" })
		at := c.catalogCheck().ModifyIndex
		c.update(api.HealthPassing, "iteration 1")
		is(c, "modify index", c.catalogCheck().ModifyIndex, at)
	}},
	{"pass, warn and fail set the status, with a note", func(c *consulUser) {
		c.register(time.Minute)
		for _, set := range []struct {
			verb, status string
		}{{"warn", api.HealthWarning}, {"fail", api.HealthCritical}, {"pass", api.HealthPassing}} {
			_, err := c.api.Raw().Write("/v1/agent/check/"+set.verb+"/"+c.name, nil, nil, c.write())
			c.must(err, set.verb)
			is(c, "status", c.catalogCheck().Status, set.status)
		}
	}},
	{"a check that is not updated for its TTL is critical, and keeps its last output", func(c *consulUser) {
		c.register(time.Second)
		c.update(api.HealthPassing, "iteration 7, running tests")
		c.eventually(func() bool { return c.catalogCheck().Status == api.HealthCritical })
		is(c, "output", c.catalogCheck().Output, "TTL expired (last output before timeout follows): iteration 7, running tests")
	}},
	{"a check that was never updated says only that", func(c *consulUser) {
		c.register(time.Second)
		c.eventually(func() bool { return c.catalogCheck().Status == api.HealthCritical })
		is(c, "output", c.catalogCheck().Output, "TTL expired")
	}},
	{"updates keep a check alive past its TTL", func(c *consulUser) {
		const ttl = time.Second
		c.register(ttl)
		began := time.Now()
		c.eventually(func() bool {
			c.update(api.HealthPassing, "alive")
			return time.Since(began) > 2*ttl
		})
		is(c, "status", c.catalogCheck().Status, api.HealthPassing)
	}},
	{"an expired check comes back with an update", func(c *consulUser) {
		c.register(time.Second)
		c.eventually(func() bool { return c.catalogCheck().Status == api.HealthCritical })
		c.update(api.HealthPassing, "back")
		is(c, "status", c.catalogCheck().Status, api.HealthPassing)
	}},
	{"a service registered again keeps its check's status", func(c *consulUser) {
		c.register(time.Minute, withoutStatus)
		c.update(api.HealthWarning, "careful")
		c.register(time.Minute)
		is(c, "status", c.catalogCheck().Status, api.HealthWarning)
		is(c, "output", c.catalogCheck().Output, "careful")
	}},
	{"a service registered again with one of its checks keeps the other and the session, and shows the check's new notes", func(c *consulUser) {
		address, _ := c.healthy()
		c.register(time.Minute, withHealth(c, address))
		session := c.boundSession()
		c.update(api.HealthWarning, "careful")
		c.register(time.Minute, func(r *api.AgentServiceRegistration) { r.Check.Notes = "as of now" })
		checks, _, err := c.api.Health().Checks(c.name, c.query())
		c.must(err, "list checks of the service")
		is(c, "checks", len(checks), 2)
		for _, check := range checks {
			if check.CheckID == c.name {
				is(c, "status", check.Status, api.HealthWarning)
				is(c, "output", check.Output, "careful")
				is(c, "notes", check.Notes, "as of now")
			}
		}
		is(c, "session exists", c.sessionExists(session), true)
	}},
	{"a node's check stands alone", func(c *consulUser) {
		err := c.api.Agent().CheckRegister(&api.AgentCheckRegistration{
			ID: c.name, Name: "node check", AgentServiceCheck: api.AgentServiceCheck{TTL: "1m", Status: api.HealthPassing},
		})
		c.must(err, "register check")
		c.Cleanup(func() { c.must(c.api.Agent().CheckDeregister(c.name), "clean up check") })
		checks, _, err := c.api.Health().Node(c.node(), c.query())
		c.must(err, "checks of the node")
		is(c, "in the node's checks", slices.ContainsFunc(checks, c.isThisCheck), true)
	}},
	{"a check is found by its state", func(c *consulUser) {
		c.register(time.Minute)
		for _, status := range []string{api.HealthWarning, api.HealthCritical, api.HealthPassing} {
			c.update(status, "")
			for state, want := range map[string]bool{
				api.HealthPassing: status == api.HealthPassing, api.HealthWarning: status == api.HealthWarning,
				api.HealthCritical: status == api.HealthCritical, api.HealthAny: true,
			} {
				checks, _, err := c.api.Health().State(state, c.query())
				c.must(err, "checks by state")
				is(c, status+" check in "+state, slices.ContainsFunc(checks, c.isThisCheck), want)
			}
		}
	}},
	{"a check of an unknown service is refused", func(c *consulUser) {
		err := c.api.Agent().CheckRegister(&api.AgentCheckRegistration{
			Name: c.name, ServiceID: "no-such-service", AgentServiceCheck: api.AgentServiceCheck{TTL: "1m"},
		})
		c.refused(err, 404, `ServiceID "no-such-service" does not exist`)
	}},
}

func (c *consulUser) isThisCheck(check *api.HealthCheck) bool { return check.CheckID == c.name }

var catalogCases = []consulCase{
	{"a service is shown as it was registered", func(c *consulUser) {
		c.register(time.Minute, func(r *api.AgentServiceRegistration) { r.Address = "10.1.2.3" })
		entries := c.instances(false)
		is(c, "instances", len(entries), 1)
		service := entries[0].Service
		is(c, "id", service.ID, c.name)
		is(c, "name", service.Service, c.name)
		is(c, "tags", fmt.Sprint(service.Tags), "[tag]")
		is(c, "meta", fmt.Sprint(service.Meta), "map[item:1]")
		is(c, "port", service.Port, 4100)
		is(c, "address", service.Address, "10.1.2.3")
		is(c, "tagged address", service.TaggedAddresses["lan_ipv4"], api.ServiceAddress{Address: "10.1.2.3", Port: 4100})
		is(c, "weights", service.Weights, api.AgentWeights{Passing: 1, Warning: 1})
		is(c, "node", entries[0].Node.Node, c.node())
		is(c, "datacenter", entries[0].Node.Datacenter, "dc1")
	}},
	{"a service's health has the node's checks first", func(c *consulUser) {
		c.register(time.Minute)
		checks := c.instances(false)[0].Checks
		is(c, "first check", checks[0].CheckID, "serfHealth")
		is(c, "last check", checks[len(checks)-1].CheckID, c.name)
	}},
	{"only instances with all checks passing pass", func(c *consulUser) {
		c.register(time.Minute)
		for status, want := range map[string]int{api.HealthPassing: 1, api.HealthWarning: 0, api.HealthCritical: 0} {
			c.update(status, "")
			is(c, "passing instances when "+status, len(c.instances(true)), want)
			is(c, "instances when "+status, len(c.instances(false)), 1)
		}
	}},
	{"a service has many instances, by tag too", func(c *consulUser) {
		c.register(time.Minute)
		c.register(time.Minute, func(r *api.AgentServiceRegistration) {
			r.ID, r.Tags, r.Check.CheckID = c.name+"-2", []string{"other"}, c.name+"-2"
		})
		is(c, "instances", len(c.instances(false)), 2)
		tagged, _, err := c.api.Health().Service(c.name, "other", false, c.query())
		c.must(err, "health of the service")
		is(c, "tagged instances", len(tagged), 1)
		is(c, "tagged instance", tagged[0].Service.ID, c.name+"-2")
	}},
	{"the catalog lists services with the tags of all instances", func(c *consulUser) {
		c.register(time.Minute)
		services, _, err := c.api.Catalog().Services(c.query())
		c.must(err, "list services")
		is(c, "tags", fmt.Sprint(services[c.name]), "[tag]")
		if _, ok := services["consul"]; !ok {
			c.Error("the catalog does not list consul")
		}
	}},
	{"the catalog has a service's instances", func(c *consulUser) {
		c.register(time.Minute)
		entries, _, err := c.api.Catalog().Service(c.name, "", c.query())
		c.must(err, "instances of the service")
		is(c, "instances", len(entries), 1)
		is(c, "id", entries[0].ServiceID, c.name)
		is(c, "port", entries[0].ServicePort, 4100)
		is(c, "meta", fmt.Sprint(entries[0].ServiceMeta), "map[item:1]")
		is(c, "node", entries[0].Node, c.node())
	}},
	{"the catalog has nodes and what runs on them", func(c *consulUser) {
		c.register(time.Minute)
		nodes, _, err := c.api.Catalog().Nodes(c.query())
		c.must(err, "list nodes")
		is(c, "node", nodes[0].Node, c.node())
		node, _, err := c.api.Catalog().Node(c.node(), c.query())
		c.must(err, "services of the node")
		is(c, "port", node.Services[c.name].Port, 4100)
		none, _, err := c.api.Catalog().Node("no-such-node", c.query())
		c.must(err, "services of no node")
		if none != nil {
			c.Errorf("got %v", none)
		}
		datacenters, err := c.api.Catalog().Datacenters()
		c.must(err, "list datacenters")
		is(c, "datacenters", fmt.Sprint(datacenters), "[dc1]")
	}},
	{"an unknown service has no instances", func(c *consulUser) {
		is(c, "instances", len(c.instances(false)), 0)
	}},
	{"a deregistered service is gone with its check", func(c *consulUser) {
		c.register(time.Minute)
		c.must(c.api.Agent().ServiceDeregister(c.name), "deregister service")
		is(c, "instances", len(c.instances(false)), 0)
		checks, _, err := c.api.Health().Checks(c.name, c.query())
		c.must(err, "checks of the service")
		is(c, "checks", len(checks), 0)
		is(c, "on the agent", c.agentHas(c.name), false)
	}},
	{"a service taken out of the catalog is still the agent's, and comes back with its check's next update", func(c *consulUser) {
		c.register(time.Minute)
		_, err := c.api.Catalog().Deregister(&api.CatalogDeregistration{Node: c.node(), ServiceID: c.name}, c.write())
		c.must(err, "deregister from the catalog")
		is(c, "instances", len(c.instances(false)), 0)
		is(c, "on the agent", c.agentHas(c.name), true)
		c.update(api.HealthWarning, "still here")
		c.eventually(func() bool { return len(c.instances(false)) == 1 })
	}},
	{"taking what is unknown out of the catalog succeeds", func(c *consulUser) {
		_, err := c.api.Catalog().Deregister(&api.CatalogDeregistration{Node: c.node(), ServiceID: c.name}, c.write())
		c.must(err, "deregister from the catalog")
		_, err = c.api.Catalog().Deregister(&api.CatalogDeregistration{Node: "no-such-node"}, c.write())
		c.must(err, "deregister an unknown node")
	}},
	{"the agent knows its services", func(c *consulUser) {
		c.register(time.Minute)
		service, meta, err := c.api.Agent().Service(c.name, c.query())
		c.must(err, "service of the agent")
		is(c, "name", service.Service, c.name)
		is(c, "datacenter", service.Datacenter, "dc1")
		if meta.LastContentHash == "" || meta.LastContentHash != service.ContentHash {
			c.Errorf("content hash %q in the header, %q in the body", meta.LastContentHash, service.ContentHash)
		}
		_, _, err = c.api.Agent().Service("no-such-service", c.query())
		c.refused(err, 404, "unknown service ID: no-such-service")
	}},
	{"a reader of a service's health waits for its checks", func(c *consulUser) {
		c.register(time.Minute)
		answer := c.waitForHealth(func(entries []*api.ServiceEntry) bool {
			return entries[0].Checks.AggregatedStatus() == api.HealthCritical
		})
		c.atLeast(<-answer.after(func() { c.update(api.HealthCritical, "") }), c.catalogCheck().ModifyIndex)
	}},
	{"a reader of a service's health waits for its last instance to go", func(c *consulUser) {
		c.register(time.Minute)
		at := c.catalogCheck().ModifyIndex
		answer := c.waitForHealth(func(entries []*api.ServiceEntry) bool { return len(entries) == 0 })
		c.atLeast(<-answer.after(func() { c.must(c.api.Agent().ServiceDeregister(c.name), "deregister service") }), at+1)
	}},
	{"a reader of a service's health waits for its first instance", func(c *consulUser) {
		answer := c.waitForHealth(func(entries []*api.ServiceEntry) bool { return len(entries) == 1 })
		c.atLeast(<-answer.after(func() { c.register(time.Minute) }), c.catalogCheck().ModifyIndex)
	}},
	{"the server says who it is", func(c *consulUser) {
		self, err := c.api.Agent().Self()
		c.must(err, "agent self")
		is(c, "datacenter", fmt.Sprint(self["Config"]["Datacenter"]), "dc1")
		is(c, "version", fmt.Sprint(self["Config"]["Version"]), "1.14.11")
		is(c, "server", fmt.Sprint(self["Config"]["Server"]), "true")
		members, err := c.api.Agent().Members(false)
		c.must(err, "members")
		is(c, "member", members[0].Name, c.node())
		is(c, "status", members[0].Status, 1)
		leader, err := c.api.Status().Leader()
		c.must(err, "leader")
		peers, err := c.api.Status().Peers()
		c.must(err, "peers")
		is(c, "peer", fmt.Sprint(peers), "["+leader+"]")
	}},
}

var errorCases = []consulCase{
	{"an unknown route is 404", func(c *consulUser) {
		_, err := c.api.Raw().Query("/v1/no-such-route", nil, c.query())
		c.refused(err, 404, "Invalid URL path: not a recognized HTTP API endpoint")
		_, err = c.api.Raw().Query("/no-such-route", nil, c.query())
		c.refused(err, 404, "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'")
	}},
	{"a wrong method is 405", func(c *consulUser) {
		_, err := c.api.Raw().Write("/v1/agent/self", nil, nil, c.write())
		c.refused(err, 405, "method PUT not allowed")
	}},
	{"an unprintable path is 400", func(c *consulUser) {
		_, err := c.api.Raw().Query("/v1/kv/a\x01b", nil, c.query())
		c.refused(err, 400, "")
	}},
	{"a missing name is 400", func(c *consulUser) {
		for path, text := range map[string]string{
			"/v1/kv/":              "Missing key name",
			"/v1/session/info/":    "Missing session",
			"/v1/session/node/":    "Missing node name",
			"/v1/health/service/":  "Missing service name",
			"/v1/health/checks/":   "Missing service name",
			"/v1/health/node/":     "Missing node name",
			"/v1/health/state/":    "Missing check state",
			"/v1/catalog/service/": "Missing service name",
			"/v1/catalog/node/":    "Missing node name",
		} {
			_, err := c.api.Raw().Query(path, nil, c.query())
			c.refused(err, 400, text)
		}
	}},
	{"stale and consistent at once is 400", func(c *consulUser) {
		_, _, err := c.api.KV().Get(c.key("a"), (&api.QueryOptions{AllowStale: true, RequireConsistent: true}).WithContext(c.Context()))
		c.refused(err, 400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
	}},
	{"another datacenter is 500", func(c *consulUser) {
		_, _, err := c.api.KV().Get(c.key("a"), (&api.QueryOptions{Datacenter: "elsewhere"}).WithContext(c.Context()))
		c.refused(err, 500, "No path to datacenter")
	}},
	{"an unknown check is 404", func(c *consulUser) {
		const text = `Unknown check ID "no-such-check". Ensure that the check ID is passed, not the check name.`
		c.refused(c.api.Agent().UpdateTTLOpts("no-such-check", "", api.HealthPassing, c.query()), 404, text)
		c.refused(c.api.Agent().CheckDeregister("no-such-check"), 404, text)
	}},
	{"an unknown service is 404", func(c *consulUser) {
		c.refused(c.api.Agent().ServiceDeregister("no-such-service"), 404,
			`Unknown service ID "no-such-service". Ensure that the service ID is passed, not the service name.`)
	}},
	{"a bad check status is 400", func(c *consulUser) {
		_, err := c.api.Raw().Write("/v1/agent/check/update/any", map[string]string{"Status": "fine"}, nil, c.write())
		c.refused(err, 400, "Invalid check status: 'fine'")
	}},
	{"a bad registration is 400", func(c *consulUser) {
		for text, body := range map[string]map[string]any{
			"Missing service name":                                                                            {"ID": c.name},
			"Invalid service address":                                                                         {"Name": c.name, "Address": "0.0.0.0"},
			"Invalid check: Interval and TTL cannot both be specified":                                        {"Name": c.name, "Check": map[string]any{"TTL": "1s", "Interval": "1s"}},
			"Invalid check: TTL must be > 0 for TTL checks":                                                   {"Name": c.name, "Check": map[string]any{"Name": "x"}},
			"Status for checks must 'passing', 'warning', 'critical'":                                         {"Name": c.name, "Check": map[string]any{"TTL": "1s", "Status": "fine"}},
			`Request decode failed: time: invalid duration "soon"`:                                            {"Name": c.name, "Check": map[string]any{"TTL": "soon"}},
			`Request decode failed: json: unknown field "Unheard"`:                                            {"Name": c.name, "Unheard": 1},
			"Invalid Weights: Passing must be greater than 0":                                                 {"Name": c.name, "Weights": map[string]any{"Passing": -1}},
			"Invalid Service Meta: Couldn't load metadata pair ('a b', '1'): Key contains invalid characters": {"Name": c.name, "Meta": map[string]string{"a b": "1"}},
		} {
			_, err := c.api.Raw().Write("/v1/agent/service/register", body, nil, c.write())
			c.refused(err, 400, text)
		}
	}},
	{"a bad session is 500", func(c *consulUser) {
		for text, entry := range map[string]*api.SessionEntry{
			"Invalid Behavior setting 'keep'":         {Behavior: "keep"},
			"apply failed: Missing node registration": {Node: "no-such-node"},
		} {
			_, _, err := c.api.Session().Create(entry, c.write())
			c.refused(err, 500, text)
		}
	}},
	{"a session that does not parse is 400", func(c *consulUser) {
		_, err := c.api.Raw().Write("/v1/session/create", map[string]string{"LockDelay": "soon"}, nil, c.write())
		c.refused(err, 400, `Request decode failed: time: invalid duration "soon"`)
	}},
	{"a transaction that does not parse is 400", func(c *consulUser) {
		_, err := c.api.Raw().Write("/v1/txn", []any{map[string]any{"KV": map[string]string{"Verb": "set", "Key": c.key("a"), "Value": "!"}}}, nil, c.write())
		c.refused(err, 400, "Failed to parse body: illegal base64 data at input byte 0")
	}},
	{"a deregistration without a node is 500", func(c *consulUser) {
		_, err := c.api.Catalog().Deregister(&api.CatalogDeregistration{ServiceID: c.name}, c.write())
		c.refused(err, 500, "Must provide node")
	}},
}

// waitForHealth reads this case's service's health, again and again, until it is as wanted. A change of the node's
// checks, or of other services when this one has no instance, may end one wait; that is no news.
func (c *consulUser) waitForHealth(wanted func([]*api.ServiceEntry) bool) pending {
	c.Helper()
	_, meta, err := c.api.Health().Service(c.name, "", false, c.query())
	c.must(err, "health of the service")
	return c.inBackground(func() (uint64, error) {
		for at := meta.LastIndex; ; {
			entries, meta, err := c.api.Health().Service(c.name, "", false, c.after(at, longWait))
			if err != nil {
				return 0, err
			}
			if at = meta.LastIndex; wanted(entries) {
				return at, nil
			}
		}
	})
}
