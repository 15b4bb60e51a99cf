package presence

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
)

// uplink is this node's side of a session with the owner of shards: it says who is connected and what devices
// say, and takes messages for them.
type uplink struct {
	r    *Router
	node string
	wake chan struct{} // cap 1: there is something to say

	mu      sync.Mutex
	session uint64 // 0 while there is none
	taken   uint64 // number of the last batch from the owner in this session
	conns   map[uint64]*Attachment
	shards  map[uint16]map[uint64]struct{} // connections by shard
	out     outbox
}

func newUplink(r *Router, node string) *uplink {
	return &uplink{
		r: r, node: node, wake: make(chan struct{}, 1),
		conns: make(map[uint64]*Attachment), shards: make(map[uint16]map[uint64]struct{}),
	}
}

func (u *uplink) signal() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// say queues an operation for the session, if there is one: the next one begins with the whole list. The
// caller holds mu.
func (u *uplink) say(op []byte) {
	if u.session != 0 {
		u.out.add(op)
		if u.out.size > u.r.opts.OutboxBytes {
			u.endLocked()
		}
	}
	u.signal()
}

func attachOp(a *Attachment) []byte {
	op := binary.AppendUvarint([]byte{opAttach}, a.conn)
	return append(op, a.recipient...)
}

func (u *uplink) attach(a *Attachment) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns[a.conn] = a
	of := u.shards[a.shard]
	if of == nil {
		of = make(map[uint64]struct{})
		u.shards[a.shard] = of
	}
	of[a.conn] = struct{}{}
	u.say(attachOp(a))
}

func (u *uplink) detach(a *Attachment, free bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forget(a)
	op := binary.AppendUvarint([]byte{opDetach}, a.conn)
	u.say(appendFlag(op, free))
}

func (u *uplink) receipt(a *Attachment, ids []esh3ar.ID, read bool) {
	op := binary.AppendUvarint([]byte{opReceipt}, a.conn)
	op = appendIDs(appendFlag(op, read), ids)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.say(op)
}

// leave gives up the connections of a shard that somebody else owns now.
func (u *uplink) leave(shard uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn := range u.shards[shard] {
		delete(u.conns, conn)
	}
	delete(u.shards, shard)
	u.say(binary.AppendUvarint([]byte{opLeave}, uint64(shard)))
}

func (u *uplink) forget(a *Attachment) {
	delete(u.conns, a.conn)
	of := u.shards[a.shard]
	if delete(of, a.conn); len(of) == 0 {
		delete(u.shards, a.shard)
	}
}

func appendFlag(dst []byte, f bool) []byte {
	if f {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// run holds a session whenever there is anybody to tell about, until ctx ends. Then it says what is left to
// say, such as that the devices of a node that stops have gone.
func (u *uplink) run(ctx context.Context) error {
	beat := time.NewTicker(u.r.opts.Heartbeat)
	defer beat.Stop()
	var h header
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.r.opts.Heartbeat)
			defer cancel()
			if u.pending() {
				u.speak(last, &h)
			}
			return nil
		case <-u.wake:
		case <-beat.C:
		}
		u.speak(ctx, &h)
	}
}

// pending reports whether something is left to say.
func (u *uplink) pending() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.out.size > 0
}

// speak sends batches while there is something to say, and one at least.
//
// To a node that knows of no such session, because it has been restarted, it says the whole list at once, for whose shards it may
// be the owner already. After any other failure, and a second one, the next heartbeat tries again.
func (u *uplink) speak(ctx context.Context, h *header) {
	anew := false
	for more := true; more && ctx.Err() == nil; {
		var batch []byte
		if batch, more = u.next(h); batch == nil {
			return
		}
		taken, unknown := u.r.confirmed(ctx, u.node, subjectUp, batch)
		if taken {
			continue
		}
		u.end(h.session)
		if !unknown || anew {
			return
		}
		anew, more = true, true
	}
}

// next returns the next batch of the session, which begins if need be, nil if there is none to hold; and
// whether there may be more.
func (u *uplink) next(h *header) (batch []byte, more bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session == 0 {
		if len(u.conns) == 0 {
			return nil, false
		}
		u.session, u.taken = rand.Uint64()|1, 0
		u.out.clear()
		for _, a := range u.conns {
			u.out.add(attachOp(a))
		}
	}
	if h.session != u.session {
		*h = header{session: u.session}
	}
	h.number++
	batch = append(h.append(nil), u.out.take()...)
	return batch, u.out.size > 0
}

// end ends a session.
func (u *uplink) end(session uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session == session {
		u.endLocked()
	}
}

func (u *uplink) endLocked() {
	u.r.metrics.ended.Inc()
	u.session = 0
	u.out.clear()
}

// delivery is a message for one of this node's connections.
type delivery struct {
	to      *Attachment
	message *esh3ar.Message
	attempt uint32
	encoded *Encoded
}

// receiveDown takes a batch of messages from an owner.
func (r *Router) receiveDown(from string, data []byte) []byte {
	h, ops, err := readHeader(data)
	r.mu.Lock()
	u := r.uplinks[from]
	r.mu.Unlock()
	if err != nil || u == nil {
		return []byte{answerUnknown}
	}
	list, known := u.receive(h, ops)
	if !known {
		return []byte{answerUnknown}
	}
	for i := range list {
		d := &list[i]
		if r.takesFrom(d.to.shard, from) {
			d.to.device.Deliver(d.message, d.attempt, d.encoded)
		}
	}
	return []byte{answerTaken}
}

// receive returns what a batch brings. It reports false when there is no such session, or when the batch is not
// the next: then the session has ended.
func (u *uplink) receive(h header, ops []byte) (list []delivery, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case h.session != u.session || u.session == 0:
		return nil, false
	case h.number == u.taken:
		return nil, true
	case h.number != u.taken+1:
		u.endLocked()
		return nil, false
	}
	var (
		message *esh3ar.Message
		encoded *Encoded
	)
	err := operations(ops, func(kind uint64, op *reader) error {
		if kind != opDeliver {
			return nil // of a newer version
		}
		conn, attempt := op.number(), op.number()
		if rec := op.rest(); len(rec) > 0 {
			message, encoded = new(esh3ar.Message), new(Encoded)
			if err := record.DecodeMessage(rec, message); err != nil {
				return err
			}
		}
		a := u.conns[conn]
		if message == nil {
			return errMalformed
		}
		if a != nil && a.recipient == message.To {
			list = append(list, delivery{a, message, uint32(attempt), encoded})
		}
		return op.err
	})
	if err != nil {
		u.r.opts.Logger.Error("a batch of messages from another node cannot be read", "node", u.node, "err", err)
		u.endLocked()
		return nil, false
	}
	u.taken = h.number
	return list, true
}
