package consuld

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// antiEntropyInterval is how often the agent puts back into the catalog what others removed there.
const antiEntropyInterval = time.Minute

// Limits of a service's metadata, as in Consul.
const (
	maxMetaPairs      = 64
	maxMetaKeyBytes   = 128
	maxMetaValueBytes = 512
	reservedMetaKeys  = "consul-"
	maxWeight         = 65535
)

// agent is what is registered with this agent, apart from the catalog that it is copied to.
type agent struct {
	services map[string]*nodeService // by id
	checks   map[string]*agentCheck  // by id
}

// serviceDefinition is a service as a client registers it.
type serviceDefinition struct {
	ID                string
	Name              string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]address
	Meta              map[string]string
	Port              int
	Check             *checkDefinition
	Checks            []*checkDefinition
	Weights           *weights
	EnableTagOverride bool

	// Known to Consul, and of no consequence here, or refused.
	Token, Namespace, Partition, SocketPath string
	Kind                                    string
	Proxy, Connect                          any
}

func (s *Server) registerService(_ http.ResponseWriter, r *http.Request) (any, error) {
	var def serviceDefinition
	if err := decodeStrict(r, &def); err != nil {
		return nil, err
	}
	checks, err := def.validate()
	if err != nil {
		return nil, err
	}
	replace := r.URL.Query().Get("replace-existing-checks")
	replaceChecks := r.URL.Query().Has("replace-existing-checks") && (replace == "" || replace == "true")
	svc := def.service()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent.services[svc.ID] = &svc
	keep := map[string]bool{}
	for i, check := range checks {
		id := check.CheckID
		if id == "" {
			id = "service:" + svc.ID
			if len(checks) > 1 {
				id += ":" + strconv.Itoa(i+1)
			}
		}
		keep[id] = true
		s.addServiceCheck(id, &svc, check)
	}
	s.apply(func(w *write) {
		s.ensureService(w, svc)
		for id, check := range s.agent.checks {
			switch {
			case keep[id]:
				s.ensureCheck(w, check.healthCheck)
			case replaceChecks && check.ServiceID == svc.ID:
				s.dropCheck(w, id)
			}
		}
	})
	return nil, nil
}

// validate checks a definition and returns its checks. The texts are Consul's.
func (def *serviceDefinition) validate() ([]*checkDefinition, error) {
	if def.Name == "" {
		return nil, badRequest("Missing service name")
	}
	if ip := net.ParseIP(def.Address); ip != nil && ip.IsUnspecified() {
		return nil, badRequest("Invalid service address")
	}
	if def.Kind != "" || def.Proxy != nil || def.Connect != nil {
		return nil, badRequest("the embedded Consul has no service mesh")
	}
	if fault := weightsFault(def.Weights); fault != "" {
		return nil, badRequest("Invalid Weights: %s", fault)
	}
	if fault := metaFault(def.Meta); fault != "" {
		return nil, badRequest("Invalid Service Meta: %s", fault)
	}
	var checks []*checkDefinition
	if def.Check != nil && !reflect.ValueOf(*def.Check).IsZero() {
		checks = append(checks, def.Check)
	}
	checks = append(checks, def.Checks...)
	for _, check := range checks {
		if fault := check.fault(); fault != "" {
			return nil, badRequest("Invalid check: %s", fault)
		}
		if check.Status != "" && !validStatus(check.Status) {
			return nil, badRequest("Status for checks must 'passing', 'warning', 'critical'")
		}
	}
	return checks, nil
}

// weightsFault says what is wrong with weights, nothing when they are right. nil stands for the default.
func weightsFault(w *weights) string {
	switch {
	case w == nil:
		return ""
	case w.Passing < 1:
		return "Passing must be greater than 0"
	case w.Warning < 0:
		return "Warning must be greater or equal than 0"
	case w.Passing > maxWeight || w.Warning > maxWeight:
		return fmt.Sprintf("DNS Weight must be between 0 and %d", maxWeight)
	}
	return ""
}

