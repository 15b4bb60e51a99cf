package signalr

import (
	"context"
	"net/http"
	"time"
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
	Redirect func(r *http.Request, id Identity) (Redirect, error)

	// OnConnected runs after the handshake, before any invocation of the
	// connection is handled. An error closes the connection; a *[HubError]
	// is told to the client.
	OnConnected func(ctx context.Context, c *Conn) error

	// OnDisconnected runs exactly once for each connection for which
	// OnConnected ran, after its last handler has returned. err is nil when
	// the client closed the connection normally.
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
	// long and cannot wait for client results.
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

// A Hub is one SignalR endpoint: an [http.Handler] for its path and
// everything below it.
type Hub struct{}

// ServeHTTP serves negotiation and all transports.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { panic("not yet") }

// Mount registers the hub on mux at path, such as "/hubs/chat".
func (h *Hub) Mount(mux *http.ServeMux, path string) { panic("not yet") }

// Handle registers a method that clients can invoke, under a name that is
// matched without regard to case. It must be called before the hub serves
// its first request and panics when the name is taken.
func (h *Hub) Handle(target string, m Method) { panic("not yet") }

// Conn returns the connection with that id.
func (h *Hub) Conn(id string) (*Conn, bool) { panic("not yet") }

// Len returns the number of connections.
func (h *Hub) Len() int { panic("not yet") }

// All addresses all connections.
func (h *Hub) All() Clients { panic("not yet") }

// User addresses all connections of a user.
func (h *Hub) User(id string) Clients { panic("not yet") }

// Group addresses the connections that joined a group.
func (h *Hub) Group(name string) Clients { panic("not yet") }

// Clients addresses a set of connections: whoever belongs to it at the moment
// of a send.
type Clients struct{}

// Except leaves out the connections with these ids.
func (t Clients) Except(ids ...string) Clients { panic("not yet") }

// Send queues m, encoded once for each protocol, to every connection of the
// set and returns how many took it. It never blocks on a connection.
func (t Clients) Send(m *Message) int { panic("not yet") }
