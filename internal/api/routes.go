package api

import (
	"fmt"
	"net/http"
	"slices"

	"drover/internal/control"
	"drover/internal/work"
)

// route is one call of the API. A new one is added to a table below, and to
// openapi.yaml; tests hold the two against each other, and every route against
// every role.
type route struct {
	method  string
	pattern string
	role    work.Role // the least that may call it; open to all if empty
	handler http.Handler
}

// table is every call of the API.
func (h *handler) table() []route {
	return slices.Concat(h.itemRoutes(), h.queueRoutes(), h.breakerRoutes(), h.lockRoutes(), h.tokenRoutes(), h.serverRoutes(), h.observeRoutes())
}

func (h *handler) itemRoutes() []route {
	return []route{
		{http.MethodPost, "/v1/items", work.RoleSubmit, h.submissions()},
		{http.MethodGet, "/v1/items", work.RoleRead, h.call(http.StatusOK, h.items)},
		{http.MethodGet, "/v1/items/{id}", work.RoleRead, h.call(http.StatusOK, h.item)},
		{http.MethodGet, "/v1/items/{id}/logs", work.RoleRead, h.call(http.StatusOK, h.logs)},
		{http.MethodGet, "/v1/items/{id}/logs/follow", work.RoleRead, http.HandlerFunc(h.follow)},
		{http.MethodPatch, "/v1/items/{id}", work.RoleOperate, h.call(http.StatusOK, h.edit)},
		{http.MethodDelete, "/v1/items/{id}", work.RoleOperate, h.call(http.StatusOK, h.remove)},
		{http.MethodPost, "/v1/items/{id}/cancel", work.RoleOperate, h.call(http.StatusOK, h.order(control.Cancel))},
		{http.MethodPost, "/v1/items/{id}/retry", work.RoleOperate, h.call(http.StatusOK, h.order(control.Retry))},
		{http.MethodPost, "/v1/items/{id}/requeue", work.RoleOperate, h.call(http.StatusOK, h.order(control.Requeue))},
		{http.MethodPost, "/v1/items/{id}/kill", work.RoleOperate, h.call(http.StatusOK, h.order(control.Kill))},
		{http.MethodPost, "/v1/items/{id}/priority", work.RoleOperate, h.call(http.StatusOK, h.order(control.Prioritize))},
		{http.MethodPost, "/v1/items/{id}/pr/retry", work.RoleOperate, h.call(http.StatusOK, h.retryPR)},
		{http.MethodGet, "/v1/export", work.RoleRead, http.HandlerFunc(h.export)},
		{http.MethodGet, "/v1/export/logs", work.RoleRead, http.HandlerFunc(h.exportLogs)},
		{http.MethodPost, "/v1/import/logs", work.RoleOperate, h.call(http.StatusOK, h.restoreLogs)},
		{http.MethodPost, "/v1/import", work.RoleOperate, h.call(http.StatusOK, h.restore)},
	}
}

func (h *handler) tokenRoutes() []route {
	return []route{
		{http.MethodGet, "/v1/tokens", work.RoleOperate, h.call(http.StatusOK, h.tokens)},
		{http.MethodPost, "/v1/tokens", work.RoleOperate, h.call(http.StatusCreated, h.createToken)},
		{http.MethodDelete, "/v1/tokens/{id}", work.RoleOperate, h.call(http.StatusOK, h.revokeToken)},
	}
}

func (h *handler) serverRoutes() []route {
	return []route{
		{http.MethodGet, "/v1/overview", work.RoleRead, h.call(http.StatusOK, h.overview)},
		{http.MethodGet, "/v1/events", work.RoleRead, http.HandlerFunc(h.events)},
		{http.MethodGet, "/v1/status", work.RoleRead, h.call(http.StatusOK, h.status)},
		{http.MethodGet, "/v1/openapi.json", "", http.HandlerFunc(h.openAPI)},
	}
}

// routes serves the table. What needs a role is answered by the leader, and
// every server checks the role itself.
func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	for _, route := range h.table() {
		answer := route.handler
		if route.role != "" && !route.ofThisServer() {
			answer = h.leads(answer)
		}
		if route.role != "" {
			answer = h.authorized(route.role, answer)
		}
		mux.Handle(route.method+" "+route.pattern, answer)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, errNoSuchCall))
	})
	return mux
}
