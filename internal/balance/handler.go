package balance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// handler serves what the front hands over, by the standard library's proxy: HTTP/2, uploads without a
// length, event streams, WebSockets, HTTP/1.0.
type handler struct {
	balancer  *Balancer
	proxy     *httputil.ReverseProxy
	transport *http.Transport
}

type contextKey int

const (
	forwardedKey contextKey = iota // *forwarded of the connection
	onceKey                        // true if the connection is here for one request
	clientKey                      // net.Addr of the client, for the PROXY header
	streamKey                      // true if the answer may last long
	bodyKey                        // *clientBody
)

func newHandler(b *Balancer) *handler {
	h := &handler{balancer: b}
	o := &b.opts
	h.transport = &http.Transport{
		DialContext:           h.dial,
		DialTLSContext:        h.dialTLS,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       o.NodeIdleTimeout,
		ResponseHeaderTimeout: o.ResponseTimeout,
		// A connection with a PROXY header is that client's alone.
		DisableKeepAlives: o.ProxyProtocol,
	}
	h.proxy = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     &roundTripper{b, h.transport},
		FlushInterval: -1, // at once
		ErrorHandler:  h.failed,
		ErrorLog:      slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
		BufferPool:    &bufferPool{sync.Pool{New: func() any { return make([]byte, 32<<10) }}},
	}
	return h
}

func (h *handler) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: h.balancer.opts.ConnectTimeout}
	c, err := d.DialContext(ctx, network, address)
	if err != nil || !h.balancer.opts.ProxyProtocol {
		return c, err
	}
	if client, ok := ctx.Value(clientKey).(net.Addr); ok {
		if err := announce(c, h.balancer.opts.ConnectTimeout, client); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// dialTLS is dial for nodes with https URLs.
func (h *handler) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := h.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.balancer.opts.ConnectTimeout)
	defer cancel()
	return h.balancer.opts.NodeTLS.client(ctx, c, address)
}

// connContext notes what requests of a connection need to know of it.
func (h *handler) connContext(ctx context.Context, c net.Conn) context.Context {
	if handed, ok := c.(*handedConn); ok {
		ctx = context.WithValue(ctx, onceKey, true)
		ctx = context.WithValue(ctx, forwardedKey, handed.fwd)
	} else {
		ctx = context.WithValue(ctx, forwardedKey, newForwarded(c.RemoteAddr().String(), true, h.balancer.opts.Trusted))
	}
	return context.WithValue(ctx, clientKey, c.RemoteAddr())
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b := h.balancer
	upgrade := r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	if !upgrade {
		// Another protocol's requests would go past everything that looks at them.
		r.Header.Del("Upgrade")
	}
	if once, _ := r.Context().Value(onceKey).(bool); once && !upgrade {
		w.Header().Set("Connection", "close")
	}
	switch path.Clean(r.URL.Path) {
	case "/metrics", health.ListingPath: // of the node that happened to be picked, and nobody's business here
		h.tell(w, unknownRoute())
		return
	case "/healthz", "/readyz":
		b.serveHealth(w, r)
		return
	}
	if r.ContentLength > b.opts.MaxBody {
		h.tell(w, bodyTooLarge())
		return
	}
	if r.Body != nil && r.Body != http.NoBody && !upgrade {
		body := newClientBody(w, r, b.opts.MaxBody, b.opts.BodyTimeout)
		r = r.WithContext(context.WithValue(r.Context(), bodyKey, body))
		r.Body = body
	}
	stream := upgrade || strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	if stream {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		stop := context.AfterFunc(b.streams, cancel)
		defer stop()
		r = r.WithContext(context.WithValue(ctx, streamKey, true))
		if upgrade {
			b.upgrades.Add(1)
			defer b.upgrades.Done()
		}
	}
	h.proxy.ServeHTTP(w, r)
}

func (h *handler) tell(w http.ResponseWriter, p *problem) {
	h.balancer.metrics.problems.WithLabelValues(p.code).Inc()
	p.serve(w)
}

// rewrite makes the request that goes to a node. Which one it is, the roundTripper says.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "node"
	r.Out.Host = r.In.Host
	if f, ok := r.In.Context().Value(forwardedKey).(*forwarded); ok {
		f.setOn(r.Out.Header, r.In.Header)
	}
	if _, ok := r.In.Header["User-Agent"]; !ok {
		r.Out.Header.Set("User-Agent", "") // or net/http would add its own
	}
}

// failed answers what no node answered.
func (h *handler) failed(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*problem](err)
	switch {
	case ok:
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // the client has gone: it must not see what looks like an answer
	default:
		p = failed(failure{err: err, sent: true}, safetyOf(r) == once)
	}
	h.tell(w, p)
}

// clientBody is the body of a request as it comes from the client. It is bounded in length and in time,
// and remembers if it failed: that is no failure of the node that it was on its way to.
type clientBody struct {
	io.ReadCloser
	control *http.ResponseController
	fault   atomic.Pointer[problem]
}

func newClientBody(w http.ResponseWriter, r *http.Request, most int64, limit time.Duration) *clientBody {
	b := &clientBody{ReadCloser: http.MaxBytesReader(w, r.Body, most), control: http.NewResponseController(w)}
	// Where a deadline cannot be set, the connection's own remain.
	_ = b.control.SetReadDeadline(time.Now().Add(limit))
	return b
}

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		_ = b.control.SetReadDeadline(time.Time{}) // the deadline is the body's, not the answer's
	case errors.As(err, new(*http.MaxBytesError)):
		b.fault.Store(bodyTooLarge())
	case isTimeout(err):
		b.fault.Store(slowBody())
	default:
		b.fault.Store(brokenBody())
	}
	return n, err
}

// bufferPool lends the proxy its buffers.
type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return p.pool.Get().([]byte) }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.pool.Put(b) } //nolint:staticcheck // SA6002: the interface takes the slice
