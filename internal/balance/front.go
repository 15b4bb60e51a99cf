package balance

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/http1"
)

// front takes the connections of clients. It serves plain HTTP/1.1 itself, because reading and writing by
// net/http costs several times what forwarding does (docs/decisions/balancer-engine.md), and hands over to
// net/http what is not plain: it is the net.Listener from which an http.Server accepts those connections.
//
// A connection of HTTP/1.1 is handed over for one request, so that every request passes the strict reading
// of parseRequest.
type front struct {
	balancer *Balancer
	l        net.Listener
	tls      *tls.Config // nil for none
	others   chan net.Conn
	closed   chan struct{}

	date atomic.Pointer[string] // the Date field's value, as of this second

	mu       sync.Mutex
	conns    map[*clientConn]struct{}
	draining bool // closed is closed
	serving  sync.WaitGroup
}

func newFront(b *Balancer, l net.Listener, config *tls.Config) *front {
	f := &front{
		balancer: b, l: l, tls: config,
		others: make(chan net.Conn), closed: make(chan struct{}), conns: make(map[*clientConn]struct{}),
	}
	f.tick(time.Now())
	return f
}

// run takes connections until Close, and returns when all that it serves have ended. Its error is the
// listener's.
func (f *front) run() error {
	var pause time.Duration
	for {
		c, err := f.l.Accept()
		if err != nil {
			if f.isDraining() {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				f.serving.Wait()
				return err
			}
			// Out of descriptors, or a client that hung up at once: wait a little rather than spin.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			wait := time.NewTimer(pause)
			select {
			case <-f.closed:
			case <-wait.C:
			}
			wait.Stop()
			continue
		}
		pause = 0
		cc := &clientConn{Conn: c, raw: c, front: f}
		if !f.add(cc) {
			c.Close()
			continue
		}
		go cc.serve()
	}
	f.serving.Wait()
	return nil
}

// add notes a connection. It reports false when no more are taken.
func (f *front) add(c *clientConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.conns[c] = struct{}{}
	f.serving.Add(1)
	return true
}

func (f *front) remove(c *clientConn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	f.serving.Done()
}

func (f *front) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// handOver gives a connection to whoever accepts from the front. It reports false when nobody does any
// more.
func (f *front) handOver(c net.Conn) bool {
	select {
	case f.others <- c:
		f.balancer.metrics.handed.Inc()
		return true
	case <-f.closed:
		return false
	}
}

// tick sets the date of the balancer's own answers.
func (f *front) tick(now time.Time) {
	s := now.UTC().Format(http.TimeFormat)
	f.date.Store(&s)
}

// Accept implements net.Listener: it waits for the next connection that is handed over.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.others:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: no connection is taken or handed over any more. Idle ones end now, others
// with the answer under way.
func (f *front) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return nil
	}
	f.draining = true
	close(f.closed)
	for c := range f.conns {
		c.endIdle()
	}
	return f.l.Close()
}

// shutdown closes the front and waits until its connections have ended. When ctx ends first it cuts them
// off and returns ctx's error.
func (f *front) shutdown(ctx context.Context) error {
	err := f.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.serving.Wait()
	}()
	select {
	case <-ended:
		return err
	case <-ctx.Done():
	}
	f.mu.Lock()
	for c := range f.conns {
		c.abort()
	}
	f.mu.Unlock()
	<-ended
	return ctx.Err()
}

// Addr implements net.Listener.
func (f *front) Addr() net.Addr { return f.l.Addr() }

func (f *front) isDraining() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// handedConn is a connection of HTTP/1.1 that is handed over for one request.
type handedConn struct {
	http1.HandedConn
	fwd *forwarded
}
