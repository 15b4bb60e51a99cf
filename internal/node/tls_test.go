package node_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
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
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.TLSCert, cfg.TLSKey = "127.0.0.1:0", t.TempDir(), files.Cert, files.Key
	n, err := node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if !strings.HasPrefix(n.Info().URL(), "https://") {
		t.Errorf("its URL is %s", n.Info().URL())
	}
	client := func(pool *x509.CertPool) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 30 * time.Second}
	}
	ask := func(c *http.Client, method, path, body string) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, n.Info().URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+n.Info().DevKey)
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
	if resp, err := http.Get("http://" + n.Info().Addr + "/readyz"); err == nil {
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
