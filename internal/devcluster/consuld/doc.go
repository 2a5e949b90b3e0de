// Package consuld is an in-process Consul server: the part of the HTTP API that drover uses, wire-compatible with
// Consul 1.14.11, so that consul/api and the consul CLI work against it unchanged.
//
// It is one server and one agent in one value. What the real one spreads over raft, a state store and an agent that
// synchronizes with it is here one state under one mutex:
//
//	catalog, sessions, KV    what the servers hold; every change takes the next raft-like index
//	agent                    services and TTL checks registered here; a change is copied to the catalog in the same step,
//	                         as by an agent with check_update_interval = "0s"
//
// The server starts no goroutine: what happens later (session and check expiry, anti-entropy, reaping) hangs on timers,
// and a blocking query waits in its caller's goroutine. Time comes from package time, so the server runs in a
// testing/synctest bubble when it is reached through Client.
//
// There are no ACLs (tokens are accepted and ignored), no other datacenters, nodes or peers, only TTL and HTTP checks, and only
// KV operations in transactions; what is not there is refused, not imitated. The contract suite in internal/contract
// runs against this server and the real one.
package consuld
