package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"drover/internal/work"
)

// TLS is how a client checks a server and shows itself to it. Empty fields are not used.
type TLS struct {
	CACert     string // file of authorities that may vouch for the server; the system's if empty
	Cert       string // file of the client's own certificate
	Key        string // file of its key
	ServerName string // expected of the server, if not its address
	SkipVerify bool   // trust any server; for tests of one's own setup alone
}

// Client returns the settings of a connection, nil if t says nothing.
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
