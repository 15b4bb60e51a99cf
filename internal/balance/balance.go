// Package balance spreads the requests of business clients over the nodes of a deployment. Balancers
// share nothing, so any number may run side by side; which node gets a request is decided by the package picker.
package balance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/balance/picker"
	"github.com/esh3artech/esh3ar/internal/certificate"
	"github.com/esh3artech/esh3ar/internal/peer"
)

// Options say how a Balancer works. Those without a default are required.
type Options struct {
	// Listen is the address for clients, Admin the one for /metrics, /nodes and /healthz; "" for none.
	Listen, Admin string
	// Nodes tells which nodes there are.
	Nodes Nodes
	// CertFile and KeyFile are the certificate and the key for TLS, in PEM; both empty for plain HTTP.
	CertFile, KeyFile string
	// NodeTLS says how nodes with https URLs are spoken to; nil for what the zero NodeTLSOptions say.
	NodeTLS *NodeTLS
	// Trusted are the peers whose word is taken for who their clients are.
	Trusted peer.Trusted
	// ProxyProtocol has connections to nodes begin with a PROXY header (version 2). Nodes must trust this
	// process. Connections to nodes are then not shared among clients.
	ProxyProtocol bool

	// MaxConnections bounds the clients' connections; further ones wait to be accepted. 0 for no bound.
	MaxConnections int
	// MaxBody is the longest body of a request, in bytes.
	MaxBody int64
	// HeaderTimeout, BodyTimeout and IdleTimeout are how long a client may take for a request's header, for its body, and between
	// two requests or to read an answer. They are kept to within a second.
	HeaderTimeout, BodyTimeout, IdleTimeout time.Duration
	// ConnectTimeout and ResponseTimeout are how long a node may take to accept a connection and to begin
	// its answer; ResponseTimeout also bounds its silence within one.
	ConnectTimeout, ResponseTimeout time.Duration
	// NodeIdleTimeout is how long a connection to a node is kept without a request. It must be shorter than
	// the nodes' idle time-out.
	NodeIdleTimeout time.Duration
	// PollEvery is how often nodes are asked how they are, and the certificate's files are looked at.
	PollEvery time.Duration
	// DrainTimeout is how long a stop may take to finish requests under way.
	DrainTimeout time.Duration
	// RetryShare is how many requests may be sent again for each that comes in, beside those that never
	// arrived.
	RetryShare float64
	// Picker tunes the picker.
	Picker picker.Options
	// Logger takes the log.
	Logger *slog.Logger
}

// DefaultOptions returns options that work, but for the addresses, the nodes and the logger.
func DefaultOptions() Options {
	return Options{
		MaxBody:       esh3ar.MaxBatchBytes,
		HeaderTimeout: 10 * time.Second, BodyTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ConnectTimeout: time.Second, ResponseTimeout: 30 * time.Second, NodeIdleTimeout: 30 * time.Second,
		PollEvery: time.Second, DrainTimeout: 20 * time.Second,
		RetryShare: 0.2,
		Picker:     picker.DefaultOptions(),
	}
}

// retrySavings is how many retries may be saved up for a bad moment.
const retrySavings = 100

// Balancer takes requests and passes them on. It holds its parts so:
//
//	clients ──► front ── plain HTTP/1.1 ──► clientConn ── exchange ──┐
//	              └── everything else ──► http.Server ── handler ────┤
//	                                                        attempts │ pick, done
//	                                                                 ▼
//	         Nodes ── set ──► backends, picker.Picker ◄── report ── poller ──► /readyz of the nodes
type Balancer struct {
	opts     Options
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics

	front   *front
	handler *handler
	http    *http.Server
	admin   *http.Server
	poller  *poller
	cert    *certificate.Source[tls.Certificate] // nil without TLS

	adminListener net.Listener

	// streams ends when long-lived responses are to end; upgrades are the WebSockets, which an http.Server
	// does not know any more.
	streams    context.Context
	endStreams context.CancelFunc
	upgrades   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	picker   *picker.Picker
	budget   *picker.Budget
	backends map[string]*backend
}

// New binds the addresses and reads the certificate. Nothing is served before Run; a Balancer that is not
// run must be closed.
func New(ctx context.Context, o Options) (b *Balancer, err error) {
	if o.NodeTLS == nil {
		o.NodeTLS = new(NodeTLS)
	}
	b = &Balancer{
		opts: o, log: o.Logger, registry: prometheus.NewRegistry(),
		picker: picker.New(o.Picker), budget: picker.NewBudget(o.RetryShare, retrySavings), backends: make(map[string]*backend),
	}
	b.streams, b.endStreams = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			b.Close()
			b = nil
		}
	}()
	var config *tls.Config
	if o.CertFile != "" || o.KeyFile != "" {
		if b.cert, err = certificate.Pair(o.CertFile, o.KeyFile); err != nil {
			return b, err
		}
		config = certificate.Server(b.cert, "h2", "http/1.1")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return b, err
	}
	if o.MaxConnections > 0 {
		l = netutil.LimitListener(l, o.MaxConnections)
	}
	b.front = newFront(b, o.Trusted.Listener(l, o.HeaderTimeout), config)
	b.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	b.metrics = newMetrics(b, b.registry)
	b.poller = newPoller(b)
	b.handler = newHandler(b)
	b.http = &http.Server{
		Handler:           b.handler,
		ConnContext:       b.handler.connContext,
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	if o.Admin != "" {
		if b.adminListener, err = lc.Listen(ctx, "tcp", o.Admin); err != nil {
			return b, err
		}
		b.admin = &http.Server{
			Handler: b.adminHandler(), ReadHeaderTimeout: o.HeaderTimeout,
			ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		}
	}
	return b, nil
}

