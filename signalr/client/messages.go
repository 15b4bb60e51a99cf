package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// An Appender is a value that encodes itself. Arguments and results that
// implement it are written without reflection, and must append exactly one
// valid value.
type Appender interface {
	AppendJSON(dst []byte) []byte
	AppendMsgpack(dst []byte) []byte
}

// pending is something that waits for messages with its id: an invocation or a
// stream. Its methods run on the reader's goroutine.
type pending interface {
	item(raw []byte)
	complete(raw []byte, err error)
}

// receive handles a WebSocket message. An error ends the link.
func (c *Client) receive(l *link, data []byte) error {
	if !l.wasGreeted() {
		failure, rest, err := protocol.ParseHandshakeResponse(data, c.opts.MaxMessageSize)
		switch {
		case err != nil:
			return &protocolError{err}
		case rest == nil:
			return &protocolError{errors.New("incomplete handshake response")}
		case failure != "":
			return &HandshakeError{Message: failure}
		}
		if err := c.connected(l); err != nil {
			return err
		}
		data = rest
	}
	var m protocol.Message
	for len(data) > 0 {
		message, rest, err := c.codec.Next(data, c.opts.MaxMessageSize)
		if err == nil && rest == nil {
			err = errors.New("incomplete message")
		}
		if err != nil {
			return &protocolError{err}
		}
		data = rest
		if err := c.codec.Parse(message, &m); err != nil {
			if errors.As(err, new(protocol.UnknownTypeError)) {
				continue // of a newer server
			}
			return &protocolError{err}
		}
		if err := c.handle(&m); err != nil {
			return err
		}
	}
	if c.opts.OnBatch != nil {
		c.opts.OnBatch()
	}
	return nil
}

// connected makes the client connected over l.
func (c *Client) connected(l *link) error {
	c.mu.Lock()
	if c.state == stateClosed || c.link != l {
		c.mu.Unlock()
		return ErrClosed
	}
	again := c.state == stateReconnecting
	c.state = stateConnected
	id := c.session.id
	c.mu.Unlock()
	l.greet()
	if again && c.opts.OnReconnected != nil {
		c.opts.OnReconnected(id)
	}
	return nil
}

// handle handles one message.
func (c *Client) handle(m *protocol.Message) error {
	ok, err := c.filter(m)
	if err != nil || !ok {
		return err
	}
	switch m.Type {
	case protocol.Invocation:
		return c.invoked(m)
	case protocol.StreamItem:
		if p := c.find(m.ID, false); p != nil {
			p.item(m.Value)
		}
	case protocol.Completion:
		if p := c.find(m.ID, true); p != nil {
			if m.Error != nil {
				p.complete(nil, &HubError{Message: string(m.Error)})
			} else {
				p.complete(m.Value, nil)
			}
		}
	case protocol.Close:
		return &CloseError{Message: string(m.Error), AllowReconnect: m.AllowReconnect}
	}
	return nil
}

// filter keeps the books of stateful reconnect.
func (c *Client) filter(m *protocol.Message) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.session
	if !s.stateful {
		return m.Type != protocol.Ack && m.Type != protocol.Sequence, nil
	}
	if m.Type == protocol.Sequence {
		if err := s.receiver.Sequence(m.SequenceID); err != nil {
			return false, &protocolError{err}
		}
		return false, nil
	}
	if !s.receiver.Accept(m.Type.Sequenced()) {
		return false, nil
	}
	if m.Type == protocol.Ack {
		if err := s.sender.Ack(m.SequenceID); err != nil {
			return false, &protocolError{err}
		}
		if !s.sender.Full() {
			c.releaseSpace()
		}
		return false, nil
	}
	if m.Type.Sequenced() && s.ackTimer == nil {
		s.ackTimer = time.AfterFunc(ackInterval, c.acknowledge)
	}
	return true, nil
}

// ackInterval is how long received messages wait for their acknowledgement.
const ackInterval = time.Second

// acknowledge acknowledges what was received.
func (c *Client) acknowledge() {
	c.mu.Lock()
	s := &c.session
	s.ackTimer = nil
	l := c.link
	if c.state != stateConnected || !s.stateful || l == nil {
		c.mu.Unlock()
		return
	}
	id, ok := s.receiver.Ack()
	c.mu.Unlock()
	if ok {
		_ = l.write(c.codec.AppendAck(nil, id)) // it fails by cutting the link
	}
}

