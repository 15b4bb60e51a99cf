package balance

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
)

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
	files, _ := certificatetest.Write(t, dir, "one")
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), func(o *Options) { o.CertFile, o.KeyFile = files.Cert, files.Key })
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

	certificatetest.Write(t, dir, "two")
	eventually(t, "the new certificate is used", func() bool { return name() == "two" })

	// One that cannot be used changes nothing.
	write(t, files.Cert, []byte("no certificate"))
	eventually(t, "the bad files were looked at", func() bool { return metric(t, b, `esh3ar_balance_certificate_loads_total{result="failed"}`) > 0 })
	if got := name(); got != "two" {
		t.Errorf("after bad files the certificate is that of %s", got)
	}
	certificatetest.Write(t, dir, "three")
	eventually(t, "the third certificate is used", func() bool { return name() == "three" })

	// Connections that were there before go on.
	io.WriteString(before, "GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if got, err := io.ReadAll(before); err != nil || len(got) == 0 {
		t.Errorf("a connection from before the change: %q, %v", got, err)
	}
}
