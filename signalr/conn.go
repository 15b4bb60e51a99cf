package signalr

import (
	"context"
	"net/url"
)

// A Conn is one client's connection. Its methods may be called from any
// goroutine.
type Conn struct{}

// ID is the public id of the connection, which is safe to show to others.
func (c *Conn) ID() string { panic("not yet") }

// UserID is the user id that HubOptions.Authenticate returned.
func (c *Conn) UserID() string { panic("not yet") }

// Claims are what HubOptions.Authenticate returned beside the user id.
func (c *Conn) Claims() any { panic("not yet") }

// Query returns the query of the request that connected, without the
// connection token and the access token.
func (c *Conn) Query() url.Values { panic("not yet") }

// RemoteAddr is the client's address as the HTTP server saw it.
func (c *Conn) RemoteAddr() string { panic("not yet") }

// Transport tells how the connection is carried.
func (c *Conn) Transport() Transport { panic("not yet") }

// Protocol tells how its messages are encoded.
func (c *Conn) Protocol() Protocol { panic("not yet") }

// Context is done when the connection has ended.
func (c *Conn) Context() context.Context { panic("not yet") }

// Value returns what SetValue stored.
func (c *Conn) Value() any { panic("not yet") }

// SetValue stores one value of the application with the connection.
func (c *Conn) SetValue(v any) { panic("not yet") }

// Send queues m for the client and returns without waiting for it to be
// written. Messages leave in the order in which Send was called. The error is
// [ErrOutboxFull] when the message did not fit, in which case the connection
// is being closed; [ErrClosed] when it already was; or that of encoding m.
func (c *Conn) Send(m *Message) error { panic("not yet") }

// Invoke sends m and waits for the client's result. It fails with a
// *[ClientError] when the client answers with an error, with [ErrClosed] when
// the connection ends first, and as Send does.
func (c *Conn) Invoke(ctx context.Context, m *Message) (Result, error) { panic("not yet") }

// InvokeAsync sends m and calls done with the client's result, or with the
// error that Invoke would return, exactly once unless the call is cancelled
// or InvokeAsync itself returns an error. done runs on the goroutine that
// reads from the connection and must not block.
func (c *Conn) InvokeAsync(m *Message, done func(Result, error)) (Call, error) { panic("not yet") }

// Call is a result that a client owes.
type Call struct{}

// Cancel gives the call up. It reports whether it prevented done from being
// called.
func (c Call) Cancel() bool { panic("not yet") }

// Result is the result of a client's handler.
type Result struct{}

// Decode stores the result in the value that v points to. It must be called
// before the callback to which the result was given returns.
func (r Result) Decode(v any) error { panic("not yet") }

// Close sends what is queued, then a close message, and closes the
// connection. message is shown to the client as the reason if it is not empty.
// With allowReconnect clients that were told to reconnect automatically do
// so; without it they stop. Close does not wait.
func (c *Conn) Close(message string, allowReconnect bool) { panic("not yet") }

// JoinGroup adds the connection to a group. It fails with [ErrClosed].
func (c *Conn) JoinGroup(name string) error { panic("not yet") }

// LeaveGroup takes the connection out of a group.
func (c *Conn) LeaveGroup(name string) { panic("not yet") }

// Queued returns the messages and bytes that wait to be written.
func (c *Conn) Queued() (messages, bytes int) { panic("not yet") }
