package signalr

import (
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
	"github.com/esh3artech/esh3ar/signalr/internal/replay"
)

// A resumption is what stateful reconnect remembers of a connection. It is
// guarded by Conn.mu.
type resumption struct {
	sender   *replay.Sender
	receiver *replay.Receiver
	unacked  int   // messages received since the last acknowledgement
	lastAck  int64 // server clock
}

// Received messages are acknowledged once a second, and at once when this
// many came since.
const (
	ackInterval = time.Second
	ackMessages = 64
)

func newResumption(buffer int) *resumption {
	return &resumption{sender: replay.NewSender(buffer), receiver: replay.NewReceiver()}
}

// filter keeps the books for a received message. It returns false when the
// message is not for the hub. An error is the client's.
func (r *resumption) filter(c *Conn, m *protocol.Message) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Type == protocol.Sequence {
		return false, r.receiver.Sequence(m.SequenceID)
	}
	if !r.receiver.Accept(m.Type.Sequenced()) {
		return false, nil
	}
	if m.Type == protocol.Ack {
		err := r.sender.Ack(m.SequenceID)
		c.wake() // what waited for the acknowledgement may leave now
		return false, err
	}
	if m.Type.Sequenced() {
		if r.unacked++; r.unacked >= ackMessages {
			r.ack(c, c.hub.server.now())
		}
	}
	return true, nil
}

// ackIfDue acknowledges what was received.
func (r *resumption) ackIfDue(c *Conn, now int64) {
	if now-r.lastAck >= int64(ackInterval) {
		r.ack(c, now)
	}
}

func (r *resumption) ack(c *Conn, now int64) {
	if id, ok := r.receiver.Ack(); ok {
		r.lastAck, r.unacked = now, 0
		c.out.pushControl(c.codec.AppendAck(nil, id))
		c.wake()
	}
}

// detach leaves an open connection without a transport, to wait for a stateful
// reconnect. It returns false when that is not possible, and the connection
// must be finished.
func (c *Conn) detach(t transport) bool {
	c.mu.Lock()
	if c.transport != t {
		c.mu.Unlock()
		return true // another transport has taken over
	}
	if c.state != stateOpen || c.resume == nil {
		c.mu.Unlock()
		return false
	}
	c.transport = nil
	c.out.flushing = false
	c.deadline = c.hub.server.now() + int64(c.hub.opts.DisconnectTimeout)
	c.mu.Unlock()
	if f := c.hub.opts.OnDetached; f != nil {
		c.hub.safely("OnDetached", func() { f(c) })
	}
	return true
}

// reattach gives the connection a new transport and repeats what the client
// has not acknowledged. It returns false when the connection is not open any
// more. The transport that it replaces, if any, is cut.
func (c *Conn) reattach(t transport) bool {
	// A message that was received before is handled to its end first.
	c.recv.Lock()
	defer c.recv.Unlock()
	c.partial = nil
	c.mu.Lock()
	if c.state != stateOpen || c.resume == nil {
		c.mu.Unlock()
		return false
	}
	old := c.transport
	c.transport = t
	if old != nil {
		old.cut()
	}
	c.resume.receiver.Reconnected()
	c.out.replay(c.codec.AppendSequence(nil, c.resume.sender.First()), c.resume.sender.Unacked())
	now := c.hub.server.now()
	c.lastRead.Store(now)
	c.lastWrite.Store(now)
	c.out.flushing = false
	c.wake()
	c.mu.Unlock()
	if f := c.hub.opts.OnReattached; f != nil {
		c.hub.safely("OnReattached", func() { f(c) })
	}
	return true
}
