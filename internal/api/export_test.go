package api

import "drover/internal/work"

// Route is a call of the API, for tests that go through all of them.
type Route struct {
	Method, Pattern string
	Role            work.Role
}

// Table returns every call of the API.
func Table() []Route {
	var routes []Route
	for _, r := range (&handler{}).table() {
		routes = append(routes, Route{r.method, r.pattern, r.role})
	}
	return routes
}
