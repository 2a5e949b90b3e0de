package consuld

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
)

const (
	passing  = "passing"
	warning  = "warning"
	critical = "critical"

	// serfHealth is the check of the node itself.
	serfHealth = "serfHealth"

	missingNodeName    = "Missing node name"
	missingServiceName = "Missing service name"
)

// node is the one node, in Consul's JSON.
type node struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
}

func newNode(name string) node {
	addresses := map[string]string{}
	for _, tag := range []string{"lan", "lan_ipv4", "wan", "wan_ipv4"} {
		addresses[tag] = nodeAddress
	}
	return node{
		ID:              newUUID(),
		Node:            name,
		Address:         nodeAddress,
		Datacenter:      datacenter,
		TaggedAddresses: addresses,
		Meta:            map[string]string{"consul-network-segment": ""},
	}
}

// address is a service's address under a tag.
type address struct {
	Address string
	Port    int
}

type weights struct {
	Passing int
	Warning int
}

// proxy stands for a part of Consul that is not here, in the shape it has when unused.
type proxy struct {
	Mode                string
	MeshGateway, Expose struct{}
}

// nodeService is an instance of a service, in the JSON of /v1/catalog/node and /v1/health/service. Once stored it is
// replaced, never changed.
type nodeService struct {
	ID                string
	Service           string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]address `json:",omitempty"`
	Meta              map[string]string
	Port              int `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	Proxy             proxy
	Connect           struct{}
	PeerName          string
	CreateIndex       uint64
	ModifyIndex       uint64
}

// healthCheck is a check, in Consul's JSON. Once stored it is replaced, never changed.
type healthCheck struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  struct{}
	CreateIndex uint64
	ModifyIndex uint64
}

// catalog is what the servers know of services and checks; the agent feeds it.
type catalog struct {
	services map[string]*nodeService // by id
	checks   map[string]*healthCheck // by id
	index    catalogIndex
}

// catalogIndex has the index of the last change of each part, as Consul keeps them.
type catalogIndex struct {
	nodes, services, checks, sessions uint64
	service                           map[string]uint64 // by service name
	extinction                        uint64            // when a service last lost its last instance
}

func newCatalog() catalog {
	return catalog{
		services: map[string]*nodeService{},
		checks:   map[string]*healthCheck{},
		index:    catalogIndex{service: map[string]uint64{}},
	}
}

// registerSelf enters the server's own node, service and check.
func (s *Server) registerSelf(w *write) {
	s.node.CreateIndex, s.node.ModifyIndex = w.index, w.index
	s.ensureService(w, nodeService{
		ID:      "consul",
		Service: "consul",
		Tags:    []string{},
		Meta:    map[string]string{"version": Version},
		Port:    8300,
		Weights: weights{1, 1},
	})
	s.ensureCheck(w, healthCheck{
		Node:        s.node.Node,
		CheckID:     serfHealth,
		Name:        "Serf Health Status",
		Status:      passing,
		Output:      "Agent alive and reachable",
		ServiceTags: []string{},
	})
}

// ensureService stores a service instance; the same one again is no change.
func (s *Server) ensureService(w *write, svc nodeService) {
	old := s.catalog.services[svc.ID]
	svc.CreateIndex, svc.ModifyIndex = w.index, w.index
	if old != nil {
		svc.CreateIndex = old.CreateIndex
		same := svc
		same.ModifyIndex = old.ModifyIndex
		if reflect.DeepEqual(same, *old) {
			return
		}
	}
	s.catalog.services[svc.ID] = &svc
	s.servicesMoved(w, svc.Service)
}

// ensureCheck stores a check; the same one again is no change. A critical check ends the sessions bound to it.
func (s *Server) ensureCheck(w *write, check healthCheck) {
	if check.Status == critical {
		s.endSessionsOf(w, check.CheckID)
	}
	old := s.catalog.checks[check.CheckID]
	check.CreateIndex, check.ModifyIndex = w.index, w.index
	if old != nil {
		check.CreateIndex = old.CreateIndex
		same := check
		same.ModifyIndex = old.ModifyIndex
		if reflect.DeepEqual(same, *old) {
			return
		}
	}
	s.catalog.checks[check.CheckID] = &check
	s.checkMoved(w, &check)
}

// removeCheck takes a check out of the catalog; the sessions bound to it end.
func (s *Server) removeCheck(w *write, id string) {
	check := s.catalog.checks[id]
	if check == nil {
		return
	}
	delete(s.catalog.checks, id)
	s.checkMoved(w, check)
	s.endSessionsOf(w, id)
}

// removeService takes an instance and its checks out of the catalog.
func (s *Server) removeService(w *write, id string) {
	svc := s.catalog.services[id]
	if svc == nil {
		return
	}
	for _, check := range s.checksWhere(func(c *healthCheck) bool { return c.ServiceID == id }) {
		s.removeCheck(w, check.CheckID)
	}
	delete(s.catalog.services, id)
	s.servicesMoved(w, svc.Service)
	if len(s.instances(svc.Service)) == 0 {
		delete(s.catalog.index.service, svc.Service)
		s.catalog.index.extinction = w.index
	}
}

func (s *Server) servicesMoved(w *write, name string) {
	i := &s.catalog.index
	i.services, i.nodes, i.service[name] = w.index, w.index, w.index
	w.tables[catalogChanged] = true
}

// checkMoved notes a change of a check: of its service's, or, for a check of the node, of every service's.
func (s *Server) checkMoved(w *write, check *healthCheck) {
	i := &s.catalog.index
	i.checks = w.index
	w.tables[catalogChanged] = true
	if check.ServiceID != "" {
		i.service[check.ServiceName] = w.index
		return
	}
	for name := range i.service {
		i.service[name] = w.index
	}
}

// instances lists a service's instances by id.
func (s *Server) instances(name string) []*nodeService {
	var list []*nodeService
	for _, id := range slices.Sorted(maps.Keys(s.catalog.services)) {
		if svc := s.catalog.services[id]; svc.Service == name {
			list = append(list, svc)
		}
	}
	return list
}

// checksWhere lists the checks that are wanted by id, never nil.
func (s *Server) checksWhere(wanted func(*healthCheck) bool) []*healthCheck {
	list := []*healthCheck{}
	for _, id := range slices.Sorted(maps.Keys(s.catalog.checks)) {
		if c := s.catalog.checks[id]; wanted(c) {
			list = append(list, c)
		}
	}
	return list
}

// serviceIndex is the index of what is known of one service: its own while it has instances, afterwards that of the
// last time any service vanished, and before the first such time that of the whole catalog.
func (s *Server) serviceIndex(name string, withChecks bool) uint64 {
	i := &s.catalog.index
	if own, ok := i.service[name]; ok {
		return own
	}
	if i.extinction > 0 {
		return i.extinction
	}
	if withChecks {
		return max(i.nodes, i.services, i.checks)
	}
	return max(i.nodes, i.services)
}

// queryCatalog is query with the header that only catalog and health answers have.
func (s *Server) queryCatalog(w http.ResponseWriter, r *http.Request, look func() (uint64, func() any)) (any, error) {
	w.Header().Set("X-Consul-Effective-Consistency", consistency(r))
	return s.query(w, r, func() view {
		index, body := look()
		return view{index: index, touched: onTable(catalogChanged), body: body}
	})
}

func consistency(r *http.Request) string {
	switch params := r.URL.Query(); {
	case params.Has("consistent"):
		return "consistent"
	case params.Has("stale"):
		return "stale"
	}
	return "leader"
}

func (s *Server) catalogDatacenters(http.ResponseWriter, *http.Request) (any, error) {
	return []string{datacenter}, nil
}

func (s *Server) catalogNodes(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		return s.catalog.index.nodes, func() any { return []node{s.node} }
	})
}

func (s *Server) catalogNode(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/catalog/node/", missingNodeName)
	if err != nil {
		return nil, err
	}
	type nodeServices struct {
		Node     node
		Services map[string]*nodeService
	}
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		if name != s.node.Node {
			return 0, func() any { return (*nodeServices)(nil) }
		}
		return s.catalog.index.nodes, func() any { return &nodeServices{s.node, maps.Clone(s.catalog.services)} }
	})
}

func (s *Server) catalogServices(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		return s.catalog.index.services, func() any {
			tags := map[string][]string{}
			for _, svc := range s.catalog.services {
				if tags[svc.Service] == nil {
					tags[svc.Service] = []string{}
				}
				for _, tag := range svc.Tags {
					if !slices.Contains(tags[svc.Service], tag) {
						tags[svc.Service] = append(tags[svc.Service], tag)
					}
				}
			}
			return tags
		}
	})
}

// catalogEntry is an instance of a service in the JSON of /v1/catalog/service.
type catalogEntry struct {
	ID                       string
	Node                     string
	Address                  string
	Datacenter               string
	TaggedAddresses          map[string]string
	NodeMeta                 map[string]string
	ServiceKind              string
	ServiceID                string
	ServiceName              string
	ServiceTags              []string
	ServiceAddress           string
	ServiceTaggedAddresses   map[string]address `json:",omitempty"`
	ServiceWeights           weights
	ServiceMeta              map[string]string
	ServicePort              int
	ServiceSocketPath        string
	ServiceEnableTagOverride bool
	ServiceProxy             proxy
	ServiceConnect           struct{}
	CreateIndex              uint64
	ModifyIndex              uint64
}

func (s *Server) catalogEntry(svc *nodeService) catalogEntry {
	meta := svc.Meta
	if meta == nil {
		meta = map[string]string{}
	}
	return catalogEntry{
		ID: s.node.ID, Node: s.node.Node, Address: s.node.Address, Datacenter: s.node.Datacenter,
		TaggedAddresses: s.node.TaggedAddresses, NodeMeta: s.node.Meta,
		ServiceID: svc.ID, ServiceName: svc.Service, ServiceTags: svc.Tags, ServiceAddress: svc.Address,
		ServiceTaggedAddresses: svc.TaggedAddresses, ServiceWeights: svc.Weights, ServiceMeta: meta,
		ServicePort: svc.Port, ServiceEnableTagOverride: svc.EnableTagOverride,
		CreateIndex: svc.CreateIndex, ModifyIndex: svc.ModifyIndex,
	}
}

func (s *Server) catalogService(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/catalog/service/", missingServiceName)
	if err != nil {
		return nil, err
	}
	tags := r.URL.Query()["tag"]
	return s.queryCatalog(w, r, func() (uint64, func() any) {
		return s.serviceIndex(name, false), func() any {
			entries := []catalogEntry{}
			for _, svc := range s.instances(name) {
				if svc.hasTags(tags) {
					entries = append(entries, s.catalogEntry(svc))
				}
			}
			return entries
		}
	})
}

func (svc *nodeService) hasTags(tags []string) bool {
	for _, tag := range tags {
		if !slices.Contains(svc.Tags, tag) {
			return false
		}
	}
	return true
}

// catalogDeregister removes what the agent may put back: its next anti-entropy pass restores what it still has.
func (s *Server) catalogDeregister(_ http.ResponseWriter, r *http.Request) (any, error) {
	var gone struct{ Node, ServiceID, CheckID string }
	if err := decodeBody(r, &gone); err != nil {
		return nil, err
	}
	if gone.Node == "" {
		return nil, refusal("Must provide node")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone.Node != s.node.Node {
		return true, nil
	}
	if gone.ServiceID == "" && gone.CheckID == "" {
		return nil, badRequest("the embedded Consul does not deregister its own node %s", gone.Node)
	}
	s.apply(func(w *write) {
		if gone.ServiceID != "" {
			s.removeService(w, gone.ServiceID)
		} else {
			s.removeCheck(w, gone.CheckID)
		}
	})
	return true, nil
}

func unknownID(kind, id string) error {
	return &httpError{http.StatusNotFound, fmt.Sprintf(
		"Unknown %s ID %q. Ensure that the %s ID is passed, not the %s name.", kind, id, kind, kind)}
}
