package api

import (
	_ "embed"
	"net/http"
	"sync"

	"github.com/goccy/go-yaml"
)

// description is the API's OpenAPI document. Tests hold it against the table of
// routes, and what servers answer against it.
//
//go:embed openapi.yaml
var description []byte

// OpenAPI returns the API's OpenAPI document as JSON.
var OpenAPI = sync.OnceValues(func() ([]byte, error) { return yaml.YAMLToJSON(description) })

func (h *handler) openAPI(w http.ResponseWriter, r *http.Request) {
	document, err := OpenAPI()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	limit(w, callTimeout)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document) // the client has gone; nobody is left to tell
}
