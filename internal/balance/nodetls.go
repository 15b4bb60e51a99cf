package balance

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar/internal/certificate"
)

// NodeTLSOptions say how nodes with https URLs are spoken to. The zero value is right for nodes whose certificates
// the system's authorities vouch for.
type NodeTLSOptions struct {
	// CAFile holds the authorities that vouch for nodes, in PEM; "" for the system's.
	CAFile string
	// CertFile and KeyFile are what the balancer shows to nodes that ask, in PEM; both empty for nothing.
	CertFile, KeyFile string
	// ServerName is the name that nodes' certificates must be for; "" for the host of the node's URL.
	ServerName string
}

// NodeTLS is TLS with nodes. Its files are read again when they change, as long as a Balancer with it runs. All methods
// may be called from any goroutine.
type NodeTLS struct {
	name  string
	roots *certificate.Source[x509.CertPool]   // nil for the system's
	pair  *certificate.Source[tls.Certificate] // nil for none

	mu     sync.Mutex // guards what follows
	config *tls.Config
	shown  *tls.Certificate // of the pair, when config was made
}

// NewNodeTLS reads the files.
func NewNodeTLS(o NodeTLSOptions) (t *NodeTLS, err error) {
	t = &NodeTLS{name: o.ServerName}
	if o.CAFile != "" {
		if t.roots, err = certificate.Roots(o.CAFile); err != nil {
			return nil, err
		}
	}
	if o.CertFile != "" || o.KeyFile != "" {
		if t.pair, err = certificate.Pair(o.CertFile, o.KeyFile); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// run looks at the files until ctx ends.
func (t *NodeTLS) run(ctx context.Context, every time.Duration, tell func(error)) error {
	var g errgroup.Group
	if t.roots != nil {
		g.Go(func() error { return t.roots.Run(ctx, every, tell) })
	}
	if t.pair != nil {
		g.Go(func() error { return t.pair.Run(ctx, every, tell) })
	}
	return g.Wait()
}

// current returns the configuration as of now. It is the same as long as the files are, so that sessions are
// resumed: a session is as good as the check that it came from.
func (t *NodeTLS) current() *tls.Config {
	var roots *x509.CertPool
	if t.roots != nil {
		roots = t.roots.Current()
	}
	var shown *tls.Certificate
	if t.pair != nil {
		shown = t.pair.Current()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config == nil || t.config.RootCAs != roots || t.shown != shown {
		t.shown = shown
		t.config = &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots,
			NextProtos:         []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		}
		if shown != nil {
			t.config.Certificates = []tls.Certificate{*shown}
		}
	}
	return t.config
}

// errNotHTTP1: a node insists on another protocol.
var errNotHTTP1 = errors.New("the node does not speak HTTP/1.1 over TLS")

// client does the handshake with the node at address (host:port) over c, which it closes if that fails.
func (t *NodeTLS) client(ctx context.Context, c net.Conn, address string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		c.Close()
		return nil, err
	}
	config := t.current().Clone()
	config.ServerName = cmp.Or(t.name, host)
	s := tls.Client(c, config)
	if err = s.HandshakeContext(ctx); err == nil {
		if p := s.ConnectionState().NegotiatedProtocol; p == "" || p == "http/1.1" {
			return s, nil
		}
		err = errNotHTTP1
	}
	c.Close()
	return nil, err
}

// transport returns a transport that speaks TLS with nodes in this way. Limit is how long a connection may take to be there: a
// request that is given up does not end the making of its connection, which a node that hangs would never end.
func (t *NodeTLS) transport(limit time.Duration) *http.Transport {
	d := net.Dialer{Timeout: limit}
	return &http.Transport{
		MaxIdleConnsPerHost: 1, DisableCompression: true, Proxy: nil,
		DialContext: d.DialContext,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return t.client(ctx, c, address)
		},
	}
}