func metaFault(meta map[string]string) string {
	if len(meta) > maxMetaPairs {
		return fmt.Sprintf("Node metadata cannot contain more than %d key/value pairs", maxMetaPairs)
	}
	for key, value := range meta {
		if fault := metaPairFault(key, value); fault != "" {
			return fmt.Sprintf("Couldn't load metadata pair ('%s', '%s'): %s", key, value, fault)
		}
	}
	return ""
}

func metaPairFault(key, value string) string {
	switch {
	case key == "":
		return "Key cannot be blank"
	case strings.ContainsFunc(key, func(c rune) bool { return !metaKeyRune(c) }):
		return "Key contains invalid characters"
	case len(key) > maxMetaKeyBytes:
		return fmt.Sprintf("Key is too long (limit: %d characters)", maxMetaKeyBytes)
	case strings.HasPrefix(key, reservedMetaKeys):
		return fmt.Sprintf("Key prefix '%s' is reserved for internal use", reservedMetaKeys)
	case len(value) > maxMetaValueBytes:
		return fmt.Sprintf("Value is too long (limit: %d characters)", maxMetaValueBytes)
	}
	return ""
}

func metaKeyRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// service is the instance a definition stands for, with Consul's defaults.
func (def *serviceDefinition) service() nodeService {
	svc := nodeService{
		ID: def.ID, Service: def.Name, Tags: def.Tags, Address: def.Address, TaggedAddresses: def.TaggedAddresses,
		Meta: def.Meta, Port: def.Port, Weights: weights{1, 1}, EnableTagOverride: def.EnableTagOverride,
	}
	if svc.ID == "" {
		svc.ID = svc.Service
	}
	if svc.Tags == nil {
		svc.Tags = []string{}
	}
	if len(svc.Meta) == 0 {
		svc.Meta = nil
	}
	if def.Weights != nil {
		svc.Weights = *def.Weights
	}
	svc.tagAddresses()
	return svc
}

// tagAddresses enters an IP address as the LAN and WAN address of its family, where none is given.
func (svc *nodeService) tagAddresses() {
	ip := net.ParseIP(svc.Address)
	if ip == nil {
		return
	}
	family := "_ipv6"
	if ip.To4() != nil {
		family = "_ipv4"
	}
	if svc.TaggedAddresses == nil {
		svc.TaggedAddresses = map[string]address{}
	}
	for _, tag := range []string{"lan" + family, "wan" + family} {
		if _, ok := svc.TaggedAddresses[tag]; !ok {
			svc.TaggedAddresses[tag] = address{svc.Address, svc.Port}
		}
	}
}

