// Package consul is drover's adapter to Consul: the store of items, the leader
// lock, results and progress, and the worker's side of an attempt (claim,
// heartbeat, session). It is the only production importer of consul/api.
package consul
