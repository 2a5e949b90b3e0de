package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"drover/internal/work"
)

// TLS names the files of one side of a connection. Empty fields are not used.
type TLS struct {
	CACert     string // certificates that the other side's is checked with; the system's if empty
	Cert       string
	Key        string
	ServerName string // expected of the server, if not its address
	SkipVerify bool   // trust any server; for tests of one's own setup alone
}

// Client returns the settings of a client, nil if t says nothing.
// It returns work.ErrInvalid for a file that can't be used.
func (t TLS) Client() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.SkipVerify}
	var err error
	if cfg.RootCAs, err = pool(t.CACert); err != nil {
		return nil, err
	}
	if t.Cert != "" || t.Key != "" {
		err = t.load(cfg)
	}
	return cfg, err
}

// Server returns the settings of a server, nil if t has no certificate. With
// CACert, clients must have a certificate of that authority.
// It returns work.ErrInvalid for a file that can't be used.
func (t TLS) Server() (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.ClientCAs, err = pool(t.CACert); err != nil {
		return nil, err
	}
	if t.CACert != "" {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, t.load(cfg)
}

func (t TLS) load(cfg *tls.Config) error {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return fmt.Errorf("TLS certificate %q with key %q: %v: %w", t.Cert, t.Key, err, work.ErrInvalid)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return nil
}

func pool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(data) {
		err = errors.New("holds no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("TLS certificate authority %q: %v: %w", path, err, work.ErrInvalid)
	}
	return pool, nil
}
