package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance"
	"github.com/esh3artech/esh3ar/internal/loadgen"
	"github.com/esh3artech/esh3ar/internal/peer"
)

// balanceCmd spreads requests over several servers of one deployment.
type balanceCmd struct {
	Listen   string `name:"listen" env:"ESH3AR_BALANCE_LISTEN" group:"Network" default:"127.0.0.1:8000" help:"Address to serve clients on; port 0 takes a free one."`
	Admin    string `name:"admin-listen" env:"ESH3AR_BALANCE_ADMIN_LISTEN" group:"Network" default:"127.0.0.1:8001" help:"Address for /metrics, /healthz, /readyz and /nodes; empty for none. Keep it private."`
	AddrFile string `name:"addr-file" env:"ESH3AR_BALANCE_ADDR_FILE" group:"Network" placeholder:"FILE" help:"Write both addresses, a line each, to this file once they are bound."`
	Cert     string `name:"tls-cert" env:"ESH3AR_BALANCE_TLS_CERT" group:"Network" placeholder:"FILE" help:"Serve TLS (HTTP/1.1 and HTTP/2) with this certificate chain, in PEM. It is read again when it changes."`
	Key      string `name:"tls-key" env:"ESH3AR_BALANCE_TLS_KEY" group:"Network" placeholder:"FILE" help:"The certificate's key, in PEM."`

	Discover  []string      `name:"discover" env:"ESH3AR_BALANCE_DISCOVER" group:"Nodes" xor:"nodes" required:"" placeholder:"URL" help:"Learn all servers of a cluster from these: one of them is enough, and a name that leads to any will do. They must have this process among their trusted-proxies."`
	Nodes     []string      `name:"node" env:"ESH3AR_BALANCE_NODE" group:"Nodes" xor:"nodes" required:"" placeholder:"URL" help:"The servers, as http://host:port or https://host:port, with commas or the flag again and again."`
	NodesDNS  string        `name:"nodes-dns" env:"ESH3AR_BALANCE_NODES_DNS" group:"Nodes" xor:"nodes" required:"" placeholder:"[https://]HOST:PORT" help:"Find the servers as the addresses of this name."`
	NodesFile string        `name:"nodes-file" env:"ESH3AR_BALANCE_NODES_FILE" group:"Nodes" xor:"nodes" required:"" placeholder:"FILE" help:"Find the servers in this file, a URL a line."`
	Refresh   time.Duration `name:"nodes-refresh" env:"ESH3AR_BALANCE_NODES_REFRESH" group:"Nodes" default:"5s" help:"How often the name is resolved or the file is read again."`
	SlowStart time.Duration `name:"slow-start" env:"ESH3AR_BALANCE_SLOW_START" group:"Nodes" default:"10s" help:"How long a server that comes, or comes back, takes to get its full share."`

	NodeCA         string `name:"node-ca" env:"ESH3AR_BALANCE_NODE_CA" group:"TLS to servers" placeholder:"FILE" help:"Authorities that vouch for servers with https URLs, in PEM, instead of the system's. Read again when it changes, as are the others."`
	NodeCert       string `name:"node-cert" env:"ESH3AR_BALANCE_NODE_CERT" group:"TLS to servers" placeholder:"FILE" help:"Certificate chain to show to servers that ask for one, in PEM."`
	NodeKey        string `name:"node-key" env:"ESH3AR_BALANCE_NODE_KEY" group:"TLS to servers" placeholder:"FILE" help:"The certificate's key, in PEM."`
	NodeServerName string `name:"node-server-name" env:"ESH3AR_BALANCE_NODE_SERVER_NAME" group:"TLS to servers" placeholder:"NAME" help:"Name that the servers' certificates must be for; empty takes the host of each URL."`

	Trusted       []string `name:"trusted-proxies" env:"ESH3AR_BALANCE_TRUSTED_PROXIES" group:"Client addresses" placeholder:"CIDR" help:"Networks of proxies before this one, whose X-Forwarded-For, Forwarded and PROXY protocol are believed. Of others they are replaced."`
	ProxyProtocol bool     `name:"proxy-protocol" env:"ESH3AR_BALANCE_PROXY_PROTOCOL" group:"Client addresses" help:"Tell servers the client's address by the PROXY protocol (version 2) as well. They must trust this process, and connections to them are no longer shared."`

	MaxConnections  int           `name:"max-connections" env:"ESH3AR_BALANCE_MAX_CONNECTIONS" group:"Limits" default:"0" help:"Connections of clients open at one time; 0 takes what the process's file limit allows."`
	HeaderTimeout   time.Duration `name:"header-timeout" env:"ESH3AR_BALANCE_HEADER_TIMEOUT" group:"Limits" default:"10s" help:"How long a client may take to send a request's header, and for the TLS handshake."`
	BodyTimeout     time.Duration `name:"body-timeout" env:"ESH3AR_BALANCE_BODY_TIMEOUT" group:"Limits" default:"30s" help:"How long a client may take to send a request's body."`
	IdleTimeout     time.Duration `name:"idle-timeout" env:"ESH3AR_BALANCE_IDLE_TIMEOUT" group:"Limits" default:"2m" help:"How long a client's connection may idle between requests."`
	ConnectTimeout  time.Duration `name:"connect-timeout" env:"ESH3AR_BALANCE_CONNECT_TIMEOUT" group:"Limits" default:"1s" help:"How long a server may take to accept a connection."`
	ResponseTimeout time.Duration `name:"response-timeout" env:"ESH3AR_BALANCE_RESPONSE_TIMEOUT" group:"Limits" default:"30s" help:"How long a server may take to begin its answer. Longer than the servers' publish-timeout."`
	NodeIdleTimeout time.Duration `name:"node-idle-timeout" env:"ESH3AR_BALANCE_NODE_IDLE_TIMEOUT" group:"Limits" default:"30s" help:"How long an unused connection to a server is kept. Shorter than the servers' idle-timeout."`
	DrainTimeout    time.Duration `name:"drain-timeout" env:"ESH3AR_BALANCE_DRAIN_TIMEOUT" group:"Limits" default:"20s" help:"How long a stop may take to finish what is under way."`
	RetryShare      float64       `name:"retry-share" env:"ESH3AR_BALANCE_RETRY_SHARE" group:"Limits" default:"0.2" help:"How many requests may be sent again for each that comes in. Those that reached no server do not count."`

	LogLevel  slog.Level `name:"log-level" env:"ESH3AR_BALANCE_LOG_LEVEL" group:"Process" default:"info" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat string     `name:"log-format" env:"ESH3AR_BALANCE_LOG_FORMAT" group:"Process" enum:"text,json" default:"text" help:"Form of the log: ${enum}."`
}

// Help is the longer text of --help.
func (c *balanceCmd) Help() string {
	return `Spreads API calls over the servers of one deployment: by latency, load and free capacity, with two
random choices. Servers that fail are left alone for a while, servers that stop get nothing new, and what is safe to
repeat is repeated on another one. Several balancers may run side by side; they share nothing.

    esh3ar balance --discover http://10.0.0.1:8080,http://10.0.0.2:8080 --listen 0.0.0.0:8000
    curl -s http://127.0.0.1:8001/nodes

The servers are found in one way: --discover, --node, --nodes-dns or --nodes-file.
docs/balancer.md says how it picks and what it repeats.`
}

// Run serves until ctx ends; then it drains.
func (c *balanceCmd) Run(ctx context.Context, std stdio) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	handler := slog.Handler(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: c.LogLevel}))
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(std.err, &slog.HandlerOptions{Level: c.LogLevel})
	}
	o.Logger = slog.New(handler)
	b, err := balance.New(ctx, o)
	if err != nil {
		return err
	}
	scheme := "http"
	if c.Cert != "" {
		scheme = "https"
	}
	addresses := b.Addr().String() + "\n"
	fmt.Fprintf(std.out, "Esh3ar balances on %s://%s\n", scheme, b.Addr())
	if a := b.AdminAddr(); a != nil {
		addresses += a.String() + "\n"
		fmt.Fprintf(std.out, "  Nodes    http://%s/nodes\n  Metrics  http://%s/metrics\n", a, a)
	}
	if c.AddrFile != "" {
		if err := writeWhole(c.AddrFile, addresses); err != nil {
			b.Close()
			return err
		}
	}
	return b.Run(ctx)
}

// spareBalanceFiles are the descriptors that are not for clients and their connections to servers.
const spareBalanceFiles = 128

// options checks the flags and returns what they say.
func (c *balanceCmd) options() (balance.Options, error) {
	o := balance.DefaultOptions()
	o.Listen, o.Admin = c.Listen, c.Admin
	o.CertFile, o.KeyFile = c.Cert, c.Key
	o.ProxyProtocol = c.ProxyProtocol
	o.HeaderTimeout, o.BodyTimeout, o.IdleTimeout = c.HeaderTimeout, c.BodyTimeout, c.IdleTimeout
	o.ConnectTimeout, o.ResponseTimeout, o.NodeIdleTimeout = c.ConnectTimeout, c.ResponseTimeout, c.NodeIdleTimeout
	o.DrainTimeout, o.RetryShare = c.DrainTimeout, c.RetryShare
	o.Picker.SlowStart = c.SlowStart
	o.MaxConnections = c.MaxConnections
	if (c.Cert == "") != (c.Key == "") {
		return o, errors.New("--tls-cert and --tls-key go together")
	}
	if (c.NodeCert == "") != (c.NodeKey == "") {
		return o, errors.New("--node-cert and --node-key go together")
	}
	for _, d := range []struct {
		flag string
		time.Duration
	}{
		{"header-timeout", c.HeaderTimeout}, {"body-timeout", c.BodyTimeout}, {"idle-timeout", c.IdleTimeout},
		{"connect-timeout", c.ConnectTimeout}, {"response-timeout", c.ResponseTimeout}, {"node-idle-timeout", c.NodeIdleTimeout},
		{"nodes-refresh", c.Refresh}, {"slow-start", c.SlowStart},
	} {
		if d.Duration <= 0 {
			return o, fmt.Errorf("--%s must be longer than nothing", d.flag)
		}
	}
	if c.RetryShare < 0 {
		return o, errors.New("--retry-share must not be negative")
	}
	var err error
	if o.Trusted, err = peer.ParseTrusted(c.Trusted); err != nil {
		return o, fmt.Errorf("--trusted-proxies: %w", err)
	}
	if o.NodeTLS, err = balance.NewNodeTLS(balance.NodeTLSOptions{CAFile: c.NodeCA, CertFile: c.NodeCert, KeyFile: c.NodeKey, ServerName: c.NodeServerName}); err != nil {
		return o, fmt.Errorf("TLS to servers: %w", err)
	}
	switch {
	case c.NodesDNS != "":
		scheme, hostPort, ok := strings.Cut(c.NodesDNS, "://")
		if !ok {
			scheme, hostPort = "http", c.NodesDNS
		}
		if _, err := balance.ParseNode(scheme + "://" + hostPort); err != nil {
			return o, fmt.Errorf("--nodes-dns: %w", err)
		}
		if _, _, err := net.SplitHostPort(hostPort); err != nil {
			return o, fmt.Errorf("--nodes-dns: %w", err)
		}
		o.Nodes = balance.DNS{HostPort: hostPort, Scheme: scheme, Every: c.Refresh}
	case c.NodesFile != "":
		o.Nodes = balance.File{Path: c.NodesFile, Every: c.Refresh}
	case len(c.Discover) > 0:
		if err := areNodes("discover", c.Discover); err != nil {
			return o, err
		}
		o.Nodes = balance.Discovery{Seeds: c.Discover, Every: o.PollEvery, TLS: o.NodeTLS}
	default:
		if err := areNodes("node", c.Nodes); err != nil {
			return o, err
		}
		o.Nodes = balance.Static(c.Nodes)
	}
	if o.MaxConnections == 0 {
		files, err := loadgen.RaiseFileLimit()
		if err != nil {
			return o, fmt.Errorf("file limit: %w", err)
		}
		// Each may have one connection to a server.
		o.MaxConnections = max((files-spareBalanceFiles)/2, 64)
	}
	return o, nil
}

// areNodes checks the URLs of a flag.
func areNodes(flag string, urls []string) error {
	for _, s := range urls {
		if _, err := balance.ParseNode(s); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	return nil
}
