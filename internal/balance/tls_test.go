package balance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type certFiles struct{ cert, key string }

// writeCertificate makes a certificate for 127.0.0.1 with a name and writes it, or writes it over another.
func writeCertificate(t testing.TB, dir, name string) (certFiles, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := certFiles{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	write(t, f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	write(t, f.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return f, pool
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tlsClient(t testing.TB, pool *x509.CertPool, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	files, _ := writeCertificate(t, dir, "one")
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), func(o *Options) { o.CertFile, o.KeyFile = files.cert, files.key })
	name := func() string {
		c, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "one" {
		t.Fatalf("the certificate is that of %s", got)
	}
	before, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()

	writeCertificate(t, dir, "two")
	eventually(t, "the new certificate is used", func() bool { return name() == "two" })

	// One that cannot be used changes nothing.
	write(t, files.cert, []byte("no certificate"))
	eventually(t, "the bad files were looked at", func() bool { return metric(t, b, `esh3ar_balance_certificate_loads_total{result="failed"}`) > 0 })
	if got := name(); got != "two" {
		t.Errorf("after bad files the certificate is that of %s", got)
	}
	writeCertificate(t, dir, "three")
	eventually(t, "the third certificate is used", func() bool { return name() == "three" })

	// Connections that were there before go on.
	io.WriteString(before, "GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if got, err := io.ReadAll(before); err != nil || len(got) == 0 {
		t.Errorf("a connection from before the change: %q, %v", got, err)
	}
}
