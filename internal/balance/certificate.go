package balance

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificate is the server's certificate. It is read again when its files have changed, so that
// nothing has to be restarted when it is renewed.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	current       atomic.Pointer[tls.Certificate]
	cert, key     []byte // what current was made of
	failedContent []byte // what could not be used, told once
}

// loadCertificate reads the files.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// config returns the TLS configuration.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

// run looks at the files every so often until ctx ends.
func (c *certificate) run(ctx context.Context, every time.Duration, m *metrics) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		changed, err := c.reload()
		switch {
		case err != nil && changed:
			m.reloads.WithLabelValues("failed").Inc()
			c.log.Warn("the certificate's files cannot be used; the one before stays", "err", err)
		case changed:
			m.reloads.WithLabelValues("loaded").Inc()
			c.log.Info("the certificate was read again")
		}
	}
}

// reload takes the files if they have changed since they were last looked at. The content is compared and not
// the time: files may be replaced through symbolic links, and within one tick.
func (c *certificate) reload() (changed bool, err error) {
	cert, err := os.ReadFile(c.certFile)
	if err == nil {
		var key []byte
		if key, err = os.ReadFile(c.keyFile); err == nil {
			if bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
				c.failedContent = nil
				return false, nil
			}
			var pair tls.Certificate
			if pair, err = tls.X509KeyPair(cert, key); err == nil {
				c.current.Store(&pair)
				c.cert, c.key, c.failedContent = cert, key, nil
				return true, nil
			}
			cert = append(cert, key...)
		}
	}
	err = fmt.Errorf("certificate: %w", err)
	content := append(cert, err.Error()...)
	changed = !bytes.Equal(content, c.failedContent)
	c.failedContent = content
	return changed, err
}
