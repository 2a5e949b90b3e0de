package consuld

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

const (
	// maxOutputBytes is Consul's check_output_max_size.
	maxOutputBytes = 4096

	// minReapAfter and reapInterval are Consul's check_deregister_interval_min and its check_reap_interval.
	minReapAfter = time.Minute
	reapInterval = 30 * time.Second
)

// checkDefinition is a TTL or HTTP check as a client registers it.
type checkDefinition struct {
	ID        string // in a check's own registration
	CheckID   string // in a service's
	Name      string
	Notes     string
	Status    string
	ServiceID string

	TTL                            duration
	HTTP                           string
	Interval                       duration
	Timeout                        duration
	DeregisterCriticalServiceAfter duration
	OutputMaxSize                  int

	// Other kinds of check, which this agent does not run.
	TCP, UDP, GRPC, H2PING, OSService, AliasNode, AliasService string

	// Known to Consul and of no consequence for a TTL check.
	Token, Namespace, Partition, Shell, Method, Body, TLSServerName     string
	ScriptArgs, DockerContainerID, Header                               any
	DisableRedirects, GRPCUseTLS, TLSSkipVerify, H2PingUseTLS           bool
	SuccessBeforePassing, FailuresBeforeWarning, FailuresBeforeCritical int
}

// duration is a time.Duration that a client writes as "10s" or in nanoseconds.
type duration time.Duration

func (d *duration) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return json.Unmarshal(data, (*int64)(d))
	}
	if text == "" {
		return nil
	}
	parsed, err := time.ParseDuration(text)
	*d = duration(parsed)
	return err
}

// fault says in Consul's words what is wrong with a definition, nothing when it is right. Checks of other kinds
// are refused.
func (def *checkDefinition) fault() string {
	other := def.ScriptArgs != nil || def.TCP+def.UDP+def.GRPC+def.H2PING+def.OSService != ""
	alias := def.AliasNode+def.AliasService != ""
	switch {
	case def.Interval > 0 && def.TTL > 0:
		return "Interval and TTL cannot both be specified"
	case (other || def.HTTP != "") && def.Interval <= 0:
		return "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
	case other || alias:
		return "the embedded Consul runs only TTL and HTTP checks"
	case def.TTL <= 0 && def.HTTP == "":
		return "TTL must be > 0 for TTL checks"
	case def.OutputMaxSize < 0:
		return "MaxOutputMaxSize must be positive"
	}
	return ""
}

func (def *checkDefinition) kind() string {
	if def.HTTP != "" {
		return "http"
	}
	return "ttl"
}

func validStatus(status string) bool {
	return status == passing || status == warning || status == critical
}

// agentCheck is a check that this agent runs.
type agentCheck struct {
	healthCheck
	ttl           time.Duration
	url           string        // of an HTTP check
	interval      time.Duration // of an HTTP check
	timeout       time.Duration // of an HTTP check
	timer         *time.Timer
	lastOutput    string        // reported by the client since registration
	maxOutput     int           // bytes
	reapAfter     time.Duration // 0: the service stays, however long the check is critical
	criticalSince time.Time     // zero: not critical, or not yet said so after registration
}

// addServiceCheck starts a check of a service.
func (s *Server) addServiceCheck(id string, svc *nodeService, def *checkDefinition) {
	check := healthCheck{
		Node: s.node.Node, CheckID: id, Name: def.Name, Status: def.Status, Notes: def.Notes,
		ServiceID: svc.ID, ServiceName: svc.Service, ServiceTags: svc.Tags, Type: def.kind(),
	}
	if check.Name == "" {
		check.Name = fmt.Sprintf("Service '%s' check", svc.Service)
	}
	s.addCheck(check, def)
}

// addCheck starts a check, and its TTL anew. One that is registered again keeps its status and output.
func (s *Server) addCheck(check healthCheck, def *checkDefinition) *agentCheck {
	if check.Status == "" {
		check.Status = critical
	}
	if old := s.agent.checks[check.CheckID]; old != nil {
		s.stop(old.timer)
		check.Status, check.Output = old.Status, old.Output
	}
	c := &agentCheck{
		healthCheck: check, ttl: time.Duration(def.TTL), maxOutput: maxOutputBytes,
		url: def.HTTP, interval: max(minProbeInterval, time.Duration(def.Interval)), timeout: time.Duration(def.Timeout),
	}
	if c.timeout <= 0 {
		c.timeout = defaultProbeTimeout
	}
	if def.OutputMaxSize > 0 {
		c.maxOutput = min(maxOutputBytes, def.OutputMaxSize)
	}
	if after := time.Duration(def.DeregisterCriticalServiceAfter); after > 0 {
		c.reapAfter = max(after, minReapAfter)
	}
	s.agent.checks[check.CheckID] = c
	s.armCheck(c)
	return c
}

