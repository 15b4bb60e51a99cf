package presence

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
)

// session is the owner's side of a session with a hub: the hub's connections, tied to the shards that are owned
// here.
type session struct {
	r     *Router
	hub   string
	id    uint64
	taken uint64    // number of the last batch; guarded by Router.mu
	seen  time.Time // when it came; guarded by Router.mu

	mu    sync.Mutex
	conns map[uint64]*remote
	ended bool

	out      outbox // guarded by outMu, which is held for moments only: Deliver takes it
	outMu    sync.Mutex
	last     *Encoded // of the operation that was added last
	overflow bool
	wake     chan struct{} // cap 1
	done     chan struct{} // closed when ended
}

// remote is one connection of a hub.
type remote struct {
	session   *session
	conn      uint64
	shard     uint16
	recipient string
	tie       Tie // nil while the shard is not owned here
}

// Deliver implements Connection.
func (c *remote) Deliver(m *esh3ar.Message, attempt uint32, e *Encoded) {
	if e.record == nil {
		e.record = record.AppendMessage(nil, m)
	}
	c.session.send(c.conn, attempt, e)
}

func (s *session) send(conn uint64, attempt uint32, e *Encoded) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if s.overflow {
		return
	}
	op := binary.AppendUvarint(make([]byte, 0, 16+len(e.record)), opDeliver)
	op = binary.AppendUvarint(op, conn)
	op = binary.AppendUvarint(op, uint64(attempt))
	// The record goes once to all of a recipient's connections in one batch.
	if s.last != e || len(s.out.chunks) == 0 || len(s.out.chunks[len(s.out.chunks)-1])+len(op)+binary.MaxVarintLen64 > maxBatch {
		op = append(op, e.record...)
	}
	s.last = e
	s.out.add(op)
	s.overflow = s.out.size > s.r.opts.OutboxBytes
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run sends what there is to send until the session or ctx ends.
func (s *session) run(ctx context.Context) error {
	h := header{session: s.id}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.done:
			return nil
		case <-s.wake:
		}
		for {
			s.outMu.Lock()
			chunk, overflow := s.out.take(), s.overflow
			s.last = nil // what follows is in another batch
			s.outMu.Unlock()
			if overflow {
				s.r.opts.Logger.Warn("a node takes its messages too slowly; they are sent again", "node", s.hub)
			}
			if chunk == nil && !overflow {
				break
			}
			h.number++
			taken := false
			if !overflow {
				taken, _ = s.r.confirmed(ctx, s.hub, subjectDown, append(h.append(nil), chunk...))
			}
			if !taken {
				s.r.drop(s)
				return nil
			}
		}
	}
}

// receiveUp takes a batch from a hub.
func (r *Router) receiveUp(from string, data []byte) []byte {
	h, ops, err := readHeader(data)
	if err != nil {
		return []byte{answerUnknown}
	}
	s, fresh := r.session(from, h)
	switch {
	case s == nil:
		return []byte{answerUnknown}
	case !fresh:
		return []byte{answerTaken}
	}
	if err := s.take(ops); err != nil {
		r.opts.Logger.Error("a batch of another node's connections cannot be read", "node", from, "err", err)
		r.drop(s)
		return []byte{answerUnknown}
	}
	return []byte{answerTaken}
}

// session returns the session of a batch, which begins with its first, and whether the batch is new. It returns
// nil when there is no such session.
func (r *Router) session(from string, h header) (s *session, fresh bool) {
	r.mu.Lock()
	s = r.sessions[from]
	old := s
	switch {
	case s != nil && s.id == h.session && s.taken == h.number:
		s.seen = time.Now()
		r.mu.Unlock()
		return s, false
	case s != nil && s.id == h.session && s.taken+1 == h.number:
		s.taken, s.seen = h.number, time.Now()
		r.mu.Unlock()
		return s, true
	case h.number != 1:
		r.mu.Unlock()
		return nil, false
	}
	s = &session{
		r: r, hub: from, id: h.session, taken: 1, seen: time.Now(),
		conns: make(map[uint64]*remote), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	r.sessions[from] = s
	r.mu.Unlock()
	if old != nil {
		old.end()
	}
	r.begin(s.run)
	return s, true
}

// take carries out a batch.
func (s *session) take(ops []byte) error {
	return operations(ops, func(kind uint64, op *reader) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ended {
			return nil
		}
		switch kind {
		case opAttach:
			s.attach(op.number(), string(op.rest()))
		case opDetach:
			c, free := s.conns[op.number()], op.flag()
			if c != nil {
				delete(s.conns, c.conn)
				c.untie(free)
			}
		case opReceipt:
			c, read, ids := s.conns[op.number()], op.flag(), op.ids()
			switch {
			case op.err != nil || c == nil || c.tie == nil:
			case read:
				c.tie.MarkRead(ids)
			default:
				c.tie.Acknowledge(ids)
			}
		case opLeave:
			shard := uint16(op.number())
			for conn, c := range s.conns {
				if c.shard == shard {
					delete(s.conns, conn)
					c.untie(true)
				}
			}
		}
		return op.err
	})
}

// attach ties a connection to its recipient as soon as the shard is owned here. The caller holds mu.
func (s *session) attach(conn uint64, recipient string) {
	if old := s.conns[conn]; old != nil {
		old.untie(true)
	}
	c := &remote{session: s, conn: conn, recipient: recipient, shard: esh3ar.ShardOf(recipient, len(s.r.shards))}
	s.conns[conn] = c
	c.tie, _ = s.r.opts.Local.Attach(recipient, c)
}

func (c *remote) untie(free bool) {
	if c.tie != nil {
		c.tie.Detach(free)
		c.tie = nil
	}
}

// owned ties the connections of a shard, or notes that their ties have ended.
func (s *session) owned(shard uint16, owned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		switch {
		case c.shard != shard:
		case !owned:
			c.tie = nil
		case c.tie == nil:
			c.tie, _ = s.r.opts.Local.Attach(c.recipient, c)
		}
	}
}

// end unties every connection: what was in flight to them has failed.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	close(s.done)
	for _, c := range s.conns {
		c.untie(false)
	}
	clear(s.conns)
}

// drop ends a session and forgets it.
func (r *Router) drop(s *session) {
	r.mu.Lock()
	if r.sessions[s.hub] == s {
		delete(r.sessions, s.hub)
	}
	r.mu.Unlock()
	r.metrics.ended.Inc()
	s.end()
}

// expire ends the sessions of hubs that have not said anything for too long.
func (r *Router) expire(now time.Time) {
	r.mu.Lock()
	var silent []*session
	for _, s := range r.sessions {
		if now.Sub(s.seen) > r.opts.Patience {
			silent = append(silent, s)
		}
	}
	r.mu.Unlock()
	for _, s := range silent {
		r.opts.Logger.Warn("a node does not say anything any more; what was in flight to its devices is sent again", "node", s.hub)
		r.drop(s)
	}
}

// Gone says that a node has left the cluster: its connections have ended.
func (r *Router) Gone(node string) {
	r.mu.Lock()
	s := r.sessions[node]
	r.mu.Unlock()
	if s != nil {
		r.drop(s)
	}
}
