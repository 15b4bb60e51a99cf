package signalr

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"
)

// HubOptions are the settings of one [Hub]. The zero value of each field
// means its default.
type HubOptions struct {
	// Authenticate says who sends a request. It runs for every request of
	// the hub: at negotiate, at connect and, with long polling and
	// server-sent events, for each request after that, which must give the
	// same user. An error refuses the request before any upgrade: a
	// *[HTTPError] says how, any other error is 401 without detail. nil means
	// that everyone is welcome and nobody has a user id.
	Authenticate func(r *http.Request) (Identity, error)

	// Redirect may send a client elsewhere at negotiate; it runs after
	// Authenticate. An empty URL means no redirect.
	// It also runs while the server drains, so that clients which come back
	// to it can be sent to one that stays.
	Redirect func(r *http.Request, id Identity) (Redirect, error)

	// Admit may refuse a client that wants a new connection, with an
	// *[HTTPError]: at negotiate, after Redirect, and at a connect without a
	// negotiation. Who has negotiated gets its connection. nil means that
	// everyone is admitted.
	Admit func(r *http.Request) error

	// OnConnected runs after the handshake, before any invocation of the
	// connection is handled. An error closes the connection; a *[HubError]
	// is told to the client.
	OnConnected func(ctx context.Context, c *Conn) error

	// OnDisconnected runs exactly once for each connection for which
	// OnConnected ran, after its last handler has returned. err is nil when
	// the client closed the connection normally; with server-sent events
	// that cannot be told from a lost connection.
	OnDisconnected func(c *Conn, err error)

	// OnDetached and OnReattached tell of the grace period of stateful
	// reconnect: the connection lost its socket, and got another one.
	OnDetached   func(c *Conn)
	OnReattached func(c *Conn)

	// Filters wrap every invocation, the first one outermost.
	Filters []Filter

	// AllowedOrigins lists the origins, such as "https://example.com", whose
	// pages may use the hub with credentials. "*" allows all. Requests
	// without an Origin header, and those of the server's own origin, are
	// always allowed.
	AllowedOrigins []string

	// Transports restricts the transports on offer. 0 means all.
	Transports Transport

	// Protocols restricts the hub protocols on offer. 0 means all.
	Protocols Protocol

	// KeepAliveInterval is the time without anything sent after which a
	// ping is. 0 means 15 s.
	KeepAliveInterval time.Duration

	// ClientTimeout is the time without anything received after which the
	// client counts as gone. 0 means 30 s.
	ClientTimeout time.Duration

	// HandshakeTimeout is the time that a client has for its handshake
	// request. 0 means 15 s.
	HandshakeTimeout time.Duration

	// WriteTimeout is the time that one write to a client's socket may take
	// before the connection is given up. 0 means 10 s.
	WriteTimeout time.Duration

	// DisconnectTimeout is how long a negotiated id lives unused, a long
	// polling client may stay away between two polls, and a client has for
	// a stateful reconnect. 0 means 15 s.
	DisconnectTimeout time.Duration

	// PollTimeout is how long a long poll waits for data before it is
	// answered empty. 0 means 90 s.
	PollTimeout time.Duration

	// MaxMessageSize bounds one received hub message, in bytes. 0 means
	// 32 KiB.
	MaxMessageSize int

	// OutboxMessages and OutboxBytes bound what waits to be written to one
	// connection. A send that would exceed either closes the connection with
	// allowReconnect, because a client that cannot keep up must not hold
	// memory, and nothing may be left out. 0 means 1024 messages, 1 MiB.
	OutboxMessages int
	OutboxBytes    int

	// MaxParallelInvocations is how many invocations of one connection may
	// run at the same time. 1, the default, runs them in order on the
	// goroutine that reads from the connection: handlers must not block for
	// long and cannot wait for client results. More run on goroutines of their
	// own, and may begin and end in another order than the client's.
	MaxParallelInvocations int

	// MaxStreams bounds the streams of one connection in each direction.
	// 0 means 100.
	MaxStreams int

	// MaxPendingCalls bounds the client results that one connection may owe
	// the server. 0 means 1000.
	MaxPendingCalls int

	// StreamBuffer is how many items of a client's stream wait for its
	// handler before reading from the connection stops. 0 means 10.
	StreamBuffer int

	// StatefulReconnect offers stateful reconnect to clients that ask.
	StatefulReconnect bool

	// StatefulBuffer is how many bytes of unacknowledged messages are kept
	// for each connection with stateful reconnect before sending pauses.
	// 0 means 100000.
	StatefulBuffer int

	// DetailedErrors sends the text of any error of a handler to clients.
	// Without it only that of a *[HubError] is sent.
	DetailedErrors bool
}

