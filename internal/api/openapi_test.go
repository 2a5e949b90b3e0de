package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"drover/internal/api"
)

// operation is what the document says of one call.
type operation struct {
	ID       string `json:"operationId"`
	Summary  string
	Role     string `json:"x-role"`
	Security *[]any
}

// TestEveryRouteIsDescribed holds the table of routes against the document, in
// both directions.
func TestEveryRouteIsDescribed(t *testing.T) {
	w := httptest.NewRecorder()
	api.NewHandler(api.Options{Token: "x"}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/openapi.json", nil))
	var document struct {
		OpenAPI string
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || w.Code != http.StatusOK || document.OpenAPI != "3.1.0" {
		t.Fatalf("%d %v %.200s", w.Code, err, w.Body)
	}
	var described, served, ids []string
	for path, methods := range document.Paths {
		for method, text := range methods {
			if method == "parameters" {
				continue
			}
			var op operation
			ok(t, json.Unmarshal(text, &op))
			if op.Summary == "" || op.ID == "" || slices.Contains(ids, op.ID) || (op.Role == "") != (op.Security != nil) {
				t.Errorf("%s %s: %+v", method, path, op)
			}
			ids = append(ids, op.ID)
			described = append(described, fmt.Sprintf("%s %s %s", strings.ToUpper(method), path, op.Role))
		}
	}
	for _, route := range api.Table() {
		served = append(served, fmt.Sprintf("%s %s %s", route.Method, route.Pattern, route.Role))
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described\n%s\nserved\n%s", strings.Join(described, "\n"), strings.Join(served, "\n"))
	}
}
