package consuld

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/hashicorp/go-cleanhttp"
)

// defaultProbeTimeout and minProbeInterval are Consul's for HTTP checks.
const (
	defaultProbeTimeout = 10 * time.Second
	minProbeInterval    = time.Second
)

// armProbe has an HTTP check run again after its interval, the first time after
// a part of it, as Consul does.
func (s *Server) armProbe(c *agentCheck, first bool) {
	pause := c.interval
	if first {
		pause = time.Duration(rand.Int64N(int64(c.interval)))
	}
	c.timer = s.after(pause, func() {
		s.probing.Go(func() { s.probe(c) })
	})
}

// probe runs an HTTP check once.
func (s *Server) probe(c *agentCheck) {
	status, output := s.ask(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() || s.agent.checks[c.CheckID] != c {
		return
	}
	s.setStatus(c, status, output)
	s.armProbe(c, false)
}

// ask gets the check's address, and says what Consul says of the answer.
func (s *Server) ask(c *agentCheck) (status, output string) {
	ctx, cancel := context.WithTimeout(s.life, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return critical, err.Error()
	}
	request.Header.Set("User-Agent", "Consul Health Check")
	request.Header.Set("Accept", "text/plain, text/*, */*")
	answer, err := cleanhttp.DefaultClient().Do(request)
	if err != nil {
		return critical, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, int64(c.maxOutput)))
	if err != nil {
		return critical, err.Error()
	}
	output = fmt.Sprintf("HTTP GET %s: %s Output: %s", c.url, answer.Status, body)
	switch {
	case answer.StatusCode >= http.StatusOK && answer.StatusCode < http.StatusMultipleChoices:
		return passing, output
	case answer.StatusCode == http.StatusTooManyRequests:
		return warning, output
	}
	return critical, output
}
