package signalr

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// The life of a connection. It only moves down the list.
//
//	greeting   a transport is attached, the handshake has not come
//	           → open: the reader, with the client's handshake
//	           → closing: the wheel (timeout), a bad handshake, the transport's end
//	open       messages flow; with stateful reconnect also while no socket is
//	           attached
//	           → closing: end, called by whoever finds a reason
//	closing    no message is taken any more, what is queued is being written
//	           → closed: the owner of the transport, at the latest when the
//	             wheel cuts the socket after closeTimeout
//	closed     every handler has returned and OnDisconnected has run
type connState uint8

const (
	stateGreeting connState = iota
	stateOpen
	stateClosing
	stateClosed
)

// closeTimeout is how long a connection that is being closed has to write what
// is queued, and the client to answer the closing handshake of its WebSocket or
// to poll once more.
const closeTimeout = 3 * time.Second

// A transport carries one connection's messages. It owns the goroutine, or
// the requests, that call receive and finish.
type transport interface {
	// wake tells that there is something to write, or that the connection is
	// closing. It is called with Conn.mu held and must not block.
	wake()

	// hurry bounds the writes that are under way to closeTimeout.
	hurry()

	// cut ends the transport at once.
	cut()
}

// A Conn is one client's connection. Its methods may be called from any
// goroutine.
type Conn struct {
	hub        *Hub
	id         string
	token      string // secret; equal to id for negotiation version 0
	userID     string
	claims     any
	expires    int64 // server clock; 0: never
	query      string
	remoteAddr string
	born       int64      // server clock
	place      wheelPlace // guarded by wheel.mu
	kind       Transport
	negotiated bool
	stateful   bool // as negotiated

	binary    atomic.Bool  // the protocol is, once the handshake was
	busy      atomic.Bool  // received data is being handled
	lastRead  atomic.Int64 // server clock
	lastWrite atomic.Int64

	// recv is held while received data is handled, so that handlers that run
	// in order do so whichever goroutine received their messages.
	recv    sync.Mutex
	partial []byte // beginning of a message whose end has not come

	mu        sync.Mutex
	state     connState
	opened    bool // OnConnected was called
	finishing bool
	gone      bool           // a long polling client has seen the end
	codec     protocol.Codec // set by the handshake
	transport transport      // nil: waiting for a stateful reconnect
	out       outbox
	cause     *ending      // why it is not open any more
	deadline  int64        // server clock: of greeting, closing, or of being without transport
	life      *lifeContext // made when somebody asks
	value     any
	groups    map[string]struct{}
	space     chan struct{} // closed when the outbox has room again; nil: nobody waits
	resume    *resumption   // nil without stateful reconnect
	calls     callTable
	streams   streamTable

	// slots are taken by invocations that run beside the reader; nil when
	// they run on the reader's goroutine.
	slots chan struct{}

	// tasks are the goroutines that run handlers beside the reader.
	tasks sync.WaitGroup
}

// An ending says why and how a connection ends.
type ending struct {
	reason         string // a Close… constant
	err            error  // for OnDisconnected; nil for a normal end by the client
	notify         bool   // send a close message
	text           string // its error
	allowReconnect bool
	discard        bool // drop what is queued
	cut            bool // the transport is broken: do not try to write
}

func (h *Hub) newConn(id, token string, identity Identity, kind Transport) *Conn {
	now := h.server.now()
	c := &Conn{
		hub: h, id: id, token: token, userID: identity.UserID, claims: identity.Claims, kind: kind,
		born: now, deadline: now + int64(h.opts.HandshakeTimeout),
	}
	if !identity.Expires.IsZero() {
		c.expires = max(1, now+int64(time.Until(identity.Expires)))
	}
	c.lastRead.Store(now)
	c.lastWrite.Store(now)
	if n := h.opts.MaxParallelInvocations; n > 1 {
		c.slots = make(chan struct{}, n)
	}
	return c
}

// ID is the public id of the connection, which is safe to show to others.
func (c *Conn) ID() string { return c.id }

// UserID is the user id that HubOptions.Authenticate returned.
func (c *Conn) UserID() string { return c.userID }

// Claims are what HubOptions.Authenticate returned beside the user id.
func (c *Conn) Claims() any { return c.claims }

// Query returns the query of the request that connected, without the
// connection token and the access token.
func (c *Conn) Query() url.Values {
	v, _ := url.ParseQuery(c.query)
	return v
}

