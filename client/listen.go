package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// mobileHub is where devices connect, below the base URL.
const mobileHub = "/hubs/mobile"

// Delivery is a message as it arrives at a device.
type Delivery struct {
	ID string `json:"id"`
	// From is the name of the business client that sent it.
	From string `json:"from"`
	// Content is a text message's text; Data a data message's JSON.
	Content    string            `json:"content,omitempty"`
	Data       json.RawMessage   `json:"data,omitempty"`
	Type       string            `json:"type,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	AcceptedAt time.Time         `json:"accepted_at"`
	// TraceParent is the W3C traceparent that the message was sent with, "" without one.
	TraceParent string `json:"traceparent,omitempty"`
	// Attempt is 1 for the first time that the platform sends the message.
	Attempt uint32 `json:"attempt"`
	// ReceivedAt is when it arrived, by the clock of this machine.
	ReceivedAt time.Time `json:"-"`
}

// Handler takes a message that arrived at a device. The message is acknowledged, which makes it
// delivered, after the handler returned nil. After an error it is not, and the platform will send it
// again. Handlers run one at a time, in the order of arrival; ctx ends with the Listener's run.
type Handler func(ctx context.Context, d Delivery) error

// TokenSource returns the token that a device signs in with. It is asked before every connection, so
// it may renew one that has expired. When its error is or wraps a *Problem that is not temporary, the
// Listener gives up.
type TokenSource func(ctx context.Context) (string, error)

// StaticToken returns a TokenSource that always returns the same token.
func StaticToken(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// ListenOptions are the settings of a [Listener]. The zero value of each field means its default.
type ListenOptions struct {
	// Memory is how many handled messages are remembered to recognise repeats by. 0 means 10,000.
	Memory int
	// AckDelay is the longest time that an acknowledgement waits for others to go with it. 0 means
	// 10 ms.
	AckDelay time.Duration
	// OnConnect runs when a connection stands, OnDisconnect when it is lost or could not be made,
	// with the wait before the next attempt. They must not block. May be nil.
	OnConnect    func()
	OnDisconnect func(err error, wait time.Duration)
	// Dial opens the TCP connection. nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Bounds of what a Listener holds.
const (
	defaultMemory   = 10_000
	defaultAckDelay = 10 * time.Millisecond
	// inbox is how many arrived messages wait for the handler. When it is full the connection is not
	// read any further, and the platform holds the rest.
	inbox = 256
	// ackBatch is how many acknowledgements go in one frame.
	ackBatch = 256
)

// The waits between attempts to connect: random, up to the first at first, doubling up to the last.
const (
	firstReconnect = time.Second
	lastReconnect  = 30 * time.Second
	// settled is how long a connection must have stood for the waits to begin anew, so that a server
	// that takes connections and drops them is not stormed.
	settled = 30 * time.Second
)

// ErrNotConnected is returned by MarkAsRead while there is no connection.
var ErrNotConnected = errors.New("client: the listener is not connected")

// Listener is a device of one recipient: it connects, takes messages, acknowledges them, and connects
// again when the connection is lost.
type Listener struct {
	hub     string
	token   TokenSource
	handler Handler
	opts    ListenOptions
	running atomic.Bool
	conn    atomic.Pointer[signalr.Client] // nil while there is none
}

// NewListener returns a Listener for the server at baseURL. It does not connect yet.
func NewListener(baseURL string, token TokenSource, handler Handler, opts ListenOptions) (*Listener, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	if token == nil || handler == nil {
		return nil, errors.New("client: a listener needs a token source and a handler")
	}
	if opts.Memory < 0 || opts.AckDelay < 0 {
		return nil, errors.New("client: a listen option is negative")
	}
	return newListener(base, token, handler, opts), nil
}

func newListener(base *url.URL, token TokenSource, handler Handler, opts ListenOptions) *Listener {
	if opts.Memory == 0 {
		opts.Memory = defaultMemory
	}
	if opts.AckDelay == 0 {
		opts.AckDelay = defaultAckDelay
	}
	return &Listener{hub: base.JoinPath(mobileHub).String(), token: token, handler: handler, opts: opts}
}

// Listen receives the recipient's messages with a token that the client mints, until ctx ends. The
// client needs the right to mint tokens. Its errors are those of [Listener.Run].
func (c *Client) Listen(ctx context.Context, recipient string, handler Handler, opts ListenOptions) error {
	if handler == nil || opts.Memory < 0 || opts.AckDelay < 0 {
		return errors.New("client: the handler is nil or a listen option negative")
	}
	token := func(ctx context.Context) (string, error) {
		t, err := c.RecipientToken(ctx, recipient, 0)
		return t.Token, err
	}
	return newListener(c.base, token, handler, opts).Run(ctx)
}

// Run receives messages until ctx ends, and then returns nil, or until connecting proves hopeless,
// such as with a token that the server refuses. A Listener runs once at a time.
func (l *Listener) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("client: the listener is running already")
	}
	defer l.running.Store(false)

	// The reading goroutine of the connection → arrived → the handler's goroutine → handled → the
	// acknowledging goroutine. They end in this order, and before the connection does, so that what
	// was handled is acknowledged. What waits in arrived then is not: the platform sends it again.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan Delivery, inbox)
	handled := make(chan string, ackBatch)
	acked := make(chan struct{})
	go func() {
		defer close(handled)
		l.handle(ctx, arrived, handled)
	}()
	go func() {
		defer close(acked)
		l.acknowledge(handled)
	}()
	return l.connections(ctx, arrived, func() { cancel(); <-acked })
}

// connections keeps a connection until ctx ends or an error is permanent. It calls finish at the end,
// while the last connection still stands, if it does.
func (l *Listener) connections(ctx context.Context, arrived chan<- Delivery, finish func()) error {
	backoff := RetryPolicy{Base: firstReconnect, Max: lastReconnect}
	for attempt := 1; ; attempt++ {
		began := time.Now()
		conn, err := l.connect(ctx, arrived)
		if err == nil {
			if l.opts.OnConnect != nil {
				l.opts.OnConnect()
			}
			select {
			case <-conn.Done():
				l.conn.Store(nil)
				err = conn.Err()
			case <-ctx.Done():
				finish()
				l.conn.Store(nil)
				// Closing waits for the goodbye to be written; how it went does not matter any more.
				_ = conn.Close()
				<-conn.Done()
				return nil
			}
			if time.Since(began) >= settled {
				attempt = 1
			}
		}
		if ctx.Err() == nil && hopeless(err) {
			finish()
			return fmt.Errorf("client: connecting as a device: %w", err)
		}
		wait := backoff.backoff(attempt)
		if p := asProblem(err); p != nil {
			wait += p.RetryAfter
		}
		if ctx.Err() == nil && l.opts.OnDisconnect != nil {
			l.opts.OnDisconnect(err, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			finish()
			return nil
		}
	}
}

// connect makes one connection that delivers into arrived until ctx ends.
func (l *Listener) connect(ctx context.Context, arrived chan<- Delivery) (*signalr.Client, error) {
	conn, err := signalr.New(l.hub, signalr.Options{
		AccessToken: l.token,
		Dial:        l.opts.Dial,
		Reconnect:   signalr.NoReconnect, // connections does, with a fresh token each time
	})
	if err != nil {
		return nil, err
	}
	conn.On("ReceiveMessage", func(_ context.Context, call *signalr.Call) (any, error) {
		d := Delivery{ReceivedAt: time.Now()}
		if err := call.Decode(0, &d); err != nil {
			return nil, err
		}
		select {
		case arrived <- d:
		case <-ctx.Done():
		}
		return nil, nil
	})
	// Known before it stands: the first message may be handled before Start returns.
	l.conn.Store(conn)
	if err := conn.Start(ctx); err != nil {
		l.conn.Store(nil)
		_ = conn.Close() // the attempt's error is the one that matters
		return nil, err
	}
	return conn, nil
}

// handle gives what arrives to the handler, one by one, and passes on the ids to acknowledge.
func (l *Listener) handle(ctx context.Context, arrived <-chan Delivery, handled chan<- string) {
	done := newMemory(l.opts.Memory)
	for {
		var d Delivery
		select {
		case d = <-arrived:
		case <-ctx.Done():
			return
		}
		// A repeat is acknowledged again: the first acknowledgement may be what was lost.
		if !done.has(d.ID) {
			if l.handler(ctx, d) != nil {
				continue
			}
			done.add(d.ID)
		}
		handled <- d.ID
	}
}

// acknowledge sends the ids that it is given, in batches, until handled is closed. What cannot be sent
// is dropped: the platform will repeat those messages, and handle will pass their ids on again.
func (l *Listener) acknowledge(handled <-chan string) {
	for id := range handled {
		ids := append(make([]string, 0, 16), id)
		timer := time.NewTimer(l.opts.AckDelay)
	collect:
		for len(ids) < ackBatch {
			select {
			case id, ok := <-handled:
				if !ok {
					break collect
				}
				ids = append(ids, id)
			case <-timer.C:
				break collect
			}
		}
		timer.Stop()
		if conn := l.conn.Load(); conn != nil {
			// The connection bounds the write itself; an error also ends the connection.
			_ = conn.Send(context.Background(), "AcknowledgeMessages", ids)
		}
	}
}

// MarkAsRead tells the platform that the user has read these messages. It returns when the platform
// has taken the news.
func (l *Listener) MarkAsRead(ctx context.Context, ids ...string) error {
	conn := l.conn.Load()
	if conn == nil {
		return ErrNotConnected
	}
	if err := conn.Invoke(ctx, nil, "MarkAsRead", ids); err != nil {
		return fmt.Errorf("client: marking messages as read: %w", err)
	}
	return nil
}

// hopeless reports whether connecting again cannot help: the tokens' source, or the server with a token
// fresh from it, says no.
func hopeless(err error) bool {
	if p := asProblem(err); p != nil {
		return !p.Temporary()
	}
	var refused *signalr.HTTPError
	return errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden)
}
