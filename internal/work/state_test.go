package work_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drover/internal/work"
)

// legal is the design's table, written a second time on purpose.
var legal = map[work.State][]work.State{
	work.StateQueued:     {work.StateAssigned, work.StateCancelled, work.StateFailed},
	work.StateAssigned:   {work.StateInProgress, work.StateQueued, work.StateCompleted, work.StateFailed, work.StateStuck, work.StateCancelled},
	work.StateInProgress: {work.StateQueued, work.StateCompleted, work.StateFailed, work.StateStuck, work.StateCancelled},
}

func TestEveryPairOfItemStatesIsLegalOrNamed(t *testing.T) {
	for _, from := range work.States() {
		for _, to := range work.States() {
			checkPair(t, work.CheckTransition(from, to), slices.Contains(legal[from], to), string(from), string(to))
		}
		if from.Terminal() != (len(legal[from]) == 0) {
			t.Errorf("%s: terminal is %v", from, from.Terminal())
		}
	}
}

func TestEveryPairOfAttemptStatesIsLegalOrNamed(t *testing.T) {
	ends := []work.AttemptState{work.AttemptCompleted, work.AttemptFailed, work.AttemptStuck, work.AttemptKilled}
	for _, from := range work.AttemptStates() {
		for _, to := range work.AttemptStates() {
			ok := from == work.AttemptStarting && to == work.AttemptRunning ||
				(from == work.AttemptStarting || from == work.AttemptRunning) && slices.Contains(ends, to)
			checkPair(t, work.CheckAttemptTransition(from, to), ok, string(from), string(to))
		}
	}
}

func checkPair(t *testing.T, err error, ok bool, from, to string) {
	t.Helper()
	switch {
	case ok && err != nil:
		t.Errorf("%s to %s: %v", from, to, err)
	case !ok && !errors.Is(err, work.ErrIllegalTransition):
		t.Errorf("%s to %s: %v, want an illegal transition", from, to, err)
	case !ok && !(strings.Contains(err.Error(), from) && strings.Contains(err.Error(), to)):
		t.Errorf("%s to %s: the error %q does not name both", from, to, err)
	}
}

// TestNoConstantIsForgotten reads the source, so that a new state, reason or
// action can't be missing from its list.
func TestNoConstantIsForgotten(t *testing.T) {
	listed := map[string][]string{
		"State": names(work.States()), "AttemptState": names(work.AttemptStates()),
		"Reason": names(work.Reasons()), "Action": names(work.Actions()),
	}
	declared := constants(t)
	for kind, list := range listed {
		slices.Sort(list)
		slices.Sort(declared[kind])
		if !slices.Equal(list, declared[kind]) {
			t.Errorf("%s: listed %v, declared %v", kind, list, declared[kind])
		}
	}
}

func names[S ~string](values []S) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

func constants(t *testing.T) map[string][]string {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			kind, isIdent := spec.Type.(*ast.Ident)
			literal, isLiteral := spec.Values[0].(*ast.BasicLit)
			if isIdent && isLiteral && literal.Kind == token.STRING {
				value, _ := strconv.Unquote(literal.Value)
				out[kind.Name] = append(out[kind.Name], value)
			}
			return true
		})
	}
	return out
}