func (s *Server) armCheck(c *agentCheck) {
	s.stop(c.timer)
	if c.url != "" {
		s.armProbe(c, true)
		return
	}
	c.timer = s.after(c.ttl, func() {
		output := "TTL expired"
		if c.lastOutput != "" {
			output += " (last output before timeout follows): " + c.lastOutput
		}
		s.setStatus(c, critical, output)
	})
}

// setStatus records a check's state, in the catalog too when it is new.
func (s *Server) setStatus(c *agentCheck, status, output string) {
	switch {
	case status != critical:
		c.criticalSince = time.Time{}
	case c.criticalSince.IsZero():
		c.criticalSince = time.Now()
	}
	if c.Status == status && c.Output == output {
		return
	}
	c.Status, c.Output = status, output
	s.apply(func(w *write) {
		if svc := s.agent.services[c.ServiceID]; svc != nil { // a check goes to the catalog with its service
			s.ensureService(w, *svc)
		}
		s.ensureCheck(w, c.healthCheck)
	})
}

// report is a client's word on a check: it starts the TTL anew.
func (s *Server) report(id, status, output string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.agent.checks[id]
	if c == nil {
		return unknownID("check", id)
	}
	if total := len(output); total > c.maxOutput {
		output = fmt.Sprintf("%s ... (captured %d of %d bytes)", output[:c.maxOutput], c.maxOutput, total)
	}
	s.setStatus(c, status, output)
	c.lastOutput = output
	s.armCheck(c)
	return nil
}

// dropCheck takes a check off the agent and out of the catalog.
func (s *Server) dropCheck(w *write, id string) {
	s.stop(s.agent.checks[id].timer)
	delete(s.agent.checks, id)
	s.removeCheck(w, id)
}

// reapCriticalServices deregisters services with a check that has been critical for too long.
func (s *Server) reapCriticalServices() {
	for _, id := range slices.Sorted(maps.Keys(s.agent.checks)) {
		c := s.agent.checks[id]
		if c == nil || c.ServiceID == "" || c.reapAfter == 0 || c.criticalSince.IsZero() {
			continue
		}
		if time.Since(c.criticalSince) > c.reapAfter {
			s.dropService(c.ServiceID)
		}
	}
}

func (s *Server) agentChecks(http.ResponseWriter, *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	checks := map[string]healthCheck{}
	for id, c := range s.agent.checks {
		checks[id] = c.healthCheck
	}
	return checks, nil
}

func (s *Server) registerCheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	var def checkDefinition
	if err := decodeStrict(r, &def); err != nil {
		return nil, err
	}
	if def.Name == "" {
		return nil, badRequest("Missing check name")
	}
	if def.Status != "" && !validStatus(def.Status) {
		return nil, badRequest("Bad check status")
	}
	if fault := def.fault(); fault != "" {
		return nil, badRequest("Invalid check: %s", fault)
	}
	check := healthCheck{
		Node: s.node.Node, CheckID: def.ID, Name: def.Name, Status: def.Status, Notes: def.Notes,
		ServiceID: def.ServiceID, ServiceTags: []string{}, Type: def.kind(), Interval: time.Duration(def.Interval).String(), Timeout: time.Duration(def.Timeout).String(),
	}
	if check.CheckID == "" {
		check.CheckID = def.Name
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if check.ServiceID != "" {
		svc := s.agent.services[check.ServiceID]
		if svc == nil {
			return nil, &httpError{http.StatusNotFound, fmt.Sprintf("ServiceID %q does not exist", check.ServiceID)}
		}
		check.ServiceName, check.ServiceTags = svc.Service, svc.Tags
	}
	known := s.agent.checks[check.CheckID] != nil
	c := s.addCheck(check, &def)
	if known && c.Status == critical {
		c.criticalSince = time.Now() // unlike a service's check, one registered again on its own is critical from now on
	}
	s.apply(func(w *write) { s.ensureCheck(w, c.healthCheck) })
	return nil, nil
}

func (s *Server) deregisterCheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, _ := tail(r, "/v1/agent/check/deregister/", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent.checks[id] == nil {
		return nil, unknownID("check", id)
	}
	s.apply(func(w *write) { s.dropCheck(w, id) })
	return nil, nil
}

func (s *Server) updateCheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	var news struct{ Status, Output string }
	if err := decodeBody(r, &news); err != nil {
		return nil, err
	}
	if !validStatus(news.Status) {
		return nil, badRequest("Invalid check status: '%s'", news.Status)
	}
	id, _ := tail(r, "/v1/agent/check/update/", "")
	return nil, s.report(id, news.Status, news.Output)
}

// setCheck is the endpoint under a path that sets one status.
func (s *Server) setCheck(path, status string) endpoint {
	return func(_ http.ResponseWriter, r *http.Request) (any, error) {
		id, _ := tail(r, path, "")
		return nil, s.report(id, status, r.URL.Query().Get("note"))
	}
}