// Addr is the address for clients, with the real port; AdminAddr the other, nil if there is none.
func (b *Balancer) Addr() net.Addr { return b.front.Addr() }

// AdminAddr is the address of the admin listener, nil if there is none.
func (b *Balancer) AdminAddr() net.Addr {
	if b.adminListener == nil {
		return nil
	}
	return b.adminListener.Addr()
}

// Run serves until ctx ends or a part fails, then stops in order and closes everything.
//
// The order of the stop, and why: no connection is taken any more and /readyz says no, so that clients go to another
// balancer; streams and WebSockets, which would never end by themselves, are cut, for their clients resume
// them elsewhere; requests under way get their answer, for at most the drain timeout; polling and the admin
// listener end last, because they tell how the stop goes.
func (b *Balancer) Run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	background, stop := context.WithCancel(base)
	defer stop()
	g, failed := errgroup.WithContext(base)
	g.Go(b.front.run)
	g.Go(func() error {
		if err := b.http.Serve(b.front); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	if b.admin != nil {
		g.Go(func() error {
			if err := b.admin.Serve(b.adminListener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("admin listener: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error { return quiet(b.poller.run(background)) })
	g.Go(func() error { return quiet(b.watch(background)) })
	g.Go(func() error { return quiet(b.sweep(background)) })
	if b.cert != nil {
		g.Go(func() error { return quiet(b.cert.Run(background, b.opts.PollEvery, b.reloaded)) })
	}
	g.Go(func() error { return quiet(b.opts.NodeTLS.run(background, b.opts.PollEvery, b.reloaded)) })

	select {
	case <-ctx.Done():
		b.log.Info("stopping")
	case <-failed.Done():
		b.log.Error("stopping after a failure", "err", context.Cause(failed))
	}
	drain, cancel := context.WithTimeout(base, max(b.opts.DrainTimeout, time.Millisecond))
	defer cancel()
	b.endStreams()
	var plain errgroup.Group
	plain.Go(func() error { return b.front.shutdown(drain) })
	if err := errors.Join(b.http.Shutdown(drain), plain.Wait()); err != nil {
		b.log.Warn("requests under way were cut off", "err", err)
		b.http.Close()
	}
	b.upgrades.Wait()
	stop()
	if b.admin != nil {
		b.admin.Close()
	}
	err := g.Wait()
	b.Close()
	b.log.Info("stopped")
	return err
}

// quiet takes the end of a context for no error.
func quiet(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close releases everything. Run does it by itself.
func (b *Balancer) Close() {
	b.endStreams()
	if b.front != nil {
		// Closed already after Run.
		_ = b.front.Close()
	}
	if b.adminListener != nil {
		_ = b.adminListener.Close()
	}
	if b.handler != nil {
		b.handler.transport.CloseIdleConnections()
	}
	b.mu.Lock()
	backends := b.backends
	b.backends = nil
	b.mu.Unlock()
	for _, n := range backends {
		n.close()
	}
}

// reloaded tells that a certificate's files have changed, and why they cannot be used, if they cannot.
func (b *Balancer) reloaded(err error) {
	if err != nil {
		b.metrics.reloads.WithLabelValues("failed").Inc()
		b.log.Warn("a certificate's files cannot be used; what they held before stays", "err", err)
		return
	}
	b.metrics.reloads.WithLabelValues("loaded").Inc()
	b.log.Info("a certificate was read again")
}

// watch follows the set of nodes.
func (b *Balancer) watch(ctx context.Context) error {
	return b.opts.Nodes.Watch(ctx, b.set, func(err error) {
		b.log.Warn("the nodes cannot be looked up; the ones known stay", "err", err)
	})
}

// set makes urls the set of nodes.
func (b *Balancer) set(urls []string) {
	ids := make([]string, 0, len(urls))
	keep := make(map[string]bool, len(urls))
	var left []*backend
	b.mu.Lock()
	for _, s := range urls {
		u, err := ParseNode(s)
		if err != nil {
			b.log.Warn("not taken for a node", "err", err)
			continue
		}
		id := u.String()
		if keep[id] {
			continue
		}
		keep[id] = true
		ids = append(ids, id)
		if b.backends[id] == nil {
			b.backends[id] = &backend{id: id, scheme: u.Scheme, address: u.Host, tls: b.opts.NodeTLS, metrics: b.metrics.node(id)}
		}
	}
	b.picker.Set(time.Now(), ids)
	for id, n := range b.backends {
		if !keep[id] {
			delete(b.backends, id)
			left = append(left, n)
		}
	}
	b.mu.Unlock()
	for _, n := range left {
		n.close()
		b.metrics.forget(n.id)
	}
	select {
	case b.poller.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// sweep closes connections to nodes that nobody has used for long, and sets the clock of answers.
func (b *Balancer) sweep(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			b.front.tick(now)
			for _, n := range b.nodes() {
				n.expire(now.Add(-b.opts.NodeIdleTimeout))
			}
		}
	}
}

func (b *Balancer) nodes() []*backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*backend, 0, len(b.backends))
	for _, n := range b.backends {
		all = append(all, n)
	}
	return all
}

func (b *Balancer) report(id string, h picker.Health) {
	now := time.Now()
	b.mu.Lock()
	b.picker.Report(now, id, h)
	n := b.backends[id]
	b.mu.Unlock()
	if n != nil && h.State == picker.Draining {
		n.expire(now) // the node waits for them
	}
}

func (b *Balancer) views() []picker.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.picker.Views(time.Now())
}
