// Package telemetry is how drover is seen from outside: its logs, its metrics
// and its traces. It satisfies the observer ports of those it watches without
// importing them, and keeps nothing in package variables: who makes a value
// hands it on.
package telemetry
