package signalr

import "time"

// Why connections end, as Metrics.ConnectionClosed says it.
const (
	CloseClient   = "client"    // the client said goodbye
	CloseServer   = "server"    // the application called Conn.Close
	CloseDrain    = "drain"     // Server.Drain or Shutdown
	CloseLost     = "lost"      // the socket broke
	CloseTimeout  = "timeout"   // nothing came from the client for too long
	CloseSlow     = "slow"      // outbox full, or a write that took too long
	CloseProtocol = "protocol"  // the client sent what it must not
	CloseExpired  = "expired"   // the identity expired
	CloseRefused  = "refused"   // OnConnected returned an error
	CloseHello    = "handshake" // the handshake failed or did not come
)

// Metrics are hooks that are called when something countable happens; each
// may be nil. They must be quick and must not block.
type Metrics struct {
	// ConnectionOpened is called after a handshake.
	ConnectionOpened func(t Transport, p Protocol)
	// ConnectionClosed is called at the end of a connection that was opened.
	// reason is one of the Close… constants.
	ConnectionClosed func(t Transport, p Protocol, reason string, lasted time.Duration)
	// Refused is called when a request gets an HTTP error status. reason is
	// the body: one of a few constant texts, unless the application returned
	// an *HTTPError with another.
	Refused func(status int, reason string)
	// Sent is called after a write with the hub messages and bytes written.
	Sent func(messages, bytes int)
	// Received is called for each hub message received.
	Received func(bytes int)
	// Invoked is called after a hub method.
	Invoked func(target string, took time.Duration, err error)
}

func (m *Metrics) sent(messages, bytes int) {
	if m.Sent != nil {
		m.Sent(messages, bytes)
	}
}

func (m *Metrics) refused(e *HTTPError) {
	if m.Refused != nil {
		m.Refused(e.Status, e.Message)
	}
}
