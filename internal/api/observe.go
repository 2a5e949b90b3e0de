package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Local is what a server tells of itself, whether it leads or not.
type Local interface {
	// LogLevels returns the level of each subsystem.
	LogLevels() map[string]string
	// SetLogLevel sets a subsystem's level, or that of all which have none of
	// their own if it is empty. It returns work.ErrInvalid.
	SetLogLevel(subsystem, level string) error
	// Debug writes a bundle for a report of a fault: a compressed tar archive, without secrets.
	Debug(ctx context.Context, to io.Writer) error
	// Examine examines whether this server and its workers can work, as drover doctor does.
	Examine(ctx context.Context) ([]work.Finding, error)
}

// observeRoutes are how one is watched and asked about itself.
func (h *handler) observeRoutes() []route {
	var scrapers work.Role // as open as health, unless configured otherwise
	if h.MetricsNeedToken {
		scrapers = work.RoleRead
	}
	routes := []route{
		{http.MethodGet, "/health", "", http.HandlerFunc(h.ready)},
		{http.MethodGet, "/health/ready", "", http.HandlerFunc(h.ready)},
		{http.MethodGet, "/health/live", "", http.HandlerFunc(h.live)},
		{http.MethodGet, "/v1/items/{id}/explain", work.RoleRead, h.call(http.StatusOK, h.explain)},
		{http.MethodGet, "/v1/report", work.RoleRead, h.call(http.StatusOK, h.report)},
		{http.MethodGet, "/v1/server/log-level", work.RoleOperate, h.call(http.StatusOK, h.logLevels)},
		{http.MethodPut, "/v1/server/log-level", work.RoleOperate, h.call(http.StatusOK, h.setLogLevel)},
		{http.MethodPost, "/v1/server/examine", work.RoleOperate, h.call(http.StatusOK, h.examine)},
		{http.MethodGet, "/v1/server/debug", work.RoleOperate, http.HandlerFunc(h.debug)},
	}
	if h.Metrics != nil {
		routes = append(routes, route{http.MethodGet, "/metrics", scrapers, h.Metrics})
	}
	return routes
}

// ofThisServer reports whether a call is about the server that is asked: it is
// not passed on to the leader.
func (r route) ofThisServer() bool {
	return strings.HasPrefix(r.pattern, "/v1/server/") || r.pattern == "/metrics"
}

func (h *handler) explain(r *http.Request) (any, error) {
	return h.Service.Explain(r.Context(), r.PathValue("id"))
}

func (h *handler) report(r *http.Request) (any, error) {
	since, err := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
	if err != nil {
		return nil, fmt.Errorf("since %q: give a time such as 2026-01-31T08:00:00Z: %w", r.URL.Query().Get("since"), work.ErrInvalid)
	}
	return h.Service.Report(r.Context(), since)
}

func (h *handler) live(w http.ResponseWriter, _ *http.Request) {
	writeHealth(w, control.Health{Live: true, Ready: true})
}

// ready tells whether this server can answer calls: it leads and is ready, or it
// knows who leads.
func (h *handler) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	health := control.Health{Live: true}
	_, self, err := h.Leader(ctx)
	if err != nil {
		health.Reasons = append(health.Reasons, "who leads is not known: "+err.Error())
	}
	if health.Leads = self && err == nil; health.Leads {
		status, err := h.Service.Status(ctx)
		if err != nil {
			health.Reasons = append(health.Reasons, err.Error())
		}
		health.Reasons = append(health.Reasons, status.NotReady...)
		health.Ready = len(health.Reasons) == 0 // without Nomad items are taken, listed and commanded
		health.Reasons = append(health.Reasons, status.NotDispatching...)
	} else {
		health.Ready = len(health.Reasons) == 0
	}
	writeHealth(w, health)
}

func writeHealth(w http.ResponseWriter, health control.Health) {
	w.Header().Set("Content-Type", "application/json")
	if !health.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(health) // the client has gone; nobody is left to tell
}

func (h *handler) logLevels(*http.Request) (any, error) { return h.Local.LogLevels(), nil }

func (h *handler) examine(r *http.Request) (any, error) { return h.Local.Examine(r.Context()) }

func (h *handler) setLogLevel(r *http.Request) (any, error) {
	var wanted control.LogLevel
	if err := decodeBody(r, &wanted); err != nil {
		return nil, err
	}
	if err := h.Local.SetLogLevel(wanted.Subsystem, wanted.Level); err != nil {
		return nil, err
	}
	return h.Local.LogLevels(), nil
}

func (h *handler) debug(w http.ResponseWriter, r *http.Request) {
	limit(w, callTimeout)
	w.Header().Set("Content-Type", "application/gzip")
	if err := h.Local.Debug(r.Context(), w); err != nil {
		h.Logger.Warn("debug bundle not sent", "error", err)
		panic(http.ErrAbortHandler) // the client must not take what it has for the whole
	}
}
