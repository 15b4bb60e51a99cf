package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
)

type eventKind uint8

const (
	evArrive eventKind = iota + 1
	evAttach
	evDetach
	evAcknowledge
	evSettle
	evPage
	evReadFailed
	evParked
	evDue
	evFlush
	evTick
	evCancel
	evReplay
	evDiscard
	evRefused
)

// event is one thing that happened to a recipient.
type event struct {
	kind       eventKind
	free, read bool
	n          int
	conn       delivery.Conn
	connection Connection
	item       *delivery.Item
	items      []*delivery.Item
	ids        []esh3ar.ID
	ticket     uint64
	reason     esh3ar.Reason
	since      uint64          // evReplay, evDiscard: changes of the message when item was read
	stale      *bool           // likewise: set when there were more since
	handled    *sync.WaitGroup // told, if set, when the event and its effects are done
}

// recipient is a recipient in memory: a mailbox of events and the core that they are fed to. At most
// one worker runs it at a time.
type recipient struct {
	shard *shard
	name  string

	// mailbox, scheduled and attached are guarded by shard.mu. The mailbox is bounded by what feeds it: the
	// journal entries in memory, one page, and what connections say at the pace they are read.
	mailbox   []event
	scheduled bool
	// attached counts the connections, those included whose event waits in the mailbox.
	attached int

	// The rest belongs to the worker that runs it.
	core  *delivery.Recipient
	conns []liveConn
	spare []event

	// timer is when the shard's timers will tick it, zero for never. Guarded by timers.mu.
	timer time.Time
}

type liveConn struct {
	id   delivery.Conn
	conn Connection
}

// run works off the mailbox as it stands, then queues the recipient again if more came meanwhile, so
// that one busy recipient does not hold a worker.
func (r *recipient) run(out []delivery.Effect) []delivery.Effect {
	s := r.shard
	s.mu.Lock()
	events := r.mailbox
	r.mailbox = r.spare[:0]
	s.mu.Unlock()

	now := s.d.opts.Now()
	out = r.core.SetTight(int(s.d.tight.Load()), now, out[:0])
	for i := range events {
		e := &events[i]
		if e.kind == evAttach || e.kind == evDetach || e.stale != nil {
			// What was decided before is for the connections of then, and makes rows stale.
			r.perform(out, now)
			out = out[:0]
		}
		out = r.apply(e, now, out)
	}
	r.perform(out, now)
	for i := range events {
		if h := events[i].handled; h != nil {
			h.Done()
		}
		if events[i].kind == evRefused {
			s.committer.forget(events[i].ids[0])
		}
	}
	clear(out)
	clear(events)
	r.spare = events[:0]
	if wake := r.core.Wake(); !wake.IsZero() {
		s.timers.set(r, wake)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(r.mailbox) > 0:
		s.d.runq.push(r)
	case r.core.Idle():
		r.scheduled = false
		delete(s.recipients, r.name)
	default:
		r.scheduled = false
	}
	return out
}

func (r *recipient) apply(e *event, now time.Time, out []delivery.Effect) []delivery.Effect {
	switch e.kind {
	case evArrive:
		return r.core.Arrive(e.item, now, out)
	case evAttach:
		r.conns = append(r.conns, liveConn{e.conn, e.connection})
		return r.core.Attach(e.conn, now, out)
	case evDetach:
		r.conns = slices.DeleteFunc(r.conns, func(l liveConn) bool { return l.id == e.conn })
		return r.core.Detach(e.conn, e.free, now, out)
	case evAcknowledge:
		return r.core.Acknowledge(e.ids, e.read, now, out)
	case evSettle:
		return r.core.Settle(e.item, e.read, now, out)
	case evPage:
		return r.core.Page(e.ticket, e.items, now, out)
	case evReadFailed:
		return r.core.ReadFailed(e.ticket, now, out)
	case evParked:
		return r.core.Parked(e.n, now, out)
	case evDue:
		return r.core.Due(e.item, now, out)
	case evFlush:
		return r.core.Flush(out)
	case evTick:
		return r.core.Tick(now, out)
	case evCancel:
		return r.core.Cancel(e.item, now, out)
	case evReplay:
		if r.current(e) {
			return r.core.Replay(e.item, now, out)
		}
	case evDiscard:
		if r.current(e) {
			return r.core.Discard(e.item, e.reason, now, out)
		}
	case evRefused:
		return r.core.Refused(e.ids, now, out)
	}
	return out
}

// perform carries out effects in order. All changes of one call reach the committer together, so they
// are stored by one transaction.
func (r *recipient) perform(out []delivery.Effect, now time.Time) {
	s := r.shard
	stores := false
	for i := range out {
		e := &out[i]
		switch e.Action {
		case delivery.Send:
			d := &Delivery{Message: e.Item.Message, Attempt: e.State.Attempts}
			for _, c := range r.conns {
				if e.Conn == 0 || e.Conn == c.id {
					c.conn.Deliver(d)
				}
			}
			if e.Conn == 0 && e.State.Attempts == 1 {
				s.d.metrics.routed.Observe(now.Sub(e.Item.Message.AcceptedAt).Seconds())
			}
		case delivery.Open:
			s.d.metrics.breakersOpened.Inc()
			s.d.opts.Logger.Warn("a recipient's devices do not acknowledge: its circuit breaker is open", "recipient", r.name, "until", e.Until)
		case delivery.Close:
			s.d.metrics.breakersClosed.Inc()
			s.d.opts.Logger.Info("a recipient's circuit breaker is closed", "recipient", r.name)
		case delivery.Read:
			s.d.inbox.ask(request{r: r, effect: *e})
		default:
			stores = true
		}
	}
	if stores {
		s.committer.add(r, out)
	}
}
