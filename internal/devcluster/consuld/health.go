package consuld

import (
	"net/http"
	"net/url"
	"strconv"
)

// serviceHealth is an instance with its node and checks, in the JSON of /v1/health/service.
type serviceHealth struct {
	Node    node
	Service *nodeService
	Checks  []*healthCheck
}

func (s *Server) healthService(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/health/service/", missingServiceName)
	if err != nil {
		return nil, err
	}
	params := r.URL.Query()
	onlyPassing, err := passingParam(params)
	if err != nil {
		return nil, err
	}
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		return s.serviceIndex(name, true), func() any { return s.healthOf(name, params["tag"], onlyPassing) }
	})
}

func passingParam(params url.Values) (bool, error) {
	if !params.Has("passing") || params.Get("passing") == "" {
		return params.Has("passing"), nil
	}
	only, err := strconv.ParseBool(params.Get("passing"))
	if err != nil {
		return false, badRequest("Invalid value for ?passing")
	}
	return only, nil
}

func (s *Server) healthOf(name string, tags []string, onlyPassing bool) []serviceHealth {
	list := []serviceHealth{}
	for _, svc := range s.instances(name) {
		// The checks of the node count for each of its services, and come first.
		checks := append(
			s.checksWhere(func(c *healthCheck) bool { return c.ServiceID == "" }),
			s.checksWhere(func(c *healthCheck) bool { return c.ServiceID == svc.ID })...)
		if svc.hasTags(tags) && (!onlyPassing || allPass(checks)) {
			list = append(list, serviceHealth{s.node, svc, checks})
		}
	}
	return list
}

func allPass(checks []*healthCheck) bool {
	for _, c := range checks {
		if c.Status != passing {
			return false
		}
	}
	return true
}

func (s *Server) healthChecks(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/health/checks/", missingServiceName)
	if err != nil {
		return nil, err
	}
	return s.queryChecks(w, r, func(c *healthCheck) bool { return c.ServiceName == name })
}

func (s *Server) healthNode(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/health/node/", missingNodeName)
	if err != nil {
		return nil, err
	}
	return s.queryChecks(w, r, func(c *healthCheck) bool { return c.Node == name })
}

func (s *Server) healthState(w http.ResponseWriter, r *http.Request) (any, error) {
	state, err := tail(r, "/v1/health/state/", "Missing check state")
	if err != nil {
		return nil, err
	}
	return s.queryChecks(w, r, func(c *healthCheck) bool { return state == "any" || c.Status == state })
}

func (s *Server) queryChecks(w http.ResponseWriter, r *http.Request, wanted func(*healthCheck) bool) (any, error) {
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		return s.catalog.index.checks, func() any { return s.checksWhere(wanted) }
	})
}
