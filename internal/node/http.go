package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/net/netutil"

	"github.com/esh3artech/esh3ar/internal/apidoc"
	"github.com/esh3artech/esh3ar/internal/certificate"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/ingest"
	"github.com/esh3artech/esh3ar/internal/peer"
)

// spareFiles are the descriptors that connections must leave for the journal, the store and the rest.
const spareFiles = 512

// Paths of the hubs.
const (
	mobileHub   = "/hubs/mobile"
	businessHub = "/hubs/business"
)

// certificateEvery is how often the certificate's files are looked at.
const certificateEvery = time.Second

// scheme is that of the URLs of what is served.
func (c *Config) scheme() string {
	if c.TLSCert != "" {
		return "https"
	}
	return "http"
}

// listen binds the addresses and builds what serves them.
func (n *Node) listen(ctx context.Context, api *ingest.API) (err error) {
	if n.cfg.TLSCert != "" {
		if n.cert, err = certificate.Pair(n.cfg.TLSCert, n.cfg.TLSKey); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return err
	}
	n.info.Addr, n.info.TLS = l.Addr().String(), n.cert != nil
	most := n.cfg.MaxConnections
	if most == 0 {
		if most, err = fileLimit(); err != nil {
			l.Close()
			return fmt.Errorf("file limit: %w", err)
		}
		most = max(most-spareFiles, 64)
	}
	trusted, err := peer.ParseTrusted(n.cfg.TrustedProxies)
	if err != nil {
		l.Close()
		return err
	}
	n.health.TellCapacity(n.capacity(most))
	limited := countConnections(netutil.LimitListener(l, most), n.health.Registry())
	n.listener = trusted.Listener(limited, n.cfg.HeaderTimeout)
	if n.cert != nil {
		// A handshake is part of the first read of a request's header, and in its time-out.
		n.listener = tls.NewListener(n.listener, certificate.Server(n.cert, "http/1.1"))
	}
	n.front = ingest.NewFront(api, n.listener, ingest.FrontOptions{
		HeaderTimeout: n.cfg.HeaderTimeout, BodyTimeout: n.cfg.BodyTimeout, IdleTimeout: n.cfg.IdleTimeout,
		Trusted: trusted, Metrics: n.health.Registry(),
	})

	n.http = &http.Server{
		Handler:           trusted.Handler(n.routes(api, trusted)),
		ReadHeaderTimeout: n.cfg.HeaderTimeout,
		ReadTimeout:       n.cfg.HeaderTimeout + n.cfg.BodyTimeout,
		IdleTimeout:       n.cfg.IdleTimeout,
		MaxHeaderBytes:    16 << 10,
		// Its complaints are about clients, one for each that hangs up in mid-request.
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	if n.cfg.DebugListen != "" {
		if n.debug, err = newDebugServer(ctx, n.cfg.DebugListen); err != nil {
			return err
		}
	}
	return nil
}

// watchCertificate reads the certificate's files again when they have changed, until ctx ends.
func (n *Node) watchCertificate(ctx context.Context) error {
	return n.cert.Run(ctx, certificateEvery, func(err error) {
		if err != nil {
			n.log.Warn("the certificate's files cannot be used; the one before stays", "err", err)
			return
		}
		n.log.Info("the certificate was read again")
	})
}

// routes returns what serves each path, and notes which there are but for the one that is for balancers alone.
func (n *Node) routes(api *ingest.API, trusted peer.Trusted) *http.ServeMux {
	mux := http.NewServeMux()
	n.paths = make(map[string][]string)
	shared := crossOrigin(n.cfg.AllowedOrigins)
	mux.Handle("/v1/", shared(api))
	maps.Copy(n.paths, api.Routes())
	n.hub.Mount(mux, mobileHub)
	n.business.Mount(mux, businessHub)
	for _, path := range []string{mobileHub, businessHub} {
		n.paths[path] = []string{http.MethodDelete, http.MethodGet, http.MethodPost}
		n.paths[path+"/negotiate"] = []string{http.MethodPost}
	}
	docs := apidoc.New()
	// Tools in browsers read the description, too.
	documents := shared(docs)
	read := []string{http.MethodGet, http.MethodHead}
	for _, path := range docs.Patterns() {
		mux.Handle(path, documents)
		n.paths[path] = read
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, n.health.Handler())
		n.paths[path] = read
	}
	mux.Handle(health.ListingPath, n.serveListing(trusted)) // of any method: it must not show
	return mux
}

// Routes returns the patterns of all paths that are served, with the methods that each takes. The caller must
// not change it.
func (n *Node) Routes() map[string][]string { return n.paths }

// serve serves what the front hands over until the server is shut down. The two are told to stop at the same
// time, and the front may be faster: then there is nothing more to accept before the server knows why. A front
// that breaks says so itself.
func (n *Node) serve() error {
	if err := n.http.Serve(n.front); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// debugServer serves the Go profiler on an address of its own.
type debugServer struct {
	http *http.Server
	done chan struct{}
}

func newDebugServer(ctx context.Context, address string) (*debugServer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	d := &debugServer{
		http: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		done: make(chan struct{}),
	}
	go func() {
		defer close(d.done)
		_ = d.http.Serve(l) // until Close
	}()
	return d, nil
}

func (d *debugServer) Close() error {
	err := d.http.Close()
	<-d.done
	return err
}
