// Package client is a client for the ASP.NET Core SignalR protocol.
package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Protocol is the encoding of hub messages.
type Protocol uint8

// The hub protocols.
const (
	JSON Protocol = iota
	MessagePack
)

// Options are the settings of a [Client]. The zero value of each field means
// its default.
type Options struct {
	// Protocol is the hub protocol. The default is JSON.
	Protocol Protocol

	// AccessToken is asked for a token before each negotiation and each
	// connect. nil means none.
	AccessToken func(ctx context.Context) (string, error)

	// Header is sent with every HTTP request.
	Header http.Header

	// SkipNegotiation connects the WebSocket at once, without an id.
	SkipNegotiation bool

	// Dial opens TCP connections, for negotiation too; a source address or a
	// proxy goes here. nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Reconnect says how long to wait before the given attempt (from 1) to
	// reconnect after a connection was lost with err; ok false gives up. nil
	// means [DefaultReconnect]; [NoReconnect] never tries.
	Reconnect func(attempt int, err error) (wait time.Duration, ok bool)

	// StatefulReconnect asks the server for stateful reconnect: a broken
	// socket is replaced without losing or repeating a message.
	StatefulReconnect bool

	// KeepAliveInterval is the time without anything sent after which a ping
	// is. 0 means 15 s.
	KeepAliveInterval time.Duration

	// ServerTimeout is the time without anything received after which the
	// connection counts as lost. 0 means 30 s.
	ServerTimeout time.Duration

	// HandshakeTimeout bounds negotiation, connect and handshake together.
	// 0 means 15 s.
	HandshakeTimeout time.Duration

	// WriteTimeout bounds one write. 0 means 10 s.
	WriteTimeout time.Duration

	// MaxMessageSize bounds one received WebSocket message. 0 means 1 MiB.
	MaxMessageSize int

	// OnReconnecting runs when a connection was lost and will be tried again;
	// OnReconnected when it is back, with the new connection id; OnClosed
	// once, at the end. They must not block.
	OnReconnecting func(err error)
	OnReconnected  func(connectionID string)
	OnClosed       func(err error)
}

// ErrClosed is returned after the client was closed or has given up.
var ErrClosed = errors.New("signalr: client closed")

// HubError is an error that the server answered.
type HubError struct{ Message string }

func (e *HubError) Error() string { return e.Message }

// A Client is a connection to a hub that reconnects by itself. Its methods may
// be called from any goroutine.
type Client struct{}

// New returns a client for the hub at url (http, https, ws or wss). It does
// not connect yet.
func New(url string, opts Options) (*Client, error) { panic("not yet") }

// On registers the handler of a method that the server invokes. It must be
// called before Start. Handlers run one at a time, in order, on the goroutine
// that reads from the connection.
func (c *Client) On(target string, h Handler) { panic("not yet") }

// A Handler handles an invocation by the server. Its result is sent only if
// the server asked for one.
type Handler func(ctx context.Context, call *Call) (any, error)

// A Call is an invocation by the server. It and what its methods return is
// valid only until the handler returns.
type Call struct{}

// NumArgs is the number of arguments.
func (c *Call) NumArgs() int { panic("not yet") }

// Raw is the n-th argument as it was sent: JSON or MessagePack.
func (c *Call) Raw(n int) []byte { panic("not yet") }

// Decode stores the n-th argument in the value that v points to.
func (c *Call) Decode(n int, v any) error { panic("not yet") }

// Start connects and returns when the handshake is done. It tries once; ctx
// bounds only that.
func (c *Client) Start(ctx context.Context) error { panic("not yet") }

// ConnectionID is the id that the server gave to the present connection.
func (c *Client) ConnectionID() string { panic("not yet") }

// Send invokes a hub method without waiting for an answer: it returns when
// the message has been written.
func (c *Client) Send(ctx context.Context, target string, args ...any) error { panic("not yet") }

// Invoke invokes a hub method and stores its result in the value that result
// points to, if result is not nil. An error of the method is a *[HubError].
func (c *Client) Invoke(ctx context.Context, result any, target string, args ...any) error {
	panic("not yet")
}

// Close says goodbye and ends all goroutines of the client.
func (c *Client) Close() error { panic("not yet") }

// Done is closed when the client has ended: by Close, or because it gave up.
func (c *Client) Done() <-chan struct{} { panic("not yet") }

// Err tells why, after Done: nil after Close.
func (c *Client) Err() error { panic("not yet") }

// DefaultReconnect tries for as long as the client is not closed, after
// random waits of up to 1 s, 2 s, 4 s … 30 s.
func DefaultReconnect(attempt int, err error) (time.Duration, bool) { panic("not yet") }

// NoReconnect never reconnects.
func NoReconnect(int, error) (time.Duration, bool) { return 0, false }