// invoked runs the handler of an invocation by the server.
func (c *Client) invoked(m *protocol.Message) error {
	call := Call{codec: c.codec, target: m.Target, args: m.Args, wanted: len(m.ID) > 0}
	h := c.handlers[string(m.Target)]
	if h == nil {
		h = c.handlers[strings.ToLower(string(m.Target))]
	}
	var result any
	err := error(nil)
	if h != nil {
		result, err = h(c.ctx, &call)
	}
	if !call.wanted {
		return nil
	}
	outcome, value := protocol.Result, result
	switch {
	case h == nil:
		outcome, value = protocol.Failed, "Client didn't provide a result."
	case err != nil:
		outcome, value = protocol.Failed, err.Error()
	}
	data, err := c.codec.AppendCompletion(nil, string(m.ID), outcome, value)
	if err != nil {
		data, err = c.codec.AppendCompletion(nil, string(m.ID), protocol.Failed, "The result could not be encoded.")
	}
	if err == nil {
		// The reader must not wait for acknowledgements, which it reads.
		_ = c.write(nil, data) //nolint:staticcheck // nil says not to wait
	}
	return nil
}

func (c *Client) find(id []byte, remove bool) pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending[string(id)]
	if remove {
		delete(c.pending, string(id))
	}
	return p
}

func (c *Client) failPending(err error) {
	c.mu.Lock()
	all := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, p := range all {
		p.complete(nil, err)
	}
}

// expect registers p under a new id.
func (c *Client) expect(p pending) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.newID()
	if c.pending == nil {
		c.pending = make(map[string]pending)
	}
	c.pending[id] = p
	return id
}

// newID returns an unused invocation or stream id, with mu held.
func (c *Client) newID() string {
	c.lastID++
	return strconv.FormatUint(c.lastID, 10)
}

// write numbers and writes a message. While a session is being resumed it is
// kept for the replay. When the replay buffer is full, write waits for room
// until ctx is done; a nil ctx does not wait.
func (c *Client) write(ctx context.Context, data []byte) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	for {
		switch c.state {
		case stateConnected, stateResuming:
		case stateClosed:
			c.mu.Unlock()
			return ErrClosed
		default:
			c.mu.Unlock()
			return ErrNotConnected
		}
		if !c.session.stateful || !c.session.sender.Full() || ctx == nil {
			break
		}
		if c.space == nil {
			c.space = make(chan struct{})
		}
		space := c.space
		c.mu.Unlock()
		// Others wait for sendMu meanwhile, and the replay does: it must
		// not, so it is given up too.
		c.sendMu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			c.sendMu.Lock()
			return context.Cause(ctx)
		case <-c.ctx.Done():
		}
		c.sendMu.Lock()
		c.mu.Lock()
	}
	l, resuming := c.link, c.state == stateResuming
	if c.session.stateful {
		c.session.sender.Add(data)
	}
	stateful := c.session.stateful
	c.mu.Unlock()
	if resuming || l == nil {
		return nil
	}
	if err := l.write(data); err != nil && !stateful {
		return err
	}
	return nil
}

// Send invokes a hub method without waiting for an answer: it returns when
// the message has been written. Arguments of type [Upload] are streamed.
func (c *Client) Send(ctx context.Context, target string, args ...any) error {
	_, err := c.invoke(ctx, protocol.Invocation, nil, target, args)
	return err
}

// Invoke invokes a hub method and stores its result in the value that result
// points to, if result is not nil. An error of the method is a *[HubError].
// Arguments of type [Upload] are streamed.
func (c *Client) Invoke(ctx context.Context, result any, target string, args ...any) error {
	call := &invocation{done: make(chan struct{})}
	id, err := c.invoke(ctx, protocol.Invocation, call, target, args)
	if err != nil {
		return err
	}
	select {
	case <-call.done:
	case <-ctx.Done():
		c.find([]byte(id), true)
		return context.Cause(ctx)
	}
	if call.err != nil || result == nil || call.raw == nil {
		return call.err
	}
	if err := c.codec.Decode(call.raw, result); err != nil {
		return fmt.Errorf("signalr: decoding the result of %q: %w", target, err)
	}
	return nil
}

// An invocation waits for its completion.
type invocation struct {
	done chan struct{}
	raw  []byte
	err  error
}

func (*invocation) item([]byte) {}

func (i *invocation) complete(raw []byte, err error) {
	if raw != nil {
		i.raw = append([]byte(nil), raw...)
	}
	i.err = err
	close(i.done)
}

// invoke writes an invocation, registers p for its answer and starts its
// uploads.
func (c *Client) invoke(ctx context.Context, t protocol.Type, p pending, target string, args []any) (id string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if p != nil {
		id = c.expect(p)
	}
	args, uploads, streamIDs := c.splitUploads(args)
	data, err := c.codec.AppendInvocation(nil, t, id, target, args, streamIDs)
	if err != nil {
		err = fmt.Errorf("signalr: encoding an invocation of %q: %w", target, err)
	} else {
		err = c.write(ctx, data)
	}
	if err != nil {
		if p != nil {
			c.find([]byte(id), true)
		}
		return "", err
	}
	for i, u := range uploads {
		c.startUpload(u, streamIDs[i])
	}
	return id, nil
}
