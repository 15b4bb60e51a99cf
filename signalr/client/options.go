package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	// SkipNegotiation connects the WebSocket at once, without an id. It
	// rules out redirects and stateful reconnect.
	SkipNegotiation bool

	// Dial opens TCP connections, for negotiation too; a source address or a
	// proxy goes here. nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// HTTPClient negotiates. nil means one that uses Dial, without
	// keep-alive.
	HTTPClient *http.Client

	// Reconnect says how long to wait before the given attempt (from 1) to
	// reconnect after a connection was lost with err; ok false gives up. nil
	// means [DefaultReconnect]; [NoReconnect] never tries.
	Reconnect func(attempt int, err error) (wait time.Duration, ok bool)

	// StatefulReconnect asks the server for stateful reconnect: a broken
	// socket is replaced without losing or repeating a message.
	StatefulReconnect bool

	// StatefulBuffer is how many bytes of unacknowledged messages are kept
	// for stateful reconnect before sending waits. 0 means 100000.
	StatefulBuffer int

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

	// StreamBuffer is how many items of a stream wait for their reader
	// before reading from the connection stops. 0 means 10.
	StreamBuffer int

	// OnBatch runs after the handlers of the messages that came in one
	// WebSocket message, on their goroutine: what they want to send, such as
	// acknowledgements, can leave together there.
	OnBatch func()

	// OnReconnecting runs when a connection was lost and will be tried again;
	// OnReconnected when it is back, with the new connection id; OnClosed
	// once, at the end. They must not block.
	OnReconnecting func(err error)
	OnReconnected  func(connectionID string)
	OnClosed       func(err error)
}

func (o *Options) complete() error {
	for _, d := range []struct {
		name   string
		value  *time.Duration
		normal time.Duration
	}{
		{"KeepAliveInterval", &o.KeepAliveInterval, 15 * time.Second},
		{"ServerTimeout", &o.ServerTimeout, 30 * time.Second},
		{"HandshakeTimeout", &o.HandshakeTimeout, 15 * time.Second},
		{"WriteTimeout", &o.WriteTimeout, 10 * time.Second},
	} {
		if *d.value < 0 {
			return fmt.Errorf("signalr: %s is negative", d.name)
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
		{"MaxMessageSize", &o.MaxMessageSize, 1 << 20},
		{"StreamBuffer", &o.StreamBuffer, 10},
		{"StatefulBuffer", &o.StatefulBuffer, 100_000},
	} {
		if *n.value < 0 {
			return fmt.Errorf("signalr: %s is negative", n.name)
		}
		if *n.value == 0 {
			*n.value = n.normal
		}
	}
	if o.Protocol > MessagePack {
		return fmt.Errorf("signalr: unknown protocol %d", o.Protocol)
	}
	if o.SkipNegotiation && o.StatefulReconnect {
		return errors.New("signalr: stateful reconnect needs negotiation")
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.HTTPClient == nil {
		// Negotiation happens once a connection: an idle connection would
		// only be in the way.
		o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: o.Dial, DisableKeepAlives: true}}
	}
	if o.Reconnect == nil {
		o.Reconnect = DefaultReconnect
	}
	return nil
}

// maxReconnectWait bounds the waits of DefaultReconnect.
const maxReconnectWait = 30 * time.Second

// DefaultReconnect tries for as long as the client is not closed, after
// random waits of up to 1 s, 2 s, 4 s … 30 s.
func DefaultReconnect(attempt int, _ error) (time.Duration, bool) {
	limit := maxReconnectWait
	if attempt < 6 {
		limit = min(limit, time.Second<<max(attempt-1, 0))
	}
	return rand.N(limit), true
}

// NoReconnect never reconnects.
func NoReconnect(int, error) (time.Duration, bool) { return 0, false }
