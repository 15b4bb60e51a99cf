package balance

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/peer"
)

const (
	// upstreamBuffer is what a connection to a node reads at one time; it grows for a longer header.
	upstreamBuffer = 4 << 10
	// maxResponseHeader bounds the header of an answer.
	maxResponseHeader = 64 << 10
	// doubtAfter is how long a connection may have been idle before it is looked at again: by then the
	// node may have closed it. Under load connections are used again sooner, and the look costs a system call.
	doubtAfter = 10 * time.Millisecond
)

// backend is a node and the idle connections to it.
type backend struct {
	id      string // its URL
	scheme  string // http or https
	address string
	tls     *NodeTLS
	metrics *nodeMetrics

	mu     sync.Mutex
	idle   []*upstream // the one used last at the end
	closed bool        // the node has left the set
}

// upstream is a connection to a node. One goroutine uses it at a time.
type upstream struct {
	net.Conn // over TLS, if the node's URL says so
	backend  *backend
	since    time.Time // when it became idle
	used     bool      // it has served a request
	probe    *probe

	buf      []byte // read and not yet worked off, in buf[r:w]
	r, w     int
	deadline deadline
}

// dial opens a connection. For a client it begins with a PROXY header that says who that is.
func (b *backend) dial(ctx context.Context, timeout time.Duration, client net.Addr) (*upstream, error) {
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp", b.address)
	if err != nil {
		return nil, err
	}
	if client != nil {
		if err := announce(c, timeout, client); err != nil {
			c.Close()
			return nil, err
		}
	}
	u := &upstream{Conn: c, backend: b, buf: make([]byte, upstreamBuffer), probe: newProbe(c)}
	if b.scheme == "https" {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if u.Conn, err = b.tls.client(ctx, c, b.address); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// announce writes the PROXY header.
func announce(c net.Conn, timeout time.Duration, client net.Addr) error {
	header, err := peer.AppendHeader(nil, client, c.RemoteAddr())
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err = c.Write(header); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{})
}

// take returns an idle connection that is still good, nil if there is none.
func (b *backend) take(now time.Time) *upstream {
	for {
		b.mu.Lock()
		n := len(b.idle)
		if n == 0 {
			b.mu.Unlock()
			return nil
		}
		u := b.idle[n-1]
		b.idle[n-1] = nil
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		if u.good(now) {
			return u
		}
		u.Close()
	}
}

// good reports whether an idle connection can be used: the node has neither closed it nor sent what nobody
// asked for.
func (u *upstream) good(now time.Time) bool {
	return u.r == u.w && (now.Sub(u.since) < doubtAfter || u.probe.quiet())
}

// give puts a connection back whose answer was read to its end.
func (b *backend) give(u *upstream, now time.Time) {
	if u.more() { // it cannot be told what it belongs to
		u.Close()
		return
	}
	u.since, u.used = now, true
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.idle = append(b.idle, u)
	}
	b.mu.Unlock()
	if closed {
		u.Close()
	}
}

// more reports whether, after an answer, more is there than was asked for. What TLS has deciphered and not yet handed out,
// or why it cannot go on, shows only in a Read; one whose time is up does not look further.
func (u *upstream) more() bool {
	if u.r != u.w {
		return true
	}
	if _, over := u.Conn.(*tls.Conn); !over {
		return false
	}
	u.deadline = deadline{} // to be set anew
	if u.Conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return true
	}
	var b [1]byte
	_, err := u.Conn.Read(b[:])
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// expire closes the connections that have been idle since before a time.
func (b *backend) expire(before time.Time) {
	b.mu.Lock()
	i, _ := slices.BinarySearchFunc(b.idle, before, func(u *upstream, t time.Time) int { return u.since.Compare(t) })
	old := slices.Clone(b.idle[:i])
	b.idle = slices.Delete(b.idle, 0, i)
	b.mu.Unlock()
	for _, u := range old {
		u.Close()
	}
}

// close closes the idle connections; those in use are closed when they are given back.
func (b *backend) close() {
	b.mu.Lock()
	b.closed = true
	idle := b.idle
	b.idle = nil
	b.mu.Unlock()
	for _, u := range idle {
		u.Close()
	}
}

// fill reads more of the answer into the buffer. Its error is the connection's, or errTooLarge.
func (u *upstream) fill() error {
	if u.r == u.w {
		u.r, u.w = 0, 0
	}
	if u.w == len(u.buf) {
		if u.r > 0 {
			u.w = copy(u.buf, u.buf[u.r:u.w])
			u.r = 0
		} else {
			if len(u.buf) >= maxResponseHeader {
				return errTooLarge
			}
			u.buf = append(u.buf, make([]byte, len(u.buf))...)
		}
	}
	n, err := u.Conn.Read(u.buf[u.w:])
	u.w += n
	if n > 0 {
		return nil
	}
	return err
}

// Read implements io.Reader over what is buffered and what comes.
func (u *upstream) Read(p []byte) (int, error) {
	if u.r < u.w {
		n := copy(p, u.buf[u.r:u.w])
		u.r += n
		return n, nil
	}
	return u.Conn.Read(p)
}

// probe looks whether an idle connection is still open, without waiting and without reading.
type probe struct {
	raw  syscall.RawConn
	look func(fd uintptr)
	open bool
}

func newProbe(c net.Conn) *probe {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	p := &probe{raw: raw}
	p.look = func(fd uintptr) {
		p.open = nothingToRead(fd)
	}
	return p
}

// quiet reports whether the connection is open and the other end has sent nothing.
func (p *probe) quiet() bool {
	if p == nil {
		return true
	}
	p.open = false
	return p.raw.Control(p.look) == nil && p.open
}

// deadline keeps a connection's deadline without setting it anew for every request: one that is up to an eighth, and at most a
// second, too early does.
type deadline struct{ at time.Time }

// extend returns the deadline to set for something that may take until limit from now, and whether it
// must be set.
func (d *deadline) extend(now time.Time, limit time.Duration) (time.Time, bool) {
	want := now.Add(limit)
	if d.at.After(want) || want.Sub(d.at) > min(limit/8, time.Second) {
		d.at = want
		return want, true
	}
	return d.at, false
}
