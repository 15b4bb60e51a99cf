package ingest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/peer"
)

// Front takes the connections of a server. It serves plain posts of messages itself, which is most of
// what business clients send, and hands a connection over to net/http, with all that was read, as soon as
// it asks for anything else. It is the net.Listener from which an http.Server accepts those.
//
// What Front takes for plain is a strict subset of HTTP/1.1: "POST /v1/messages HTTP/1.1", header lines
// that RFC 9112 allows and that end in CRLF, one Host, one Content-Length, no Transfer-Encoding, no
// Expect, no Connection but keep-alive, no Origin, no field twice that counts. For everything else, right or wrong,
// net/http decides what it means. So Front never has an opinion that could differ from it.
//
// Why: reading, routing and answering by net/http cost more than all that Esh3ar does for a message, its
// share of the sync included (docs/benchmarks.md).
type Front struct {
	api    *API
	opts   FrontOptions
	asked  *http.Request // what refuse is told that was asked
	l      net.Listener
	others chan net.Conn
	closed chan struct{} // by Close

	date atomic.Pointer[string] // the Date field's value, as of this second

	mu       sync.Mutex
	conns    map[*frontConn]struct{}
	draining bool // closed is closed
	serving  sync.WaitGroup

	handed prometheus.Counter
}

// FrontOptions are limits of a Front; all are required.
type FrontOptions struct {
	// HeaderTimeout is how long a client may take to send a request's header, from its first byte;
	// BodyTimeout the same for its body; IdleTimeout is how long a connection may wait for a request, and
	// a client for reading an answer. They are kept to within a second.
	HeaderTimeout, BodyTimeout, IdleTimeout time.Duration
	// Trusted are the proxies whose X-Forwarded-For is believed; may be nil.
	Trusted peer.Trusted
	// Metrics takes the Front's metrics.
	Metrics prometheus.Registerer
}

// NewFront returns a Front of the API that takes the connections of l.
func NewFront(api *API, l net.Listener, o FrontOptions) *Front {
	f := &Front{
		asked:  &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/v1/messages"}},
		api:    api,
		opts:   o,
		l:      l,
		others: make(chan net.Conn),
		closed: make(chan struct{}),
		conns:  make(map[*frontConn]struct{}),
		handed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_connections_handed_over_total", Help: "Connections handed over to net/http, because they want more than to post messages.",
		}),
	}
	o.Metrics.MustRegister(f.handed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "esh3ar_posting_connections", Help: "Connections that have sent nothing but messages.",
	}, func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return float64(len(f.conns))
	}))
	f.tick(time.Now())
	return f
}

// Run takes connections and watches over them until Close, and until all connections that it did not hand
// over have ended. Its error is the listener's.
func (f *Front) Run() error {
	stopped := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stopped:
				return
			case now := <-tick.C:
				f.tick(now)
				f.sweep(now)
			}
		}
	})
	err := f.take()
	f.serving.Wait()
	close(stopped)
	watching.Wait()
	return err
}

// take accepts connections until Close.
func (f *Front) take() error {
	var pause time.Duration
	for {
		c, err := f.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				select {
				case <-f.closed:
					return nil
				default:
					return err // closed by somebody else
				}
			}
			// Out of descriptors, or a client that hung up at once: wait a little rather than spin.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			wait := time.NewTimer(pause)
			select {
			case <-f.closed:
				wait.Stop()
				return nil
			case <-wait.C:
			}
			continue
		}
		pause = 0
		fc := &frontConn{Conn: c, front: f, header: make(http.Header, 5)}
		fc.enter(phaseHeader, time.Now())
		if !f.add(fc) {
			c.Close()
			continue
		}
		go fc.serve()
	}
}

// add notes a connection. It reports false when no more are taken.
func (f *Front) add(c *frontConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.conns[c] = struct{}{}
	f.serving.Add(1)
	return true
}

func (f *Front) remove(c *frontConn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	f.serving.Done()
}

// handOver gives a connection to whoever accepts from the Front. It reports false when nobody does any
// more.
func (f *Front) handOver(c net.Conn) bool {
	select {
	case f.others <- c:
		f.handed.Inc()
		return true
	case <-f.closed:
		return false
	}
}

// tick sets the date.
func (f *Front) tick(now time.Time) {
	s := now.UTC().Format(http.TimeFormat)
	f.date.Store(&s)
}

// sweep closes the connections that have taken too long, and while draining those that wait for nothing.
func (f *Front) sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		phase, since := c.where()
		limit := f.opts.IdleTimeout
		switch phase {
		case phaseHeader:
			limit = f.opts.HeaderTimeout
		case phaseBody:
			limit = f.opts.BodyTimeout
		case phaseWork:
			continue // the journal's time-out ends it
		case phaseIdle:
			if f.draining {
				limit = 0
			}
		}
		if now.Sub(since) >= limit {
			c.Close()
		}
	}
}

// Accept implements net.Listener: it waits for the next connection that is handed over.
func (f *Front) Accept() (net.Conn, error) {
	select {
	case c := <-f.others:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: no connection is taken or handed over any more. Those that are being
// served get the answer under way and are closed.
func (f *Front) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return nil
	}
	f.draining = true
	close(f.closed)
	return f.l.Close()
}

// Shutdown closes the Front and waits until its connections have ended. When ctx ends first it cuts them
// off and returns ctx's error.
func (f *Front) Shutdown(ctx context.Context) error {
	err := f.Close()
	f.sweep(time.Now())
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
		c.Close()
	}
	f.mu.Unlock()
	<-ended
	return ctx.Err()
}

// Addr implements net.Listener.
func (f *Front) Addr() net.Addr { return f.l.Addr() }