// complete checks the options and fills in the defaults.
func (o *HubOptions) complete() error {
	for _, d := range []struct {
		name   string
		value  *time.Duration
		normal time.Duration
	}{
		{"KeepAliveInterval", &o.KeepAliveInterval, 15 * time.Second},
		{"ClientTimeout", &o.ClientTimeout, 30 * time.Second},
		{"HandshakeTimeout", &o.HandshakeTimeout, 15 * time.Second},
		{"WriteTimeout", &o.WriteTimeout, 10 * time.Second},
		{"DisconnectTimeout", &o.DisconnectTimeout, 15 * time.Second},
		{"PollTimeout", &o.PollTimeout, 90 * time.Second},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.normal
		}
	}
	for _, n := range []struct {
		name   string
		value  *int
		normal int
	}{
		{"MaxMessageSize", &o.MaxMessageSize, 32 << 10},
		{"OutboxMessages", &o.OutboxMessages, 1024},
		{"OutboxBytes", &o.OutboxBytes, 1 << 20},
		{"MaxParallelInvocations", &o.MaxParallelInvocations, 1},
		{"MaxStreams", &o.MaxStreams, 100},
		{"MaxPendingCalls", &o.MaxPendingCalls, 1000},
		{"StreamBuffer", &o.StreamBuffer, 10},
		{"StatefulBuffer", &o.StatefulBuffer, 100_000},
	} {
		if *n.value < 0 {
			return fmt.Errorf("%s is negative", n.name)
		}
		if *n.value == 0 {
			*n.value = n.normal
		}
	}
	if o.Transports == 0 {
		o.Transports = WebSockets | ServerSentEvents | LongPolling
	}
	if o.Protocols == 0 {
		o.Protocols = JSON | MessagePack
	}
	for _, origin := range o.AllowedOrigins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			return fmt.Errorf("AllowedOrigins: %q is not of the form scheme://host[:port]", origin)
		}
	}
	return nil
}

// shortestInterval is the shortest time that the wheel must keep.
func (o *HubOptions) shortestInterval() time.Duration {
	return min(o.KeepAliveInterval, o.ClientTimeout, o.HandshakeTimeout, o.DisconnectTimeout)
}

// A Hub is one SignalR endpoint: an [http.Handler] for its path and
// everything below it. Make one with [Server.NewHub].
type Hub struct {
	server   *Server
	opts     HubOptions
	clients  *registry
	upgrader *gws.Upgrader

	methods map[string]*method // by the registered name
	lower   map[string]*method // by the lower-case name

	mu         sync.Mutex
	negotiated map[string]*negotiation // by token
	expiries   negotiationQueue        // of negotiated
	byToken    map[string]*Conn        // connected or about to be
}

func newHub(s *Server, opts HubOptions) *Hub {
	h := &Hub{
		server: s, opts: opts, clients: newRegistry(),
		methods:    make(map[string]*method),
		lower:      make(map[string]*method),
		negotiated: make(map[string]*negotiation),
		byToken:    make(map[string]*Conn),
	}
	h.upgrader = newUpgrader(opts.MaxMessageSize)
	return h
}

// Mount registers the hub on mux at path, such as "/hubs/chat".
func (h *Hub) Mount(mux *http.ServeMux, path string) {
	path = strings.TrimSuffix(path, "/")
	mux.Handle(path, h)
	mux.Handle(path+"/negotiate", h)
}

// Handle registers a method that clients can invoke, under a name that is
// matched without regard to case. It must be called before the hub serves
// its first request and panics when the name is taken.
func (h *Hub) Handle(target string, m Method) {
	key := strings.ToLower(target)
	if _, taken := h.lower[key]; taken {
		panic(fmt.Sprintf("signalr: method %q is registered twice", target))
	}
	m.handler = filtered(m.handler, h.opts.Filters)
	registered := &method{Method: m, target: target}
	h.methods[target] = registered
	h.lower[key] = registered
}

// method finds a method. It does not allocate when the client uses the name
// as it was registered.
func (h *Hub) method(target []byte) *method {
	if m, ok := h.methods[string(target)]; ok {
		return m
	}
	return h.lower[string(bytes.ToLower(target))]
}

// Conn returns the open connection with that id.
func (h *Hub) Conn(id string) (*Conn, bool) { return h.clients.get(id) }

// Connections returns the open connections, in no order. Connections that open
// or end meanwhile may be among them or not.
func (h *Hub) Connections() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for i := range h.clients.parts {
			for _, c := range h.clients.snapshot(i) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Len returns the number of open connections.
func (h *Hub) Len() int { return h.clients.len() }

// connected enters a connection that has got a place, and starts its clock.
func (h *Hub) connected(c *Conn) {
	h.mu.Lock()
	h.byToken[c.token] = c
	h.mu.Unlock()
	h.server.wheel.add(c)
}

// forget removes what is left of a connection and gives its place back.
func (h *Hub) forget(c *Conn) {
	h.mu.Lock()
	delete(h.byToken, c.token)
	h.mu.Unlock()
	h.server.wheel.remove(c)
	h.server.release()
}

func (h *Hub) logPanic(what string, reason any) {
	h.server.log.Error("signalr: handler panicked", "handler", what, "panic", reason, "stack", string(debug.Stack()))
}
