package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// certificate makes an authority that is its own only child, and returns the
// files of its certificate and key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "drover test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"drover.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	ok(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	ok(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ok(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ok(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	return cert, key
}

func TestClientAndServerKnowEachOtherByTheirCertificates(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	ok(t, err)
	data, err := os.ReadFile(cert)
	ok(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)

	service := &fake{orderFunc: func(string, control.Order) (work.Item, error) { return work.Item{}, nil }}
	server := httptest.NewUnstartedServer(api.NewHandler(api.Options{Service: service}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()

	for name, test := range map[string]struct {
		tls  api.TLS
		want error
	}{
		"both":                {api.TLS{CACert: cert, Cert: cert, Key: key}, nil},
		"by the other name":   {api.TLS{CACert: cert, Cert: cert, Key: key, ServerName: "drover.test"}, nil},
		"by a wrong name":     {api.TLS{CACert: cert, Cert: cert, Key: key, ServerName: "other.test"}, work.ErrUnavailable},
		"without its own":     {api.TLS{CACert: cert}, work.ErrUnavailable},
		"with a stranger's":   {api.TLS{CACert: cert, Cert: otherCert, Key: otherKey}, work.ErrUnavailable},
		"without authorities": {api.TLS{Cert: cert, Key: key}, work.ErrUnavailable},
		"trusting anyone":     {api.TLS{Cert: cert, Key: key, SkipVerify: true}, nil},
	} {
		c, err := api.NewClient(api.ClientOptions{Address: server.Listener.Addr().String(), TLS: test.tls})
		ok(t, err)
		if _, err := c.Order(t.Context(), "x", control.Order{Verb: control.Cancel}); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		c.Close()
	}
}
