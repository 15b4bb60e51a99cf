package signalr

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// Why a connection is given up.
var (
	errHandshakeTimeout = errors.New("signalr: no handshake in time")
	errClientTimeout    = errors.New("signalr: the client was silent for too long")
	errExpired          = errors.New("signalr: the identity has expired")
	errGraceOver        = errors.New("signalr: the client did not come back in time")
)

// A protocolError says how the client broke the protocol.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return "signalr: protocol error: " + e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

// receive handles what a transport has received: whole messages, or parts of
// them, in order. text tells that it came as text and cannot carry a binary
// protocol. It returns false when nothing more will be handled from t.
func (c *Conn) receive(t transport, data []byte, text bool) bool {
	c.recv.Lock()
	defer c.recv.Unlock()
	c.busy.Store(true)
	defer c.busy.Store(false)
	ok := c.receiveLocked(t, data, text)
	c.lastRead.Store(c.hub.server.now())
	return ok
}

func (c *Conn) receiveLocked(t transport, data []byte, text bool) bool {
	c.mu.Lock()
	state, codec, current := c.state, c.codec, c.transport == t
	c.mu.Unlock()
	if state >= stateClosing || !current {
		return false
	}
	c.lastRead.Store(c.hub.server.now())

	if len(c.partial) > 0 {
		data = append(c.partial, data...)
		c.partial = nil
	}
	if state == stateGreeting {
		rest, ok := c.greet(data)
		if !ok {
			return false
		}
		if rest == nil {
			c.keepPartial(data)
			return true
		}
		// What follows the handshake in the same message is of its kind,
		// whatever the kind of the protocol.
		data, codec, text = rest, c.codec, false
	}
	if text && codec.Binary() {
		c.endProtocol(errors.New("text received where the protocol is binary"))
		return false
	}
	limit := c.hub.opts.MaxMessageSize
	m := parsed.Get().(*protocol.Message)
	defer parsed.Put(m)
	for len(data) > 0 {
		message, rest, err := codec.Next(data, limit)
		if err != nil {
			c.endProtocol(err)
			return false
		}
		if rest == nil {
			c.keepPartial(data)
			return true
		}
		if f := c.hub.server.opts.Metrics.Received; f != nil {
			f(len(data) - len(rest))
		}
		if err := codec.Parse(message, m); err != nil {
			c.endProtocol(err)
			return false
		}
		if !c.handle(m) {
			return false
		}
		data = rest
	}
	return true
}

// parsed are messages as they are parsed, which idle connections do without.
var parsed = sync.Pool{New: func() any { return new(protocol.Message) }}

// keepPartial keeps the beginning of a message until the rest comes. The
// codecs bound its size.
func (c *Conn) keepPartial(data []byte) { c.partial = append([]byte(nil), data...) }

func (c *Conn) endProtocol(err error) {
	c.end(ending{
		reason: CloseProtocol, err: &protocolError{err},
		notify: true, text: "Protocol error: " + err.Error() + ".",
	})
}

// greet handles the handshake. rest is nil when it has not come completely.
func (c *Conn) greet(data []byte) (rest []byte, ok bool) {
	req, rest, err := protocol.ParseHandshakeRequest(data, c.hub.opts.MaxMessageSize)
	if err != nil {
		c.refuseHandshake("Handshake was not understood.", &protocolError{err})
		return nil, false
	}
	if rest == nil {
		return nil, true
	}
	var codec protocol.Codec
	switch {
	case req.Protocol == "json" && c.hub.opts.Protocols&JSON != 0:
		codec = protocol.JSON{}
	case req.Protocol == "messagepack" && c.hub.opts.Protocols&MessagePack != 0 && c.kind != ServerSentEvents:
		codec = protocol.MessagePack{}
	default:
		c.refuseHandshake(fmt.Sprintf("The protocol '%s' is not supported.", req.Protocol), errProtocolUnknown)
		return nil, false
	}
	if req.Version < 1 || req.Version > protocol.MaxVersion {
		c.refuseHandshake(fmt.Sprintf("The server does not support version %d of the '%s' protocol.", req.Version, req.Protocol), errProtocolUnknown)
		return nil, false
	}

	h := c.hub
	c.mu.Lock()
	if c.state != stateGreeting {
		c.mu.Unlock()
		return nil, false
	}
	c.codec = codec
	c.binary.Store(codec.Binary())
	c.state = stateOpen
	c.opened = true
	if c.stateful {
		c.resume = newResumption(h.opts.StatefulBuffer)
	}
	// The response comes before everything else, and leaves when the client
	// can be found: one that has got it may count on that.
	c.out.push(entry{data: protocol.AppendHandshakeResponse(nil, "")})
	c.out.flushing = true
	c.mu.Unlock()
	h.clients.add(c)
	c.mu.Lock()
	c.out.flushing = false
	c.wake()
	c.mu.Unlock()

	if f := h.server.opts.Metrics.ConnectionOpened; f != nil {
		f(c.kind, protocolOf(codec))
	}
	if h.opts.OnConnected != nil {
		var err error
		if !h.safely("OnConnected", func() { err = h.opts.OnConnected((*inlineContext)(c), c) }) {
			err = errHandlerPanic
		}
		if err != nil {
			c.end(ending{
				reason: CloseRefused, err: err,
				notify: true, text: h.errorText("Connection closed with an error.", err),
			})
			return nil, false
		}
	}
	return rest, true
}

var errProtocolUnknown = errors.New("signalr: handshake for an unknown protocol")

