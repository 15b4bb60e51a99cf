package node_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
	"github.com/esh3artech/esh3ar/internal/node"
)

// TestTLS: messages, which the front reads, and everything else work over TLS, and a new certificate is taken without a restart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files, pool := certificatetest.Write(t, dir, "one")
	info := bootWith(t, func(c *node.Config) { c.TLSCert, c.TLSKey = files.Cert, files.Key })
	if !strings.HasPrefix(info.URL(), "https://") {
		t.Errorf("its URL is %s", info.URL())
	}
	client := func(pool *x509.CertPool) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 30 * time.Second}
	}
	ask := func(c *http.Client, method, path, body string) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, info.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+info.DevKey)
		r.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 1 || resp.TLS == nil {
			t.Errorf("answered over %s", resp.Proto)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	c := client(pool)
	long := strings.Repeat("x", 40_000)
	for _, r := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v1/messages", `{"to":"alice","content":"hello"}`, 202},
		{"POST", "/v1/messages", `{"to":"alice","content":"` + long + `"}`, 202},
		{"GET", "/v1/messages", "", 200},
		{"POST", "/v1/messages", `{"to":"alice","content":"again"}`, 202},
		{"GET", "/readyz", "", 200},
	} {
		if got, err := ask(c, r.method, r.path, r.body); got != r.want || err != nil {
			t.Errorf("%s %s: answered %d, %v", r.method, r.path, got, err)
		}
	}
	if resp, err := http.Get("http://" + info.Addr + "/readyz"); err == nil {
		resp.Body.Close()
		t.Errorf("without TLS it answers with status %d", resp.StatusCode)
	}

	_, again := certificatetest.Write(t, dir, "two")
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for renewed := false; !renewed; {
		select {
		case <-tick.C:
			got, err := ask(client(again), "GET", "/readyz", "")
			renewed = err == nil && got == 200
		case <-deadline:
			t.Fatal("the new certificate is not taken")
		}
	}
	if got, err := ask(c, "GET", "/v1/messages", ""); got != 200 || err != nil {
		t.Errorf("on a connection from before: answered %d, %v", got, err)
	}
}
