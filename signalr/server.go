package signalr

import (
	"context"
	"log/slog"
)

// Options are the settings that all hubs of a [Server] share. The zero value
// of each field means its default.
type Options struct {
	// MaxConnections bounds the connections of all hubs together. Further
	// ones are refused with 503 before any upgrade. 0 means no bound.
	MaxConnections int

	// MaxNegotiations bounds the ids that were negotiated and not yet used
	// to connect. Further negotiations are refused with 503 and Retry-After.
	// 0 means 65536.
	MaxNegotiations int

	// DrainRate is how many connections [Server.Drain] and
	// [Server.Shutdown] close in a second, so that the clients, who
	// reconnect at once, do not arrive elsewhere all together. 0 means as
	// fast as possible.
	DrainRate int

	// Logger receives what nobody else hears of: panics of handlers, and at
	// debug level why connections ended. nil means no log.
	Logger *slog.Logger

	// Metrics are called when something countable happens.
	Metrics Metrics
}

// A Server holds hubs and what they share: connection limits, the timer wheel
// that drives pings and timeouts, and the drain. It must be ended by
// [Server.Shutdown].
type Server struct{}

// NewServer returns a server without hubs. It fails when an option is out of
// range.
func NewServer(opts Options) (*Server, error) { panic("not yet") }

// NewHub adds a hub. It fails when an option is out of range or after
// Shutdown began.
func (s *Server) NewHub(opts HubOptions) (*Hub, error) { panic("not yet") }

// Drain refuses new negotiations and connections with 503, closes all
// connections with allowReconnect at the rate of Options.DrainRate, and
// returns when the last has ended or ctx is done.
func (s *Server) Drain(ctx context.Context) error { panic("not yet") }

// Shutdown drains and then ends every goroutine of the server. When ctx is
// done first, the connections that are left are cut without ceremony and
// ctx's error is returned; all goroutines have ended then, too, except those
// that are still inside a handler of the application.
func (s *Server) Shutdown(ctx context.Context) error { panic("not yet") }

// Len returns the number of connections of all hubs.
func (s *Server) Len() int { panic("not yet") }
