// Package certificate reads certificates from files, and again when the files have changed, so that nothing has to be
// restarted when they are renewed.
package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Source is a value that is made of files. All methods but Run may be called from any goroutine.
type Source[T any] struct {
	files   []string
	parse   func(contents [][]byte) (*T, error)
	current atomic.Pointer[T]

	// Of Run, and of the making before it.
	used   []byte // what current was made of
	failed []byte // what could not be used, and why: told once
}

// Pair returns the certificate chain in one file with the key in another, both in PEM. It fails if they cannot be used.
func Pair(certFile, keyFile string) (*Source[tls.Certificate], error) {
	return newSource(func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		return &pair, err
	}, certFile, keyFile)
}

// Roots returns the certificate authorities in a file, in PEM. It fails if there is none.
func Roots(file string) (*Source[x509.CertPool], error) {
	return newSource(func(contents [][]byte) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[0]) {
			return nil, errors.New("it holds no certificate in PEM")
		}
		return pool, nil
	}, file)
}

func newSource[T any](parse func([][]byte) (*T, error), files ...string) (*Source[T], error) {
	s := &Source[T]{files: files, parse: parse}
	if _, err := s.reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Current is the value as the files that could be used last have it.
func (s *Source[T]) Current() *T { return s.current.Load() }

// Run looks at the files every so often until ctx ends, and returns ctx's error. It calls tell after each
// change, with nil or with why the files cannot be used: then the value before stays.
func (s *Source[T]) Run(ctx context.Context, every time.Duration, tell func(error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if changed, err := s.reload(); changed {
			tell(err)
		}
	}
}

// reload takes the files if they have changed since they were last looked at. The content is compared and not
// the time: files may be replaced through symbolic links, and within one tick.
func (s *Source[T]) reload() (changed bool, err error) {
	contents := make([][]byte, len(s.files))
	for i, file := range s.files {
		if contents[i], err = os.ReadFile(file); err != nil {
			break
		}
	}
	all := bytes.Join(contents, []byte{0})
	if err == nil {
		if s.current.Load() != nil && bytes.Equal(all, s.used) {
			s.failed = nil
			return false, nil
		}
		var value *T
		if value, err = s.parse(contents); err == nil {
			s.current.Store(value)
			s.used, s.failed = all, nil
			return true, nil
		}
	}
	err = fmt.Errorf("%s: %w", strings.Join(s.files, ", "), err)
	all = append(all, err.Error()...)
	changed = !bytes.Equal(all, s.failed)
	s.failed = all
	return changed, err
}

// Server returns the configuration of a server that has the pair, as of each connection. Protocols are those that it
// speaks, the one that it prefers first.
func Server(pair *Source[tls.Certificate], protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Current(), nil },
	}
}
