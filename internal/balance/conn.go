package balance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/http1"
)

const (
	// clientBuffer is what a connection of a client reads at one time; it grows for a longer request.
	clientBuffer = 4 << 10
	// maxRequestHeader bounds a request's header, as the nodes do.
	maxRequestHeader = 16 << 10
	// replayBuffer is the longest body that is kept to send it again: a message. A longer one is passed on
	// as it comes, and once a node may have got some of it there is no second try.
	replayBuffer = 64 << 10
	// keepBuffer is the largest buffer that a connection keeps between two requests.
	keepBuffer = 16 << 10
	// lingerTime and lingerBytes bound what is read and dropped after an answer that came before the
	// request's end, so that the client reads it rather than a reset.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// errTooLarge: a header does not end in time.
var errTooLarge = errors.New("the header is too large")

// clientConn is a connection of a client. It has one goroutine, serve; others call endIdle and abort.
type clientConn struct {
	net.Conn          // over TLS, if there is
	raw      net.Conn // below it
	front    *front
	fwd      *forwarded
	client   net.Addr // for the PROXY header to nodes; nil for none

	idle  atomic.Bool              // waits for the first byte of a request
	using atomic.Pointer[upstream] // the connection to a node of the request at hand
	own   map[*backend]*upstream   // connections to nodes that belong to this one (PROXY protocol)
	way   attempts
	at    exchange

	buf     []byte // read from the client and not yet worked off
	out     []byte // the request as it goes to a node
	answer  []byte // the header of the answer as it goes to the client, then all of it
	refusal []byte // the answer of a node that refused

	reading, writing deadline
	headerBy         time.Time // when the header at hand must be whole; zero before its first byte
}

// endIdle ends the connection if it waits for a request.
func (c *clientConn) endIdle() {
	if c.idle.Load() {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// abort ends it at once. It is for the end of a drain: the connection to a node that it closes may be
// another client's by now, which is cut off as well.
func (c *clientConn) abort() {
	c.raw.Close()
	if u := c.using.Load(); u != nil {
		u.Close()
	}
}

// serve works off the connection's requests until it ends or is handed over.
func (c *clientConn) serve() {
	defer c.front.remove(c)
	handed := false
	defer func() {
		if v := recover(); v != nil {
			c.front.balancer.log.Error("a request was not answered", "err", fmt.Sprintf("panic: %v\n%s", v, debug.Stack()))
		}
		for _, u := range c.own {
			u.Close()
		}
		if !handed {
			c.Conn.Close()
		}
	}()
	h2, err := c.start()
	if err != nil {
		return
	}
	if h2 {
		handed = c.front.handOver(c.Conn)
		return
	}
	c.buf = make([]byte, 0, clientBuffer)
	for {
		r, out, v, why := parseRequest(c.buf, c.out[:0], c.fwd)
		c.out = out
		switch v {
		case plain:
			c.headerBy = time.Time{}
			if !c.forward(r) {
				return
			}
			c.trim()
		case other:
			c.Conn.SetDeadline(time.Time{}) // net/http sets its own
			handed = c.front.handOver(&handedConn{http1.HandedConn{Conn: c.Conn, Rest: c.buf}, c.fwd})
			if !handed {
				c.refuse(draining())
			}
			return
		case bad:
			c.refuse(why.problem())
			return
		case partial:
			if len(c.buf) >= maxRequestHeader {
				c.refuse(headerTooLarge())
				return
			}
			if !c.read() {
				return
			}
		}
	}
}

// start does what comes before the first request. It reports whether the client speaks HTTP/2.
func (c *clientConn) start() (h2 bool, err error) {
	f, opts := c.front, &c.front.balancer.opts
	if f.tls != nil {
		t := tls.Server(c.Conn, f.tls)
		ctx, cancel := context.WithTimeout(context.Background(), opts.HeaderTimeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			return false, err
		}
		c.Conn = t
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			return true, nil
		}
	}
	c.fwd = newForwarded(c.Conn.RemoteAddr().String(), f.tls != nil, opts.Trusted)
	if opts.ProxyProtocol {
		c.client = c.Conn.RemoteAddr()
		c.own = make(map[*backend]*upstream)
	}
	return false, nil
}

// read reads more of a header. It reports false when the connection is at its end.
func (c *clientConn) read() bool {
	opts := &c.front.balancer.opts
	if len(c.buf) == cap(c.buf) {
		c.grow(2 * cap(c.buf))
	}
	waits := len(c.buf) == 0
	if waits {
		c.readWithin(opts.IdleTimeout)
	} else if c.headerBy.IsZero() {
		// For the header as a whole: a client that sends it byte by byte gains nothing.
		c.headerBy = time.Now().Add(opts.HeaderTimeout)
		c.reading = deadline{c.headerBy}
		c.Conn.SetReadDeadline(c.headerBy)
	}
	if waits {
		// Whoever drains looks at idle after closed, and this looks at closed after idle: one of them sees.
		c.idle.Store(true)
		if c.front.isDraining() {
			return false
		}
	}
	n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
	if waits {
		c.idle.Store(false)
	}
	c.buf = c.buf[:len(c.buf)+n]
	if n == 0 && err != nil {
		if !waits && errors.Is(err, os.ErrDeadlineExceeded) {
			c.refuse(slowHeader())
		}
		return false
	}
	return true
}

func (c *clientConn) grow(size int) {
	c.buf = append(make([]byte, 0, size), c.buf...)
}

// trim lets go of what a large request needed.
func (c *clientConn) trim() {
	if cap(c.buf) > keepBuffer && len(c.buf) <= clientBuffer {
		c.grow(clientBuffer)
	}
	if cap(c.out) > keepBuffer {
		c.out = nil
	}
	if cap(c.answer) > keepBuffer {
		c.answer = nil
	}
	c.refusal = nil
}

// body reads from the client until the buffer holds all of a request of n bytes. What it cannot read it
// tells the client, and reports false.
func (c *clientConn) body(n int) bool {
	if cap(c.buf) < n {
		c.grow(n)
	}
	if len(c.buf) >= n {
		return true
	}
	c.readWithin(c.front.balancer.opts.BodyTimeout)
	for len(c.buf) < n {
		m, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+m]
		if m == 0 && err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.refuse(slowBody())
			}
			return false
		}
	}
	return true
}

// consume takes n bytes off the buffer.
func (c *clientConn) consume(n int) {
	c.buf = c.buf[:copy(c.buf, c.buf[n:])]
}

func (c *clientConn) readWithin(limit time.Duration) {
	if t, set := c.reading.extend(time.Now(), limit); set {
		c.Conn.SetReadDeadline(t)
	}
}

// write writes to the client.
func (c *clientConn) write(now time.Time, p []byte) error {
	if t, set := c.writing.extend(now, c.front.balancer.opts.IdleTimeout); set {
		c.Conn.SetWriteDeadline(t)
	}
	_, err := c.Conn.Write(p)
	return err
}

// refuse answers with a problem of the balancer's own and ends the connection.
func (c *clientConn) refuse(p *problem) {
	c.tell(p, false, true)
	c.linger()
}

// tell answers with a problem of the balancer's own. It reports whether that worked.
func (c *clientConn) tell(p *problem, isHead, last bool) bool {
	c.front.balancer.metrics.problems.WithLabelValues(p.code).Inc()
	c.answer = p.response(c.answer[:0], *c.front.date.Load(), isHead, last)
	return c.write(time.Now(), c.answer) == nil
}

// linger ends the sending side and drops what the client still sends for a moment: closing at once
// would reset the connection before the client has read the answer.
func (c *clientConn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes) // its end, by whatever cause, is what is waited for
}
