package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// table lists every row.
func table() []row {
	return slices.Concat(reportRows(), forgeRows(), leaderRows(), agentRows(), gitRows(), fenceRows())
}

const (
	minMembers = 3 // rows of a kind
	minOwn     = 2 // of these, found by us
)

// faults are what is wrong with the table itself.
func faults(rows []row) []string {
	var faults []string
	ids, members, own := map[string]bool{}, map[string]int{}, map[string]int{}
	for _, r := range rows {
		if ids[r.ID] {
			faults = append(faults, fmt.Sprintf("table: two rows have the id %s", r.ID))
		}
		ids[r.ID] = true
		members[r.Kind]++
		if r.Own {
			own[r.Kind]++
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(members)) {
		if members[kind] < minMembers || own[kind] < minOwn {
			faults = append(faults, fmt.Sprintf("table: kind %q has %d rows, %d of them our own; it needs %d and %d", kind, members[kind], own[kind], minMembers, minOwn))
		}
	}
	return faults
}

// only returns the rows with these ids, separated by commas; all of them for none.
func only(rows []row, ids string) ([]row, error) {
	if ids == "" {
		return rows, nil
	}
	var chosen []row
	for id := range strings.SplitSeq(ids, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("no row has the id %s", id)
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}
