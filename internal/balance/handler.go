package balance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
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
	case "/metrics": // of the node that happened to be picked, and nobody's business here
		h.tell(w, &problem{status: http.StatusNotFound, code: "no_such_route", detail: "there is no such route", permanent: true})
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
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = "node"
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

// roundTripper sends a request to a node, and to another one where that is right.
type roundTripper struct {
	balancer *Balancer
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper. Its error is a *problem unless the client has gone.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	from, _ := req.Context().Value(bodyKey).(*clientBody) // the proxy may have wrapped req.Body
	fault := func(err error) error {
		if from != nil {
			if p := from.fault.Load(); p != nil {
				return p
			}
		}
		return err
	}
	body, replayable, err := replay(req)
	if err != nil {
		return nil, fault(err)
	}
	var way attempts
	way.begin(t.balancer, safetyOf(req))
	way.stream = req.Context().Value(streamKey) != nil
	way.affinity = affinityOf(req)
	var refusal *http.Response
	for {
		n := way.next()
		if n == nil {
			break
		}
		out, sent, cancel := onNode(req, n, body)
		start := time.Now()
		resp, err := t.next.RoundTrip(out)
		latency := time.Since(start)
		var content []byte
		whole := false
		if err == nil && resp.StatusCode >= http.StatusOK {
			if !way.stream || resp.ContentLength >= 0 {
				resp.Body = newWatchedBody(resp.Body, t.balancer.opts.ResponseTimeout, cancel)
			}
			content, whole, err = readWhole(resp)
		}
		if err != nil {
			cancel()
			if err := fault(nil); err != nil || req.Context().Err() != nil {
				way.done(n, picker.Void, 0)
				return nil, cmp.Or(err, req.Context().Err())
			}
			way.done(n, picker.Failed, 0)
			f := failure{err: err, sent: sent(), timeout: isTimeout(err)}
			if way.again(n, f, replayable || !f.sent, false) {
				continue
			}
			return nil, way.problem()
		}
		status, isProblem := resp.StatusCode, resp.Header.Get("Content-Type") == "application/problem+json"
		elsewhere, result := false, resultOf(status)
		if whole {
			elsewhere, result = way.judge(status, isProblem, content)
		} else if way.stream {
			resp.Body = endsWith(resp.Body, func() {
				cancel()
				way.done(n, result, latency)
			})
			return resp, nil
		}
		way.done(n, result, latency)
		if elsewhere && way.refused(n, replayable) {
			refusal = resp
			continue
		}
		if way.veiled(status) && !isUnknown(status, isProblem, content) {
			resp.Body.Close()
			return nil, failed(failure{sent: true}, true)
		}
		return resp, nil
	}
	if refusal != nil && !way.unknown {
		return refusal, nil
	}
	return nil, way.problem()
}

// readWhole reads an answer that is short and puts it back. Whole says that it did so. So a node that breaks
// off in the middle is a failure that can be told, or made good by another node.
func readWhole(resp *http.Response) (content []byte, whole bool, err error) {
	if resp.ContentLength < 0 || resp.ContentLength > wholeAnswer {
		return nil, false, nil
	}
	content, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(content))
	return content, true, err
}

// watchedBody is the body of an answer that a node must not stop sending for longer than a limit.
type watchedBody struct {
	io.ReadCloser
	limit  time.Duration
	cancel context.CancelFunc // of the request
	timer  *time.Timer
	over   atomic.Bool
}

func newWatchedBody(body io.ReadCloser, limit time.Duration, cancel context.CancelFunc) *watchedBody {
	b := &watchedBody{ReadCloser: body, limit: limit, cancel: cancel}
	b.timer = time.AfterFunc(limit, func() {
		b.over.Store(true)
		cancel()
	})
	b.timer.Stop()
	return b
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && b.over.Load() {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel()
	return b.ReadCloser.Close()
}

// replay takes a short body into memory. It reports whether all of it is there.
func replay(req *http.Request) (body []byte, replayable bool, err error) {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 {
		req.Body = nil
		return nil, true, nil
	}
	if req.ContentLength > replayBuffer {
		return nil, false, nil
	}
	body, err = io.ReadAll(io.LimitReader(req.Body, replayBuffer+1))
	if err != nil {
		return nil, false, err
	}
	if len(body) <= replayBuffer {
		req.Body.Close()
		return body, true, nil
	}
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), req.Body), req.Body}
	return nil, false, nil
}

// onNode returns the request as it goes to a node. Sent tells, once the request has ended, whether the
// node may have got some of it. Cancel gives the request up, and is due when the answer's body has ended.
func onNode(req *http.Request, n *backend, body []byte) (out *http.Request, sent func() bool, cancel context.CancelFunc) {
	ctx, cancel := context.WithCancel(req.Context())
	connected := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	out = req.WithContext(httptrace.WithClientTrace(ctx, trace))
	u := *req.URL
	u.Host = n.address
	out.URL = &u
	if body != nil {
		out.ContentLength = int64(len(body))
		out.TransferEncoding = nil
		out.Body = io.NopCloser(bytes.NewReader(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	} else if req.Body != nil {
		out.Body = io.NopCloser(req.Body) // a transport closes it also where it could not be sent
	}
	return out, func() bool { return connected }, cancel
}

// endsWith calls end once when body is closed. A body that can be written to (a WebSocket) remains so.
func endsWith(body io.ReadCloser, end func()) io.ReadCloser {
	once := sync.OnceFunc(end)
	if rwc, ok := body.(io.ReadWriteCloser); ok {
		return &endingReadWriter{rwc, once}
	}
	return &endingReader{body, once}
}

type endingReader struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (b *endingReader) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

type endingReadWriter struct {
	io.ReadWriteCloser
	end func()
}

// Close implements io.Closer.
func (b *endingReadWriter) Close() error {
	b.end()
	return b.ReadWriteCloser.Close()
}

// affinityOf returns what must meet at one node: the requests of one caller to a hub, where negotiation, connection
// and long polls belong together.
func affinityOf(r *http.Request) uint64 {
	if !strings.HasPrefix(path.Clean(r.URL.Path), "/hubs/") {
		return 0
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if token = q.Get("access_token"); err != nil || token == "" {
			return 0
		}
	}
	return picker.Affinity(token)
}

// bufferPool lends the proxy its buffers.
type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return p.pool.Get().([]byte) }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.pool.Put(b) } //nolint:staticcheck // SA6002: the interface takes the slice
