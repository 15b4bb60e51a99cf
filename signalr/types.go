package signalr

import (
	"errors"
	"net/http"
	"time"
)

// Transport is a set of ways to carry a connection.
type Transport uint8

// The transports.
const (
	WebSockets Transport = 1 << iota
	ServerSentEvents
	LongPolling
)

// Protocol is a set of encodings of hub messages.
type Protocol uint8

// The hub protocols.
const (
	JSON Protocol = 1 << iota
	MessagePack
)

// Identity is what is known of the sender of a request.
type Identity struct {
	// UserID addresses all connections of one user. Empty means anonymous.
	UserID string
	// Claims are kept with the connection for the application.
	Claims any
	// Expires, if set, is when a connection that was opened with this
	// identity is closed, with allowReconnect.
	Expires time.Time
}

// Redirect tells a client to negotiate elsewhere.
type Redirect struct {
	URL         string
	AccessToken string // sent by the client from then on; optional
}

// AccessToken returns the bearer token of the Authorization header or, as
// browsers send it for WebSockets and server-sent events, of the access_token
// query parameter.
func AccessToken(r *http.Request) string { panic("not yet") }

// HTTPError refuses a request with an HTTP status.
type HTTPError struct {
	Status  int
	Message string // the body, shown to the client
}

func (e *HTTPError) Error() string { return e.Message }

// HubError is an error of a handler whose text is meant for the client.
type HubError struct{ Message string }

func (e *HubError) Error() string { return e.Message }

// ClientError is what a client answered instead of a result.
type ClientError struct{ Message string }

func (e *ClientError) Error() string { return e.Message }

// Errors of sending.
var (
	// ErrClosed: the connection has ended or is being closed.
	ErrClosed = errors.New("signalr: connection closed")
	// ErrOutboxFull: the connection's outbox could not take the message, and
	// the connection is being closed for that.
	ErrOutboxFull = errors.New("signalr: outbox full")
	// ErrTooManyCalls: the client already owes HubOptions.MaxPendingCalls
	// results. The connection stays open.
	ErrTooManyCalls = errors.New("signalr: too many pending calls")
)

// Metrics are hooks that are called when something countable happens; each
// may be nil. They must be quick and must not block.
type Metrics struct {
	// ConnectionOpened is called after a handshake.
	ConnectionOpened func(t Transport, p Protocol)
	// ConnectionClosed is called at the end of a connection that was opened.
	// reason is one of the Close… constants.
	ConnectionClosed func(t Transport, p Protocol, reason string, lasted time.Duration)
	// Refused is called when a request gets an HTTP error status.
	Refused func(status int)
	// Sent is called after a write with the messages and bytes written.
	Sent func(messages, bytes int)
	// Received is called for each hub message received.
	Received func(bytes int)
	// Invoked is called after a hub method.
	Invoked func(target string, took time.Duration, err error)
}
