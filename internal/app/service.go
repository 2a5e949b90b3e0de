package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// apiOptions has requests passed on to another leader over connections that
// trust the CA which this server's clients are asked for.
func (s *Server) apiOptions() (api.Options, error) {
	cfg := s.opts.Config.HTTP
	settings, err := api.TLS{CACert: cfg.TLSCA, Cert: cfg.TLSCert, Key: cfg.TLSKey}.Client()
	if err != nil {
		return api.Options{}, err
	}
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig = settings
	return api.Options{
		Service: service{s}, Token: string(cfg.Token), StoredToken: s.store.Token, Leader: s.leader, Transport: transport,
		Logger: s.opts.Logs.Logger().Named("api"), Metrics: s.seen.handler(), MetricsNeedToken: cfg.MetricsNeedToken, Local: local{s},
	}, nil
}

// leaderTimeout bounds the question who leads.
const leaderTimeout = 5 * time.Second

// leader says where the leader's API answers, and whether that is this server.
func (s *Server) leader(ctx context.Context) (string, bool, error) {
	if s.leading.Load() != nil {
		return *s.address.Load(), true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	leader, err := s.store.Leader(ctx)
	if err == nil && leader.ID == s.id {
		err = work.ErrNoLeader // this server was elected a moment ago and is not at work yet
	}
	return leader.Address, false, err
}

// health says what keeps this server from answering calls, as /health does.
func (s *Server) health(ctx context.Context) error {
	_, self, err := s.leader(ctx)
	if err != nil || !self {
		return err
	}
	status, err := service{s}.Status(ctx)
	if err == nil && len(status.NotReady) > 0 {
		err = fmt.Errorf("%s: %w", strings.Join(status.NotReady, "; "), work.ErrUnavailable)
	}
	return err
}

// service answers the API while this server leads.
type service struct{ *Server }

func (s service) orchestrator() (*orchestrator.Orchestrator, error) {
	if o := s.leading.Load(); o != nil {
		return o, nil
	}
	return nil, work.ErrNoLeader
}

func (s service) Submit(ctx context.Context, items []control.Submission) ([]work.Item, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Submit(ctx, items)
}

func (s service) Check(ctx context.Context, items []control.Submission) ([]work.Item, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Check(ctx, items)
}

func (s service) SubmitStream(ctx context.Context, lines io.Reader) (control.Submitted, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Submitted{}, err
	}
	return o.SubmitStream(ctx, lines)
}

func (s service) Items(ctx context.Context, q control.Query) (control.Page, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Page{}, err
	}
	return o.Items(ctx, q)
}

func (s service) Item(ctx context.Context, id string) (work.Item, *work.Progress, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Item{}, nil, err
	}
	return o.Item(ctx, id)
}

func (s service) Logs(ctx context.Context, id string, attempt int) (control.Logs, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Logs{}, err
	}
	return o.Logs(ctx, id, attempt)
}

func (s service) Follow(ctx context.Context, id string, stdout, stderr io.Writer) error {
	o, err := s.orchestrator()
	if err != nil {
		return err
	}
	return o.Follow(ctx, id, stdout, stderr)
}

func (s service) RetryPR(ctx context.Context, id string) (work.Item, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Item{}, err
	}
	return o.RetryPR(ctx, id)
}

func (s service) Order(ctx context.Context, id string, order control.Order) (work.Item, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Item{}, err
	}
	return o.Order(ctx, id, order)
}

func (s service) Events(ctx context.Context, after string, send func(control.Event) error) error {
	o, err := s.orchestrator()
	if err != nil {
		return err
	}
	return o.Events(ctx, after, send)
}

func (s service) Export(ctx context.Context, f control.Filter, send func(work.Item) error) error {
	o, err := s.orchestrator()
	if err != nil {
		return err
	}
	return o.Export(ctx, f, send)
}

func (s service) Import(ctx context.Context, items []work.Item, dry bool) (control.Import, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Import{}, err
	}
	return o.Import(ctx, items, dry)
}

func (s service) ExportLogs(ctx context.Context, f control.Filter, send func(work.KeptLogs) error) error {
	o, err := s.orchestrator()
	if err != nil {
		return err
	}
	return o.ExportLogs(ctx, f, send)
}

func (s service) ImportLogs(ctx context.Context, kept []work.KeptLogs) (control.Import, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Import{}, err
	}
	return o.ImportLogs(ctx, kept)
}

func (s service) Overview(ctx context.Context) (control.Overview, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Overview{}, err
	}
	status, err := s.Status(ctx)
	if err != nil {
		return control.Overview{}, err
	}
	overview, err := o.Overview(ctx)
	overview.Status = status
	return overview, err
}

func (s service) Tokens(ctx context.Context) ([]work.Token, error) {
	o, err := s.orchestrator()
	if err != nil {
		return nil, err
	}
	return o.Tokens(ctx)
}

func (s service) CreateToken(ctx context.Context, r control.TokenRequest) (control.NewToken, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.NewToken{}, err
	}
	return o.CreateToken(ctx, r)
}

func (s service) RevokeToken(ctx context.Context, id string) (work.Token, error) {
	o, err := s.orchestrator()
	if err != nil {
		return work.Token{}, err
	}
	return o.RevokeToken(ctx, id)
}

func (s service) Status(ctx context.Context) (control.Status, error) {
	o, err := s.orchestrator()
	if err != nil {
		return control.Status{}, err
	}
	status := control.Status{
		Leader: s.id, Address: *s.address.Load(), Version: s.opts.Version, MaxInFlight: s.opts.Config.Orchestrator.MaxInFlight,
	}
	status.Items, status.InFlight = o.Counts()
	if _, err := s.store.Leader(ctx); err != nil && !errors.Is(err, work.ErrNoLeader) {
		status.NotReady = append(status.NotReady, err.Error())
	}
	if err := s.checkNomad(ctx); err != nil {
		status.NotDispatching = append(status.NotDispatching, err.Error())
	}
	return status, nil
}

// nomadTimeout bounds the question whether Nomad answers: without it, the rest of
// a status is worth having.
const nomadTimeout = 2 * time.Second

func (s service) checkNomad(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, nomadTimeout)
	defer cancel()
	return s.cluster.Check(ctx)
}
