package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"drover/internal/work"
)

// forwardedHeader marks a request that a server passed on. Its receiver never
// passes it on again: two servers that each take the other for the leader
// would play ball with it.
const forwardedHeader = "X-Drover-Forwarded"

var errNoLeader = fmt.Errorf("no server leads at the moment: an election is under way: %w", work.ErrNoLeader)

// leaderKey is where a request's context holds the leader's address.
type leaderKey struct{}

// leads answers with next on the leader, and passes the request on elsewhere.
func (h *handler) leads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, self, err := h.Leader(r.Context())
		switch {
		case err != nil && !errors.Is(err, work.ErrNoLeader):
			writeProblem(w, fmt.Errorf("who leads is not known: %w", err))
		case self:
			next.ServeHTTP(w, r)
		case err != nil || address == "" || r.Header.Get(forwardedHeader) != "":
			writeProblem(w, errNoLeader)
		default:
			h.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), leaderKey{}, address)))
		}
	})
}

func (h *handler) forwarder() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			address, _ := r.In.Context().Value(leaderKey{}).(string)
			r.SetURL(leaderURL(address))
			r.SetXForwarded()
			r.Out.Header.Set(forwardedHeader, "1")
		},
		Transport:     h.Transport,
		FlushInterval: -1, // logs are followed through it
		ErrorLog:      h.Logger.StandardLogger(nil),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			writeProblem(w, fmt.Errorf("the leader at %s can't be reached: %v: %w", r.URL.Host, err, work.ErrNoLeader))
		},
	}
}

// leaderURL takes an address with or without a scheme. One that is no URL
// fails when it is dialled.
func leaderURL(address string) *url.URL {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return &url.URL{}
	}
	return u
}