func (s *Server) deregisterService(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, _ := tail(r, "/v1/agent/service/deregister/", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent.services[id] == nil {
		return nil, unknownID("service", id)
	}
	s.dropService(id)
	return nil, nil
}

// dropService takes a service with its checks off the agent and out of the catalog.
func (s *Server) dropService(id string) {
	delete(s.agent.services, id)
	s.apply(func(w *write) {
		s.removeService(w, id)
		for checkID, check := range s.agent.checks {
			if check.ServiceID == id {
				s.dropCheck(w, checkID)
			}
		}
	})
}

// antiEntropy copies what the agent has to the catalog, where somebody else removed it.
func (s *Server) antiEntropy() {
	s.apply(func(w *write) {
		for _, svc := range s.agent.services {
			s.ensureService(w, *svc)
		}
		for _, check := range s.agent.checks {
			s.ensureCheck(w, check.healthCheck)
		}
	})
}

// agentEntry is a service in the JSON of the agent's endpoints.
type agentEntry struct {
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	TaggedAddresses   map[string]address `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	ContentHash       string `json:",omitempty"`
	Datacenter        string
}

func (svc *nodeService) agentEntry() agentEntry {
	e := agentEntry{
		ID: svc.ID, Service: svc.Service, Tags: svc.Tags, Meta: svc.Meta, Port: svc.Port, Address: svc.Address,
		TaggedAddresses: svc.TaggedAddresses, Weights: svc.Weights, EnableTagOverride: svc.EnableTagOverride,
		Datacenter: datacenter,
	}
	if e.Meta == nil {
		e.Meta = map[string]string{}
	}
	return e
}

func (s *Server) agentServices(http.ResponseWriter, *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := map[string]agentEntry{}
	for id, svc := range s.agent.services {
		entries[id] = svc.agentEntry()
	}
	return entries, nil
}

func (s *Server) agentService(w http.ResponseWriter, r *http.Request) (any, error) {
	id, _ := tail(r, "/v1/agent/service/", "")
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.agent.services[id]
	if svc == nil {
		return nil, &httpError{http.StatusNotFound, "unknown service ID: " + id}
	}
	entry := svc.agentEntry()
	hash, err := contentHash(entry)
	if err != nil {
		return nil, err
	}
	entry.ContentHash = hash
	w.Header().Set("X-Consul-Contenthash", hash)
	return entry, nil
}

func contentHash(e agentEntry) (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("hash service %s: %w", e.ID, err)
	}
	h := fnv.New64a()
	_, _ = h.Write(text) // never fails
	return strconv.FormatUint(h.Sum64(), 16), nil
}

// member is the server as the gossip pool knows it.
type member struct {
	Name        string
	Addr        string
	Port        int
	Tags        map[string]string
	Status      int
	ProtocolMin int
	ProtocolMax int
	ProtocolCur int
	DelegateMin int
	DelegateMax int
	DelegateCur int
}

func (s *Server) member() member {
	return member{
		Name: s.node.Node, Addr: nodeAddress, Port: 8301, Status: 1, // alive
		Tags: map[string]string{
			"acls": "0", "build": Version + ":", "dc": datacenter, "ft_fs": "1", "ft_si": "1", "id": s.node.ID,
			"port": "8300", "raft_vsn": "3", "role": "consul", "segment": "", "vsn": "2", "vsn_max": "3", "vsn_min": "2",
		},
		ProtocolMin: 1, ProtocolMax: 5, ProtocolCur: 2, DelegateMin: 2, DelegateMax: 5, DelegateCur: 4,
	}
}

func (s *Server) agentMembers(_ http.ResponseWriter, r *http.Request) (any, error) {
	if r.URL.Query().Get("wan") != "" {
		return []member(nil), nil
	}
	return []member{s.member()}, nil
}

func (s *Server) agentSelf(http.ResponseWriter, *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type stats map[string]map[string]string
	return struct {
		Config      map[string]any
		DebugConfig map[string]any
		Coord       map[string]any
		Member      member
		Stats       stats
		Meta        map[string]string
	}{
		Config: map[string]any{
			"Datacenter": datacenter, "PrimaryDatacenter": datacenter, "NodeName": s.node.Node, "NodeID": s.node.ID,
			"Revision": "", "Server": true, "Version": Version, "BuildDate": "1970-01-01T00:00:01Z",
		},
		DebugConfig: map[string]any{"ACLsEnabled": false, "CheckUpdateInterval": "0s", "DevMode": true},
		Coord:       map[string]any{"Vec": make([]float64, 8), "Error": 1.5, "Adjustment": 0, "Height": 1e-05},
		Member:      s.member(),
		Stats: stats{
			"agent": {
				"check_monitors": "0", "check_ttls": strconv.Itoa(len(s.agent.checks)),
				"checks": strconv.Itoa(len(s.agent.checks)), "services": strconv.Itoa(len(s.agent.services)),
			},
			"build": {"prerelease": "", "revision": "", "version": Version, "version_metadata": ""},
			"consul": {
				"acl": "disabled", "bootstrap": "false", "known_datacenters": "1", "leader": "true",
				"leader_addr": serverAddress, "server": "true",
			},
			"raft": {"applied_index": strconv.FormatUint(s.index, 10), "num_peers": "0", "state": "Leader"},
		},
		Meta: s.node.Meta,
	}, nil
}