// RemoteAddr is the client's address as the HTTP server saw it.
func (c *Conn) RemoteAddr() string { return c.remoteAddr }

// Negotiated tells whether the client negotiated before it connected. One that
// did follows a redirect when it reconnects.
func (c *Conn) Negotiated() bool { return c.negotiated }

// Age is the time since the client connected.
func (c *Conn) Age() time.Duration { return time.Duration(c.hub.server.now() - c.born) }

// Transport tells how the connection is carried.
func (c *Conn) Transport() Transport { return c.kind }

// Protocol tells how its messages are encoded.
func (c *Conn) Protocol() Protocol {
	c.mu.Lock()
	defer c.mu.Unlock()
	return protocolOf(c.codec)
}

func protocolOf(codec protocol.Codec) Protocol {
	if codec != nil && codec.Binary() {
		return MessagePack
	}
	return JSON
}

// Context is done when the connection has ended or is being closed.
func (c *Conn) Context() context.Context { return (*connContext)(c) }

// Value returns what SetValue stored.
func (c *Conn) Value() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// SetValue stores one value of the application with the connection.
func (c *Conn) SetValue(v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value = v
}

// Send queues m for the client and returns without waiting for it to be
// written. Messages leave in the order in which Send was called. The error is
// [ErrOutboxFull] when the message did not fit, in which case the connection
// is being closed; [ErrClosed] when it already was; or that of encoding m.
func (c *Conn) Send(m *Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, err := c.encode(m)
	if err != nil {
		return err
	}
	return c.enqueue(entry{data: data, sequenced: true})
}

// encode returns m in the connection's protocol, with Conn.mu held, which it
// gives up while m encodes itself. It fails with ErrClosed unless the
// connection is open.
func (c *Conn) encode(m *Message) ([]byte, error) {
	if c.state != stateOpen {
		return nil, ErrClosed
	}
	codec := c.codec
	if data := m.encoded(codec); data != nil {
		return data, nil
	}
	data, err := c.encodeUnlocked(m, codec)
	if err == nil && c.state != stateOpen {
		err = ErrClosed
	}
	return data, err
}

// encodeUnlocked encodes m without Conn.mu, which is held before and after,
// also when an argument of the application panics.
func (c *Conn) encodeUnlocked(m *Message, codec protocol.Codec) ([]byte, error) {
	c.mu.Unlock()
	defer c.mu.Lock()
	return m.encode(codec)
}

// Close sends what is queued, then a close message, and closes the
// connection. message is shown to the client as the reason if it is not empty.
// With allowReconnect clients that were told to reconnect automatically do
// so; without it they stop. Close does not wait.
func (c *Conn) Close(message string, allowReconnect bool) {
	c.end(ending{reason: CloseServer, err: ErrClosed, notify: true, text: message, allowReconnect: allowReconnect})
}

// Queued returns the messages and bytes that wait to be written.
func (c *Conn) Queued() (messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.count, c.out.bytes
}

// isEnding tells whether the connection is past being open.
func (c *Conn) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state >= stateClosing
}

// end begins the end of the connection. Only the first call has an effect.
func (c *Conn) end(e ending) {
	c.mu.Lock()
	c.endLocked(e)
	c.mu.Unlock()
}

func (c *Conn) endLocked(e ending) {
	if c.state >= stateClosing {
		return
	}
	wasOpen := c.state == stateOpen
	c.state = stateClosing
	c.cause = &e
	c.deadline = c.hub.server.now() + int64(closeTimeout)
	if e.discard || e.cut {
		c.out.clear()
	}
	if e.notify && wasOpen && !e.cut {
		c.out.push(entry{data: c.codec.AppendClose(nil, e.text, e.allowReconnect)})
	}
	c.releaseSpace()
	if c.life != nil {
		c.life.cancel()
	}
	if len(c.calls.pending) > 0 {
		c.tasks.Go(c.failCalls)
	}
	switch {
	case c.transport == nil:
		// Nobody owns a connection without transport.
		go c.finish()
	case c.kind == LongPolling:
		// Nor one whose client comes and goes.
		go c.finish()
		c.wake()
		if e.cut {
			c.transport.cut()
		}
	case e.cut:
		c.transport.cut()
	default:
		c.transport.hurry()
		c.wake()
	}
}

// wake makes the transport write, unless it is doing so.
func (c *Conn) wake() {
	if c.transport != nil && !c.out.flushing {
		c.out.flushing = true
		c.transport.wake()
	}
}

