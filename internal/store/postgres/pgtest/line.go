package pgtest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// Line is a way to a server that may lose long packets, as one does whose narrowest part takes less than either end knows. The zero
// value loses nothing. Its methods are safe for concurrent use.
type Line struct {
	sent, received atomic.Int64 // the longest that passes, in bytes; 0 for any
	dialed         atomic.Int64
}

// Narrow has the line lose packets that are sent or received and are longer than so many bytes, 0 for none. Connections that have
// lost something stay as they are: what follows on it does not come either.
func (l *Line) Narrow(sent, received int) {
	l.sent.Store(int64(sent))
	l.received.Store(int64(received))
}

// Dial makes a connection over the line.
func (l *Line) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.dialed.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &lineConn{Conn: c, out: way{longest: &l.sent}, in: way{longest: &l.received}}, nil
}

// Dialed is how many connections were made, or tried to be.
func (l *Line) Dialed() int { return int(l.dialed.Load()) }

// lineConn is a connection over a Line.
type lineConn struct {
	net.Conn
	out, in way
}

// way is one direction of a connection.
type way struct {
	longest *atomic.Int64
	mu      sync.Mutex
	lost    bool // something was
}

// loses reports whether so many bytes are lost, too.
func (w *way) loses(n int) bool {
	longest := w.longest.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = w.lost || longest > 0 && int64(n) > longest
	return w.lost
}

func (c *lineConn) Write(p []byte) (int, error) {
	if c.out.loses(len(p)) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.in.loses(n) {
			return n, err
		}
	}
}
