// Package replay keeps the books of stateful reconnect for one side of a
// connection: which sent messages the other side has not acknowledged, and
// which received ones are repetitions.
//
// Messages are numbered from 1 in each direction, in the order in which they
// are sent. The types are not safe for concurrent use.
package replay

import "fmt"

// A Sender remembers sent messages until they are acknowledged.
type Sender struct {
	limit   int // bytes, from which on Full is true
	first   int64
	unacked [][]byte
	bytes   int
}

// NewSender returns a sender that wants no more than about limit bytes.
func NewSender(limit int) *Sender { return &Sender{limit: limit, first: 1} }

// Full tells that nothing should be added until an acknowledgement came.
func (s *Sender) Full() bool { return s.bytes >= s.limit }

// Add numbers and remembers a message, which must not change afterwards.
func (s *Sender) Add(message []byte) {
	s.unacked = append(s.unacked, message)
	s.bytes += len(message)
}

// Ack forgets the messages up to the one with that number. It fails when that
// was never sent.
func (s *Sender) Ack(id int64) error {
	if last := s.first + int64(len(s.unacked)) - 1; id > last {
		return fmt.Errorf("message %d acknowledged, but only %d were sent", id, last)
	}
	n := int(id - s.first + 1)
	if n <= 0 {
		return nil // acknowledged before
	}
	for _, m := range s.unacked[:n] {
		s.bytes -= len(m)
	}
	clear(s.unacked[:n])
	s.unacked = s.unacked[n:]
	s.first += int64(n)
	if len(s.unacked) == 0 {
		s.unacked = nil
	}
	return nil
}

// First is the number of the first unacknowledged message, or the one that
// the next message will get: what a sequence message says.
func (s *Sender) First() int64 { return s.first }

// Unacked returns the messages to send again after a reconnect. The result is
// valid until the next call of Add or Ack.
func (s *Sender) Unacked() [][]byte { return s.unacked }

// A Receiver tells new messages from repeated ones.
type Receiver struct {
	next     int64 // number of the message that comes next
	latest   int64 // highest number received
	acked    int64 // highest number acknowledged
	awaiting bool  // a sequence message must come first
	repeated bool  // something was repeated, so an acknowledgement was lost
}

// NewReceiver returns a receiver that expects message 1.
func NewReceiver() *Receiver { return &Receiver{next: 1} }

// Reconnected begins a new socket: what arrives is ignored until a sequence
// message says where the other side starts.
func (r *Receiver) Reconnected() { r.awaiting = true }

// Sequence handles a sequence message. It fails when the other side would
// skip messages, or begin before the first.
func (r *Receiver) Sequence(id int64) error {
	if id < 1 || id > r.latest+1 {
		return fmt.Errorf("sequence id %d out of range 1 to %d", id, r.latest+1)
	}
	r.next = id
	r.awaiting = false
	return nil
}

// Accept tells whether a message should be processed; sequenced is whether it
// is of a type that is numbered.
func (r *Receiver) Accept(sequenced bool) bool {
	if r.awaiting {
		return false
	}
	if !sequenced {
		return true
	}
	id := r.next
	r.next++
	if id <= r.latest {
		r.repeated = true
		return false
	}
	r.latest = id
	return true
}

// Ack returns the number to acknowledge, if something new came since the last
// call.
func (r *Receiver) Ack() (id int64, ok bool) {
	if r.acked == r.latest && !r.repeated {
		return 0, false
	}
	r.acked, r.repeated = r.latest, false
	return r.latest, true
}
