package signalr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the settings that all hubs of a [Server] share. The zero value
// of each field means its default.
type Options struct {
	// MaxConnections bounds the connections of all hubs together. Further
	// ones are refused with 503 before any upgrade. 0 means no bound.
	MaxConnections int

	// MaxNegotiations bounds the ids that were negotiated and not yet used
	// to connect, in each hub. Further negotiations are refused with 503 and
	// Retry-After. 0 means 65536.
	MaxNegotiations int

	// DrainRate is how many connections [Server.Drain] and
	// [Server.Shutdown] close in a second, so that the clients, who
	// reconnect at once, do not arrive elsewhere all together. 0 means as
	// fast as possible.
	DrainRate int

	// Logger receives what nobody else hears of: panics of handlers and, at
	// debug level, why connections ended. nil means no log.
	Logger *slog.Logger

	// Metrics are called when something countable happens.
	Metrics Metrics
}

const defaultMaxNegotiations = 65536

// A Server holds hubs and what they share: connection limits, the timer wheel
// that drives pings and timeouts, and the drain. It must be ended by
// [Server.Shutdown].
type Server struct {
	opts  Options
	log   *slog.Logger
	start time.Time // the zero of the server's monotonic clock
	wheel *wheel

	waking atomic.Int64 // connections that Backlog counts

	mu       sync.Mutex
	hubs     []*Hub
	draining bool
	active   int           // connections that have not been released
	idle     chan struct{} // closed when draining and active is 0
	idleSet  bool          // idle is closed
}

// Backlog returns how many WebSocket connections have something to write and
// wait for a processor to begin with it. It says how far the server lags
// behind those who send, whatever the networks do: a connection whose client is
// slow does not count.
func (s *Server) Backlog() int { return int(s.waking.Load()) }

// NewServer returns a server without hubs. It fails when an option is out of
// range.
func NewServer(opts Options) (*Server, error) {
	switch {
	case opts.MaxConnections < 0:
		return nil, errors.New("signalr: MaxConnections is negative")
	case opts.MaxNegotiations < 0:
		return nil, errors.New("signalr: MaxNegotiations is negative")
	case opts.DrainRate < 0:
		return nil, errors.New("signalr: DrainRate is negative")
	}
	if opts.MaxNegotiations == 0 {
		opts.MaxNegotiations = defaultMaxNegotiations
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, log: opts.Logger, start: time.Now(), idle: make(chan struct{})}
	s.wheel = newWheel(s)
	return s, nil
}

// NewHub adds a hub. It fails when an option is out of range or after
// Shutdown began.
func (s *Server) NewHub(opts HubOptions) (*Hub, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("signalr: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, errors.New("signalr: server is shutting down")
	}
	h := newHub(s, opts)
	s.hubs = append(s.hubs, h)
	s.wheel.setPeriod(opts.shortestInterval())
	return h, nil
}

// now is the time since the server's start, in nanoseconds, on the monotonic
// clock.
func (s *Server) now() int64 { return int64(time.Since(s.start)) }

// reserve counts a connection in, or says why there is no room for it.
func (s *Server) reserve() *HTTPError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errDraining
	}
	if s.opts.MaxConnections > 0 && s.active >= s.opts.MaxConnections {
		return errTooManyConnections
	}
	s.active++
	return nil
}

// release counts a connection out.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.noteIdle()
}

func (s *Server) noteIdle() {
	if s.draining && s.active == 0 && !s.idleSet {
		s.idleSet = true
		close(s.idle)
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Server) allHubs() []*Hub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hubs)
}

// Len returns the number of connections of all hubs.
func (s *Server) Len() int {
	n := 0
	for _, h := range s.allHubs() {
		n += h.Len()
	}
	return n
}

// Drain refuses new negotiations and connections with 503, closes all
// connections with allowReconnect at the rate of Options.DrainRate, and
// returns when the last has ended or ctx is done.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.noteIdle()
	s.mu.Unlock()
	for _, h := range s.allHubs() {
		h.dropNegotiations()
	}

	// A connection that was being set up when draining began may appear on
	// the wheel only after it was read, so it is read until all have gone.
	pace := newPacer(s.opts.DrainRate)
	defer pace.stop()
	for {
		conns := s.wheel.connections()
		for _, c := range conns {
			if !c.isEnding() {
				c.end(ending{reason: CloseDrain, err: ErrClosed, notify: true, allowReconnect: true})
				if err := pace.wait(ctx); err != nil {
					return err
				}
			}
		}
		poll := time.NewTimer(drainPoll)
		select {
		case <-s.idle:
			poll.Stop()
			return nil
		case <-ctx.Done():
			poll.Stop()
			return context.Cause(ctx)
		case <-poll.C:
		}
	}
}

const drainPoll = 50 * time.Millisecond

// Shutdown drains and then ends every goroutine of the server. When ctx is
// done first, the connections that are left are cut without ceremony and
// ctx's error is returned; all goroutines have ended then, too, except those
// that are still inside a handler of the application.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.Drain(ctx)
	if err != nil {
		for _, c := range s.wheel.connections() {
			c.kill()
		}
		patience := time.NewTimer(killPatience)
		defer patience.Stop()
		select {
		case <-s.idle:
		case <-patience.C:
		}
	}
	s.wheel.stop()
	return err
}

// killPatience is how long Shutdown waits for the goroutines of connections
// that it has cut.
const killPatience = time.Second

// A pacer spreads events evenly over time, in portions of a few milliseconds.
type pacer struct {
	ticker  *time.Ticker // nil: no pace
	portion int          // events for each tick
	left    int          // of this tick
}

const pacerTick = 10 * time.Millisecond

func newPacer(perSecond int) *pacer {
	if perSecond == 0 {
		return &pacer{}
	}
	perTick := perSecond / int(time.Second/pacerTick)
	if perTick == 0 {
		return &pacer{ticker: time.NewTicker(time.Second / time.Duration(perSecond)), portion: 1, left: 1}
	}
	return &pacer{ticker: time.NewTicker(pacerTick), portion: perTick, left: perTick}
}

func (p *pacer) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if p.ticker == nil {
		return nil
	}
	if p.left--; p.left > 0 {
		return nil
	}
	p.left = p.portion
	select {
	case <-p.ticker.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pacer) stop() {
	if p.ticker != nil {
		p.ticker.Stop()
	}
}
