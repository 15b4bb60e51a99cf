package client

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned after the client was closed or has given up.
	ErrClosed = errors.New("signalr: client closed")

	// ErrNotConnected is returned by sends while the client is not connected:
	// before Start, and while it reconnects.
	ErrNotConnected = errors.New("signalr: not connected")

	// ErrConnectionLost is returned by invocations whose connection was lost
	// before their result came: the server may or may not have handled them.
	ErrConnectionLost = errors.New("signalr: connection lost")

	errServerTimeout = errors.New("signalr: the server was silent for too long")
)

// A HubError is an error that the server answered to an invocation.
type HubError struct{ Message string }

func (e *HubError) Error() string { return e.Message }

// An HTTPError is an unexpected status of a negotiation or of the upgrade to a
// WebSocket.
type HTTPError struct {
	Status int
	Body   string // its beginning
}

func (e *HTTPError) Error() string {
	return fmt.Sprintf("signalr: the server answered with HTTP status %d %s", e.Status, e.Body)
}

// A CloseError is why the server closed the connection.
type CloseError struct {
	Message        string // may be empty
	AllowReconnect bool
}

func (e *CloseError) Error() string {
	if e.Message == "" {
		return "signalr: closed by the server"
	}
	return "signalr: closed by the server: " + e.Message
}

// A HandshakeError is an error that the server answered to the handshake.
type HandshakeError struct{ Message string }

func (e *HandshakeError) Error() string { return "signalr: handshake refused: " + e.Message }

// A protocolError says how the server broke the protocol.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return "signalr: protocol error: " + e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }
