package signalr

import (
	"errors"
	"net/http"
	"time"
)

// HTTPError refuses a request with an HTTP status.
type HTTPError struct {
	Status  int
	Message string // the body, shown to the client
	// ContentType is the body's, "" for plain text.
	ContentType string
	// RetryAfter is how long the client is asked to wait, told in whole seconds; 0 is one second with a 503
	// and nothing otherwise.
	RetryAfter time.Duration
}

func (e *HTTPError) Error() string { return e.Message }

// HubError is an error whose text is meant for the client.
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
	// ErrWouldDeadlock: Invoke was called inside a handler that keeps the
	// connection from being read. It needs HubOptions.MaxParallelInvocations
	// above 1, or InvokeAsync.
	ErrWouldDeadlock = errors.New("signalr: waiting for a client result inside a handler that blocks reading")
)

// Refusals by the server itself.
var (
	errDraining           = &HTTPError{Status: http.StatusServiceUnavailable, Message: "server is shutting down"}
	errTooManyConnections = &HTTPError{Status: http.StatusServiceUnavailable, Message: "too many connections"}
	errTooManyNegotiated  = &HTTPError{Status: http.StatusServiceUnavailable, Message: "too many unused negotiations"}
	errIDRequired         = &HTTPError{Status: http.StatusBadRequest, Message: "connection id required"}
	errUnknownID          = &HTTPError{Status: http.StatusNotFound, Message: "no connection with that id"}
	errOtherUser          = &HTTPError{Status: http.StatusForbidden, Message: "the connection belongs to another user"}
	errTransportActive    = &HTTPError{Status: http.StatusConflict, Message: "another request serves this connection"}
	errOtherTransport     = &HTTPError{Status: http.StatusBadRequest, Message: "the connection uses another transport"}
	errTransportOff       = &HTTPError{Status: http.StatusNotFound, Message: "transport not available"}
	errMethod             = &HTTPError{Status: http.StatusMethodNotAllowed, Message: "method not allowed"}
	errOrigin             = &HTTPError{Status: http.StatusForbidden, Message: "origin not allowed"}
	errUnauthorized       = &HTTPError{Status: http.StatusUnauthorized, Message: "unauthorized"}
	errBodyTooLarge       = &HTTPError{Status: http.StatusRequestEntityTooLarge, Message: "body too large"}
	errBody               = &HTTPError{Status: http.StatusBadRequest, Message: "body not readable"}
)
