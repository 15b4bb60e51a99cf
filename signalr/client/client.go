// Package client is a client for the ASP.NET Core SignalR protocol over
// WebSockets, with JSON and MessagePack, automatic reconnect with jitter, and
// stateful reconnect. It is light enough to run thousands of clients in one
// process: a connected client has one goroutine.
package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
	"github.com/esh3artech/esh3ar/signalr/internal/replay"
)

// The life of a client.
type state uint8

const (
	// stateIdle: before Start, and after one that failed.
	stateIdle state = iota
	// stateStarting: Start is connecting for the first time.
	stateStarting
	// stateConnected: messages flow.
	stateConnected
	// stateResuming: the socket broke, and is being replaced in the grace of
	// stateful reconnect. Sends are kept for the replay.
	stateResuming
	// stateReconnecting: the connection was lost, and a new one is awaited.
	stateReconnecting
	// stateClosed: ended for good.
	stateClosed
)

// A Client is a connection to a hub that reconnects by itself. Its methods may
// be called from any goroutine.
type Client struct {
	opts     Options
	url      *url.URL
	codec    protocol.Codec
	handlers map[string]Handler // by lower-case name, and by the name as it was registered

	ctx    context.Context // done when the client is closed
	cancel context.CancelFunc
	done   chan struct{}
	ending sync.Once      // of finish
	tasks  sync.WaitGroup // uploads

	// sendMu is held while a message is numbered and written, so that the
	// order is the same in both.
	sendMu sync.Mutex

	mu      sync.Mutex
	state   state
	running bool  // run has been started
	link    *link // the present socket
	session session
	err     error
	lastID  uint64
	pending map[string]pending // invocations and streams that await something
	space   chan struct{}      // closed when the replay buffer has room; nil: nobody waits
}

// A session is a connection as the server sees it. With stateful reconnect it
// outlives its socket.
type session struct {
	id       string // public
	url      *url.URL
	token    string // access token, if a redirect gave one
	stateful bool
	sender   *replay.Sender
	receiver *replay.Receiver
	ackTimer *time.Timer
}

// A Handler handles an invocation by the server. Its result is sent only if
// the server asked for one.
type Handler func(ctx context.Context, call *Call) (any, error)

// A Call is an invocation by the server. It and what its methods return is
// valid only until the handler returns.
type Call struct {
	codec  protocol.Codec
	target []byte
	args   [][]byte
	wanted bool
}

// Target is the name of the method as the server wrote it.
func (c *Call) Target() string { return string(c.target) }

// ResultWanted tells whether the server waits for the handler's result.
func (c *Call) ResultWanted() bool { return c.wanted }

// NumArgs is the number of arguments.
func (c *Call) NumArgs() int { return len(c.args) }

// Raw is the n-th argument, from 0, as it was sent: JSON or MessagePack. It is
// nil when there are not so many.
func (c *Call) Raw(n int) []byte {
	if n < 0 || n >= len(c.args) {
		return nil
	}
	return c.args[n]
}

// Decode stores the n-th argument in the value that v points to.
func (c *Call) Decode(n int, v any) error {
	if n < 0 || n >= len(c.args) {
		return fmt.Errorf("signalr: argument %d of %d", n+1, len(c.args))
	}
	return c.codec.Decode(c.args[n], v)
}

// On1 registers a handler with one decoded argument and no result.
func On1[A any](c *Client, target string, f func(ctx context.Context, a A)) {
	c.On(target, func(ctx context.Context, call *Call) (any, error) {
		var a A
		if err := call.Decode(0, &a); err != nil {
			return nil, err
		}
		f(ctx, a)
		return nil, nil
	})
}

// New returns a client for the hub at address, an http, https, ws or wss URL.
// It does not connect yet.
func New(address string, opts Options) (*Client, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	u, err := parseHubURL(address)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts: opts, url: u, codec: protocol.JSON{},
		handlers: make(map[string]Handler),
		done:     make(chan struct{}),
	}
	if opts.Protocol == MessagePack {
		c.codec = protocol.MessagePack{}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func parseHubURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("signalr: %w", err)
	}
	switch u.Scheme {
	case "http", "https":
	case "ws", "wss":
		u.Scheme = "http" + strings.TrimPrefix(u.Scheme, "ws")
	default:
		return nil, fmt.Errorf("signalr: the scheme of %q is none of http, https, ws and wss", address)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("signalr: %q has no host", address)
	}
	return u, nil
}

// On registers the handler of a method that the server invokes; names are
// matched without regard to case. It must be called before Start. Handlers run
// one at a time, in order, on the goroutine that reads from the connection, so
// they must not wait for anything that it has to read, such as a result.
func (c *Client) On(target string, h Handler) {
	lower := strings.ToLower(target)
	maps.DeleteFunc(c.handlers, func(name string, _ Handler) bool { return strings.ToLower(name) == lower })
	c.handlers[lower] = h
	c.handlers[target] = h // found without allocating, when the server spells it alike
}

// Start connects and returns when the handshake is done. It tries once; ctx
// bounds only that. When it fails it may be called again.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	switch c.state {
	case stateIdle:
	case stateClosed:
		c.mu.Unlock()
		return ErrClosed
	default:
		c.mu.Unlock()
		return errors.New("signalr: client already started")
	}
	c.state = stateStarting
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, c.opts.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel) // Close ends Start
	defer stop()
	l, err := c.connect(ctx)
	if err != nil {
		return c.startFailed(err)
	}
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	go c.run(l)
	select {
	case <-l.greeted:
		return nil
	case <-l.failed:
		return c.startFailed(l.failure)
	case <-ctx.Done():
		l.cut(context.Cause(ctx))
		select {
		case <-l.greeted:
			return nil // just in time; run deals with what follows
		case <-l.failed:
			return c.startFailed(context.Cause(ctx))
		}
	}
}

func (c *Client) startFailed(err error) error {
	c.mu.Lock()
	closed := c.state == stateClosed
	if !closed {
		c.state, c.running = stateIdle, false
	}
	c.mu.Unlock()
	if closed {
		c.finish(nil) // Close may have left it to run
		return ErrClosed
	}
	return err
}

// ConnectionID is the id that the server gave to the present connection. It is
// empty without negotiation.
func (c *Client) ConnectionID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.id
}

// Done is closed when the client has ended: by Close, or because it gave up.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why, after Done: nil after Close.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says goodbye and ends all goroutines of the client. It waits for that,
// except while a handler runs, because it may be the handler that calls it.
func (c *Client) Close() error {
	c.mu.Lock()
	already := c.state == stateClosed
	c.state = stateClosed
	running, l := c.running, c.link
	c.mu.Unlock()
	if !already {
		c.cancel()
		if l != nil {
			l.goodbye(c.codec.AppendClose(nil, "", false))
		}
		if !running {
			c.finish(nil)
		}
	}
	if l == nil || !l.reading() {
		<-c.done
	}
	return nil
}

// run owns the client from its first connection to its end.
func (c *Client) run(l *link) {
	greeted := false
	for attempt := 0; ; {
		err := l.read()
		if l.wasGreeted() {
			greeted, attempt = true, 0
		}
		if !greeted {
			// The first connection: Start tells, and the client is as new.
			// After Close nobody else ends it.
			if c.closed() {
				c.finish(nil)
			}
			l.fail(err)
			return
		}
		next, err := c.regain(l, err, &attempt)
		if next == nil {
			c.finish(err)
			return
		}
		l = next
	}
}

func (c *Client) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateClosed
}

// regain gets a new socket after the loss of l. It returns nil and the reason
// when the client has ended.
func (c *Client) regain(l *link, err error, attempt *int) (*link, error) {
	closing := (*CloseError)(nil)
	byServer := errors.As(err, &closing)
	c.mu.Lock()
	if c.link == l {
		c.link = nil
	}
	if c.state == stateClosed {
		c.mu.Unlock()
		return nil, nil
	}
	resume := l.wasGreeted() && c.session.stateful && !byServer
	if resume {
		c.state = stateResuming
	}
	c.mu.Unlock()
	if resume {
		if next := c.resumeSession(); next != nil {
			return next, nil
		}
		if c.closed() {
			return nil, nil
		}
	}
	if byServer && !closing.AllowReconnect {
		return nil, err
	}
	return c.reconnect(err, attempt)
}

// reconnect gets a new connection.
func (c *Client) reconnect(err error, attempt *int) (*link, error) {
	for {
		*attempt++
		wait, ok := c.opts.Reconnect(*attempt, err)
		if !ok {
			return nil, err
		}
		c.mu.Lock()
		if c.state == stateClosed {
			c.mu.Unlock()
			return nil, nil
		}
		tell := c.state != stateReconnecting
		c.state = stateReconnecting
		c.endSession()
		c.mu.Unlock()
		c.failPending(ErrConnectionLost)
		if tell && c.opts.OnReconnecting != nil {
			c.opts.OnReconnecting(err)
		}
		if !c.sleep(wait) {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.HandshakeTimeout)
		l, failure := c.connect(ctx)
		cancel()
		if failure == nil {
			return l, nil
		}
		if c.ctx.Err() != nil {
			return nil, nil
		}
		err = failure
	}
}

// sleep returns false when the client was closed meanwhile.
func (c *Client) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// finish ends the client.
func (c *Client) finish(err error) {
	c.ending.Do(func() { c.finishOnce(err) })
}

func (c *Client) finishOnce(err error) {
	c.mu.Lock()
	c.state = stateClosed
	c.err = err
	c.endSession()
	c.mu.Unlock()
	c.cancel()
	if err == nil {
		c.failPending(ErrClosed)
	} else {
		c.failPending(err)
	}
	c.tasks.Wait()
	if c.opts.OnClosed != nil {
		c.opts.OnClosed(err)
	}
	close(c.done)
}

// endSession forgets what stateful reconnect remembers, with mu held.
func (c *Client) endSession() {
	if c.session.ackTimer != nil {
		c.session.ackTimer.Stop()
	}
	c.session.stateful = false
	c.releaseSpace()
}

func (c *Client) releaseSpace() {
	if c.space != nil {
		close(c.space)
		c.space = nil
	}
}
