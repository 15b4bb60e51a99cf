package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/net/netutil"

	"github.com/esh3artech/esh3ar/internal/ingest"
)

// spareFiles are the descriptors that connections must leave for the journal, the store and the rest.
const spareFiles = 512

// listen binds the addresses and builds what serves them.
func (n *Node) listen(ctx context.Context, api *ingest.API) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return err
	}
	n.info.Addr = l.Addr().String()
	most := n.cfg.MaxConnections
	if most == 0 {
		if most, err = fileLimit(); err != nil {
			l.Close()
			return fmt.Errorf("file limit: %w", err)
		}
		most = max(most-spareFiles, 64)
	}
	n.listener = netutil.LimitListener(l, most)
	n.front = ingest.NewFront(api, n.listener, ingest.FrontOptions{
		HeaderTimeout: n.cfg.HeaderTimeout, BodyTimeout: n.cfg.BodyTimeout, IdleTimeout: n.cfg.IdleTimeout,
		Metrics: n.health.Registry(),
	})

	mux := http.NewServeMux()
	shared := crossOrigin(n.cfg.AllowedOrigins)
	mux.Handle("/v1/", shared(api))
	n.hub.Mount(mux, "/hubs/mobile")
	n.business.Mount(mux, "/hubs/business")
	h := n.health.Handler()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, h)
	}
	n.http = &http.Server{
		Handler:           mux,
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

// serve serves what the front hands over until the server is shut down.
func (n *Node) serve() error {
	if err := n.http.Serve(n.front); !errors.Is(err, http.ErrServerClosed) {
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