// kill ends the connection without ceremony.
func (c *Conn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(ending{reason: CloseDrain, err: ErrClosed, cut: true})
	if c.transport != nil {
		c.transport.cut()
	}
}

// finish is called by the owner of the transport after its end, by a goroutine
// that is not inside receive. It waits for the connection's handlers, tells
// the application, and forgets the connection.
func (c *Conn) finish() {
	c.mu.Lock()
	c.endLocked(ending{reason: CloseLost, err: ErrClosed, cut: true})
	if c.finishing {
		c.mu.Unlock()
		return
	}
	c.finishing = true
	c.mu.Unlock()

	c.recv.Lock() // a handler on the reader's goroutine has returned now
	c.partial = nil
	c.recv.Unlock()
	c.tasks.Wait()

	c.mu.Lock()
	opened, e := c.opened, c.cause
	c.mu.Unlock()

	h := c.hub
	if opened {
		h.clients.remove(c)
		h.safely("OnDisconnected", func() {
			if h.opts.OnDisconnected != nil {
				h.opts.OnDisconnected(c, e.err)
			}
		})
		if f := h.server.opts.Metrics.ConnectionClosed; f != nil {
			f(c.kind, c.Protocol(), e.reason, time.Duration(h.server.now()-c.born))
		}
	}
	h.server.log.Debug("signalr: connection closed", "connection", c.id, "user", c.userID,
		"transport", c.kind.String(), "reason", e.reason, "error", e.err)

	c.mu.Lock()
	c.state = stateClosed
	forget := c.gone || c.kind != LongPolling
	c.mu.Unlock()
	if forget {
		h.forget(c)
	}
}

// leave tells that a long polling client has seen the end, or is waited for no
// longer.
func (c *Conn) leave() {
	c.mu.Lock()
	forget := !c.gone && c.state == stateClosed
	c.gone = true
	c.mu.Unlock()
	if forget {
		c.hub.forget(c)
	}
}

// wrote takes messages off the books that were written, or could not be.
func (c *Conn) wrote(messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.count -= messages
	c.out.bytes -= bytes
}

// resumable tells whether the connection survives its transport.
func (c *Conn) resumable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateOpen && c.resume != nil
}

// tick is called by the wheel once a period.
func (c *Conn) tick(now int64) {
	o := &c.hub.opts
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case stateGreeting:
		if now >= c.deadline {
			c.endLocked(ending{reason: CloseHello, err: errHandshakeTimeout, discard: true})
		}
	case stateClosing, stateClosed:
		if now >= c.deadline && c.transport != nil {
			c.transport.cut()
		}
	case stateOpen:
		if c.expires != 0 && now >= c.expires {
			c.endLocked(ending{reason: CloseExpired, err: errExpired, notify: true, allowReconnect: true})
			return
		}
		if c.transport == nil {
			if now >= c.deadline {
				c.endLocked(ending{reason: CloseLost, err: errGraceOver, cut: true})
			}
			return
		}
		if c.resume != nil {
			c.resume.ackIfDue(c, now)
		}
		if c.kind == LongPolling {
			// Polls are the sign of life here.
			if c.transport.(*longPolling).abandoned(now) {
				c.endLocked(ending{reason: CloseTimeout, err: errClientTimeout, cut: true})
			}
			return
		}
		if !c.busy.Load() && now-c.lastRead.Load() > int64(o.ClientTimeout) {
			c.endLocked(ending{
				reason: CloseTimeout, err: errClientTimeout,
				notify: true, text: "The client was silent for too long.", allowReconnect: true, discard: true,
			})
			return
		}
		if now-c.lastWrite.Load() >= int64(o.KeepAliveInterval) && c.out.count == 0 {
			c.lastWrite.Store(now)
			c.out.pushControl(c.codec.AppendPing(nil))
			c.wake()
		}
	}
}

// storedQuery is what is kept of a request's query: everything but secrets.
func storedQuery(r *url.URL) string {
	if r.RawQuery == "" {
		return ""
	}
	kept := make([]string, 0, 4)
	for part := range strings.SplitSeq(r.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		if part == "" || strings.EqualFold(name, "id") || strings.EqualFold(name, "access_token") {
			continue
		}
		kept = append(kept, part)
	}
	return strings.Clone(strings.Join(kept, "&"))
}
