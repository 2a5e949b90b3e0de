// Package nomadd is a one-node Nomad inside this process: the part of Nomad's
// HTTP API that drover and the nomad command's ordinary calls need, with a
// scheduler and a client behind it. It answers as Nomad 2.0.5 does; the suite
// contract.Nomad runs against both and holds it to that.
//
// Known differences: a group has one task; nothing is rescheduled after a
// failure; distinct_hosts, affinities, spreads, periodic jobs, deployments and
// ACLs have no effect; a plan tells only whether the job would change; a Job
// event shows a payload as it was dispatched, where Nomad's is compressed; and
// raw_exec limits memory and processes and reports memory kills, as Docker
// does and Nomad's raw_exec does not.
package nomadd
