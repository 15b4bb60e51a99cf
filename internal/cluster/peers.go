package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// How soon a peer or client that went away without a word is noticed: after
// this many unanswered pings at this interval.
const (
	pingInterval = 2 * time.Second
	pingsOut     = 2
)

// routeUser is the name that goes with the secret between servers.
const routeUser = "esh3ar"

// Peers is what makes a Server one of several, over which JetStream replicates.
// Three or five form a cluster; more only slow it down.
type Peers struct {
	// Cluster is the name that all its servers have in common. Required.
	Cluster string

	// Listen is the host:port for the connections between the servers. With
	// port 0 the system chooses one, see Server.PeerAddr. Required.
	Listen string

	// Advertise is the host:port at which the others reach this server, if it
	// is not the one of Listen.
	Advertise string

	// Routes are the host:port of all servers; this one's may be among them.
	// Their number is how many a new cluster waits for before it elects its
	// first leader. Required.
	Routes []string

	// Secret is what the servers tell each other to be let in, the same for
	// all. TLS encrypts and authenticates the connections. Whoever gets in can
	// read and write everything, so at least one is required; without TLS the
	// network must be trusted.
	Secret string
	TLS    *TLSFiles
}

// Clients has a Server accept connections of clients: of nodes that run none.
type Clients struct {
	// Listen is the host:port. With port 0 the system chooses one, see
	// Server.ClientAddr. Required.
	Listen string

	// Token is what clients must present. TLS encrypts the connections and, if
	// it names a CA, asks clients for a certificate. Whoever gets in can read and
	// write everything, so a token or a CA is required.
	Token string
	TLS   *TLSFiles
}

// TLSFiles name PEM files.
type TLSFiles struct {
	Cert, Key string // of this process

	// CA is whom the other side's certificate must come from. Between servers
	// it is required.
	CA string
}

func (p *Peers) check() error {
	switch {
	case p == nil:
		return nil
	case p.Cluster == "" || p.Listen == "" || len(p.Routes) == 0:
		return errors.New("a server with peers needs the cluster's name, an address to listen on and routes")
	case strings.ContainsAny(p.Cluster, " \t\r\n"):
		return fmt.Errorf("cluster name %q has spaces", p.Cluster)
	case p.Secret == "" && p.TLS == nil:
		return errors.New("connections between servers need a secret or TLS: whoever gets in can read and write everything")
	case p.TLS != nil && p.TLS.CA == "":
		return errors.New("TLS between servers needs a CA, because they authenticate each other by it")
	}
	for _, hostport := range append(slices.Clone(p.Routes), p.Advertise) {
		if _, _, err := net.SplitHostPort(hostport); err != nil && hostport != "" {
			return fmt.Errorf("route: %w", err)
		}
	}
	return nil
}

func (c *Clients) check() error {
	if c != nil && (c.Listen == "" || c.Token == "" && (c.TLS == nil || c.TLS.CA == "")) {
		return errors.New("a server that listens for clients needs an address, and a token or a CA")
	}
	return nil
}

// listen adds to the options what concerns connections from outside.
func (s *Server) listen(o *server.Options) error {
	if s.opts.Peers == nil && s.opts.Clients == nil {
		o.DontListen = true
		return nil
	}
	o.PingInterval, o.MaxPingsOut = pingInterval, pingsOut
	o.ConnectErrorReports, o.ReconnectErrorReports = 1, 1 // each failed attempt, of which routes tells the log now and then
	// NATS starts no routes without a client port. Nobody but this process
	// knows the token that the one without Clients asks for.
	clients := Clients{Listen: "127.0.0.1:0", Token: s.token}
	if s.opts.Clients != nil {
		clients = *s.opts.Clients
	}
	var err error
	if o.Host, o.Port, err = splitListen(clients.Listen); err != nil {
		return err
	}
	o.Authorization = clients.Token
	if o.TLSConfig, err = clients.TLS.config(); err != nil {
		return err
	}
	o.TLS, o.TLSVerify = o.TLSConfig != nil, clients.TLS != nil && clients.TLS.CA != ""
	o.TLSTimeout, o.AuthTimeout = handshakeTimeout.Seconds(), 2*handshakeTimeout.Seconds()
	if s.opts.Peers != nil {
		return s.opts.Peers.apply(&o.Cluster, &o.Routes)
	}
	return nil
}

// handshakeTimeout is how long a TLS handshake may take on a busy machine.
const handshakeTimeout = 5 * time.Second

// apply sets the options of the connections between servers.
func (p *Peers) apply(o *server.ClusterOpts, routes *[]*url.URL) (err error) {
	o.Name = p.Cluster
	if o.Host, o.Port, err = splitListen(p.Listen); err != nil {
		return err
	}
	o.Advertise = p.Advertise
	o.NoAdvertise = true // clients know the servers by configuration, which holds behind any address translation
	o.PingInterval, o.MaxPingsOut = pingInterval, pingsOut
	o.TLSTimeout, o.AuthTimeout = handshakeTimeout.Seconds(), 2*handshakeTimeout.Seconds()
	if o.TLSConfig, err = p.TLS.config(); err != nil {
		return err
	}
	var user *url.Userinfo
	if p.Secret != "" {
		o.Username, o.Password = routeUser, p.Secret
		user = url.UserPassword(routeUser, p.Secret)
	}
	for _, hostport := range p.Routes {
		*routes = append(*routes, &url.URL{Scheme: "nats-route", User: user, Host: hostport})
	}
	return nil
}

// config reads the files. Both sides of a connection use it: it demands of the
// other what CA says.
func (t *TLSFiles) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	if t.CA == "" {
		return c, nil
	}
	if c.RootCAs, err = certPool(t.CA); err != nil {
		return nil, err
	}
	c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	return c, nil
}

func certPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("TLS CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS CA: no certificate in %s", file)
	}
	return pool, nil
}

// splitListen reads a host:port. To NATS a port to be chosen is -1.
func splitListen(hostport string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", 0, fmt.Errorf("listen address: %w", err)
	}
	if port, err = strconv.Atoi(text); err != nil || port < 0 || port > 1<<16-1 {
		return "", 0, fmt.Errorf("listen address %q: its port is not a number from 0 to 65535", hostport)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// keepPorts sees to it that the next incarnation listens on the same ports.
func (s *Server) keepPorts(srv *server.Server) {
	if addr := srv.ClusterAddr(); s.opts.Peers != nil && addr != nil {
		peers := *s.opts.Peers
		peers.Listen = withPort(peers.Listen, addr.Port)
		s.opts.Peers = &peers
	}
	if addr, ok := srv.Addr().(*net.TCPAddr); s.opts.Clients != nil && ok {
		clients := *s.opts.Clients
		clients.Listen = withPort(clients.Listen, addr.Port)
		s.opts.Clients = &clients
	}
}

func withPort(hostport string, port int) string {
	host, _, _ := net.SplitHostPort(hostport) // was read before
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// PeerAddr returns the host:port on which the server listens for its peers, ""
// if it has none.
func (s *Server) PeerAddr() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.opts.Peers == nil {
		return ""
	}
	return s.opts.Peers.Listen
}

// ClientAddr returns the host:port on which the server listens for clients, ""
// if it does not.
func (s *Server) ClientAddr() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.opts.Clients == nil {
		return ""
	}
	return s.opts.Clients.Listen
}