// refuseHandshake answers the handshake with an error and closes.
func (c *Conn) refuseHandshake(text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateGreeting {
		return
	}
	c.out.push(entry{data: protocol.AppendHandshakeResponse(nil, text)})
	c.endLocked(ending{reason: CloseHello, err: err})
}

// handle handles one message of an open connection. It returns false when the
// connection has ended by it.
func (c *Conn) handle(m *protocol.Message) bool {
	if c.resume != nil {
		ok, err := c.resume.filter(c, m)
		if err != nil {
			c.endProtocol(err)
			return false
		}
		if !ok {
			return true
		}
	}
	switch m.Type {
	case protocol.Invocation, protocol.StreamInvocation:
		return c.invoked(m)
	case protocol.StreamItem:
		return c.itemReceived(m)
	case protocol.Completion:
		return c.completed(m)
	case protocol.CancelInvocation:
		c.streams.cancel(c, string(m.ID))
	case protocol.Ping:
	case protocol.Close:
		e := ending{reason: CloseClient}
		if m.Error != nil {
			e.err = &ClientError{Message: string(m.Error)}
		}
		c.end(e)
		return false
	case protocol.Ack, protocol.Sequence:
		c.endProtocol(errors.New("stateful reconnect was not negotiated"))
		return false
	}
	return true
}

// invoked runs the method that an invocation names.
func (c *Conn) invoked(m *protocol.Message) bool {
	id := string(m.ID)
	method := c.hub.method(m.Target)
	if method == nil {
		c.fail(id, fmt.Sprintf("Unknown hub method '%s'", m.Target))
		return true
	}
	streaming := m.Type == protocol.StreamInvocation
	switch {
	case streaming && !method.streaming:
		c.fail(id, fmt.Sprintf("The client attempted to invoke the non-streaming '%s' method with a streaming invocation.", method.target))
		return true
	case !streaming && method.streaming:
		c.fail(id, fmt.Sprintf("The client attempted to invoke the streaming '%s' method with a non-streaming invocation.", method.target))
		return true
	case len(m.StreamIDs) != method.uploads:
		c.fail(id, fmt.Sprintf("Failed to invoke '%s' due to an error on the server.", method.target))
		return true
	}
	if streaming || method.uploads > 0 {
		return c.startStream(method, id, m)
	}

	if c.slots == nil {
		inv := invocations.get()
		inv.set(c, method, id, c.codec, m.Args)
		c.run((*inlineContext)(c), inv)
		inv.release()
		return !c.isEnding()
	}
	// The slot is taken here, on the reader's goroutine: when all are taken
	// nothing more is read.
	select {
	case c.slots <- struct{}{}:
	case <-c.Context().Done():
		return false
	}
	inv := invocations.get()
	inv.set(c, method, id, c.codec, nil)
	inv.copyArgs(m.Args)
	c.tasks.Go(func() {
		defer func() { <-c.slots }()
		c.run(c.Context(), inv)
		inv.release()
	})
	return true
}

// fail answers an invocation with an error, if an answer is wanted.
func (c *Conn) fail(id, text string) {
	if id == "" {
		return
	}
	data, err := c.codec.AppendCompletion(nil, id, protocol.Failed, text)
	if err == nil {
		c.reply(entry{data: data, sequenced: true})
	}
}

func (c *Conn) answer(id string, outcome protocol.Outcome, value any) error {
	data, err := encodeClone(func(dst []byte) ([]byte, error) {
		return c.codec.AppendCompletion(dst, id, outcome, value)
	})
	if err == nil {
		c.reply(entry{data: data, sequenced: true})
	}
	return err
}

// run runs a handler and answers.
func (c *Conn) run(ctx context.Context, inv *Invocation) {
	h := c.hub
	start := time.Time{}
	if h.server.opts.Metrics.Invoked != nil {
		start = time.Now()
	}
	var result any
	var err error
	if !h.safely(inv.method.target, func() { result, err = inv.method.handler(ctx, inv) }) {
		err = errHandlerPanic
	}
	if f := h.server.opts.Metrics.Invoked; f != nil {
		f(inv.method.target, time.Since(start), err)
	}
	if inv.id == "" {
		return
	}
	if err == nil {
		outcome := protocol.Result
		if !inv.method.result && result == nil {
			outcome = protocol.Void
		}
		err = c.answer(inv.id, outcome, result)
	}
	if err != nil {
		c.fail(inv.id, h.invocationError(inv.method.target, err))
	}
}

// invocationError is what a client is told of an error of a method.
func (h *Hub) invocationError(target string, err error) string {
	if binding := (*bindingError)(nil); errors.As(err, &binding) {
		text := fmt.Sprintf("Failed to invoke '%s' due to an error on the server.", target)
		if h.opts.DetailedErrors {
			text += " InvalidDataException: " + binding.Error()
		}
		return text
	}
	return h.errorText(fmt.Sprintf("An unexpected error occurred invoking '%s' on the server.", target), err)
}

// errorText adds the text of err to prefix if clients may see it. The words
// are the ones that clients of other servers know.
func (h *Hub) errorText(prefix string, err error) string {
	if user := (*HubError)(nil); errors.As(err, &user) {
		return prefix + " HubException: " + user.Message
	}
	if h.opts.DetailedErrors {
		return prefix + " Exception: " + err.Error()
	}
	return prefix
}

var errHandlerPanic = errors.New("signalr: handler panicked")

// safely runs a function of the application. It returns false after a panic.
func (h *Hub) safely(what string, f func()) (ok bool) {
	defer func() {
		if !ok {
			h.logPanic(what, recover())
		}
	}()
	f()
	return true
}
