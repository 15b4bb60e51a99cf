package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// connectTimeout is how long one server may take to be connected to before the
// next one is tried.
const connectTimeout = 2 * time.Second

// ErrRefused means that a server was reached and that this process is not let in, or does not trust the server:
// another token, another certificate authority, no certificate. It does not pass by waiting.
var ErrRefused = errors.New("the NATS server and this node do not accept each other")

// External is NATS servers with JetStream elsewhere: a cluster of its own, or
// the nodes that keep the journal. It keeps no connection by itself. How they
// sync their streams is up to them: what is acknowledged is durable only with
// sync_interval: always.
type External struct {
	// URLs are where the servers listen for clients, as host:port,
	// nats://host:port or tls://host:port. One that is reached suffices; the
	// others are there for when it goes away. Required.
	URLs []string

	// Token, User and Password, or CredsFile, NATS's file of a JWT and its key,
	// are what the servers ask for.
	Token          string
	User, Password string
	CredsFile      string

	// TLS encrypts the connections. Its CA, if any, takes the place of the
	// system's; its certificate, if any, is shown to servers that ask for one.
	TLS *TLSFiles
}

// Connect connects to one of the servers and fails if none can be reached, with
// ErrRefused if that is for good. The
// connection moves to another server by itself when its own goes away; what is
// published meanwhile is refused rather than kept, so that its outcome is known
// at once. Options may change this.
func (e External) Connect(options ...nats.Option) (*nats.Conn, error) {
	if len(e.URLs) == 0 {
		return nil, errors.New("cluster: no URL of a NATS server")
	}
	all := append(reconnecting(), nats.Timeout(connectTimeout), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsOut))
	switch {
	case e.CredsFile != "":
		all = append(all, nats.UserCredentials(e.CredsFile))
	case e.User != "":
		all = append(all, nats.UserInfo(e.User, e.Password))
	case e.Token != "":
		all = append(all, nats.Token(e.Token))
	}
	if e.TLS != nil {
		c, err := e.TLS.clientConfig()
		if err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		all = append(all, nats.Secure(c))
	}
	nc, err := nats.Connect(strings.Join(e.URLs, ","), append(all, options...)...)
	if err != nil {
		if refused(err) {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, fmt.Errorf("cluster: connect to NATS: %w", err)
	}
	return nc, nil
}

// refused says whether one side has looked at the other and does not want it.
func refused(err error) bool {
	if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted) {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	// What the other side of a TLS connection says of this one is such an error.
	remote, ok := errors.AsType[*net.OpError](err)
	return ok && remote.Op == "remote error"
}

// clientConfig reads the files for a client, to whom each is optional.
func (t *TLSFiles) clientConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("TLS certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	if t.CA != "" {
		pool, err := certPool(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	return c, nil
}

// reconnecting are the options of a connection that comes back by itself, for
// as long as it takes, and keeps nothing that it cannot send.
func reconnecting() []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1),
		// A server that has another secret already, while it is being changed everywhere, is no reason to give up.
		nats.IgnoreAuthErrorAbort(),
	}
}
