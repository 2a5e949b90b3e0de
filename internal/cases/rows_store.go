package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"drover/internal/work"
)

// storeRows are about what is stored in Consul.
func storeRows() []row {
	return append(storedKeyRows(), storedSizeRows()...)
}

// keyRule is that of Consul 1.21.5 and 1.22.0; later ones refuse segments of two dots still.
var keyRule = regexp.MustCompile(`^[a-zA-Z0-9,_./\-?&=]+$`)

func storedKeyRows() []row {
	const kind = "key that some Consul refuses"
	waits := agent{Script: `until [ -e "$0.go" ]; do sleep 0.1; done; commit one`}
	done := outcome{
		State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one"}, Files: files{"work.txt": "one\n"}, PR: work.PRCreated,
	}
	return []row{
		{ID: "C1", Kind: kind, Agent: waits, Spec: fields{"paths": []string{"src"}}, Meanwhile: lockedByGoodKeys, Right: done},
		{ID: "C1a", Kind: kind, Own: true, Agent: waits, Spec: fields{"paths": []string{"**/*.go", "a file"}}, Meanwhile: lockedByGoodKeys, Right: done},
		{
			ID: "C1b", Kind: kind, Own: true, Agent: agent{Exit: 3},
			Meanwhile: func(ctx context.Context, r *run) error { return r.goodKeys(ctx, "breakers/") },
			Right: outcome{
				State: work.StateFailed, Retries: 3,
				Reasons: reasons(work.ReasonAgentError, work.ReasonAgentError, work.ReasonAgentError, work.ReasonAgentError),
			},
		},
	}
}

func storedSizeRows() []row {
	const kind = "item whose JSON is larger than its text"
	task := func(piece string, n int) fields { return fields{"task": strings.Repeat(piece, n)} }
	return []row{
		{
			ID: "C2", Kind: kind, Agent: agent{Script: "commit one"}, Spec: task("<", 51000),
			Right: outcome{
				State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one"}, Files: files{"work.txt": "one\n"}, PR: work.PRCreated,
			},
		},
		{ID: "C2a", Kind: kind, Own: true, Spec: task("\x01", 51000), Right: outcome{Refused: "bytes as stored"}},
		{ID: "C2b", Kind: kind, Own: true, Spec: task("x\u2028", 32000), Right: outcome{Refused: "bytes as stored"}},
		{ID: "C2c", Kind: kind, Own: true, Spec: fields{"test": fields{"command": strings.Repeat("\x01", 35000)}}, Right: outcome{Refused: "bytes as stored"}},
	}
}

// lockedByGoodKeys lets the agent go on once its paths are locked and the keys were looked at.
func lockedByGoodKeys(ctx context.Context, r *run) error {
	err := r.goodKeys(ctx, "locks/")
	return errors.Join(err, r.script(fmt.Sprintf("touch '%s.go'", r.program())))
}

// goodKeys waits until there is a key of the row's item or repository in a folder, and checks every key by the rule.
func (r *run) goodKeys(ctx context.Context, folder string) error {
	for {
		keys, err := r.keys(ctx)
		if err != nil {
			return err
		}
		found := false
		for _, key := range keys {
			if !keyRule.MatchString(key) || strings.Contains("/"+key+"/", "/../") {
				return fmt.Errorf("key %q is one that some Consul refuses", key)
			}
			found = found || strings.HasPrefix(key, "drover/"+folder) && (strings.Contains(key, r.id+".") || strings.Contains(key, r.name()))
		}
		if found {
			return nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("wait for a key of the row in %s: %w", folder, context.Cause(ctx))
		}
	}
}

// keys returns all keys that drover has stored.
func (r *run) keys(ctx context.Context) (keys []string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.drover.Exports["CONSUL_HTTP_ADDR"]+"/v1/kv/drover/?keys", nil)
	if err != nil {
		return nil, err
	}
	response, err := r.rig.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("list Consul's keys: %w", err)
	}
	defer response.Body.Close()
	return keys, json.NewDecoder(response.Body).Decode(&keys)
}
