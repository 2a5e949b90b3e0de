// Package work is drover's domain: work items, their attempts, the reasons
// attempts end, and the rules that move an item from one state to the next.
// It does no I/O and reads no clock; time comes in as an argument.
package work
