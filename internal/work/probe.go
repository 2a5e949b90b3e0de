package work

// Probe is the payload of the doctor's job: what a worker tries where workers
// run. It holds no secret: the probe takes those of the workers.
type Probe struct {
	Name         string   `json:"name"` // of what the probe makes in Consul, unique
	KVPrefix     string   `json:"kv_prefix,omitempty"`
	Repositories []string `json:"repositories,omitempty"` // URLs to read and to check push access to
	Forge        string   `json:"forge,omitempty"`        // provider whose token is tried; none if empty
	APIURL       string   `json:"api_url,omitempty"`      // of the forge; its public one if empty
	SecretsPath  string   `json:"secrets_path,omitempty"` // Nomad variable that advice names
}

// MaxProbeRepositories bounds the repositories of a Probe: its payload has a limit,
// and the probe asks all of them at once.
const MaxProbeRepositories = 20

// CheckVersion is the check of the finding in which a probe states the worker's
// version. It comes first.
const CheckVersion = "version"

// FindingStatus is the result of an examination.
type FindingStatus string

// Results of an examination.
const (
	FindingOK      FindingStatus = "ok"
	FindingWarning FindingStatus = "warning" // drover works, but not as well as it could
	FindingFailure FindingStatus = "failure" // drover, or a part of it, does not work
	FindingSkipped FindingStatus = "skipped" // not examined
)

// Finding is what one examination found. A probe prints each as a line of JSON.
type Finding struct {
	Check  string        `json:"check"`
	Status FindingStatus `json:"status"`
	Says   string        `json:"says"`
	Do     string        `json:"do,omitempty"` // advice to the operator
}
