package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/fair"
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
	evRetire
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

// turnEvents is the most events of one turn: what a flood costs others is a few turns of this length.
const turnEvents = 64

// recipient is a recipient in memory: a mailbox of events and the core that they are fed to. At most
// one worker runs it at a time. While there is something in the mailbox it is being run or stands in the
// run queue.
type recipient struct {
	shard *shard
	name  string

	// mailbox, running and attached are guarded by shard.mu. The mailbox is bounded by what feeds it: the
	// journal entries in memory, one page, and what connections say at the pace they are read.
	mailbox mailbox
	running bool
	// attached counts the connections, those included whose event waits in the mailbox.
	attached int

	// stand is guarded by runQueue.mu.
	stand stand

	// The rest belongs to the worker that runs it.
	core  *delivery.Recipient
	conns []liveConn

	// timer is when the shard's timers will tick it, zero for never. Guarded by timers.mu.
	timer time.Time
}

// mailbox is a queue of events.
type mailbox struct {
	all  []event // all[:head] are done with
	head int
}

func (m *mailbox) empty() bool { return m.head == len(m.all) }

func (m *mailbox) add(e event) { m.all = append(m.all, e) }

// first returns the first events, at most n. They do not change until they are dropped.
func (m *mailbox) first(n int) []event { return m.all[m.head:min(m.head+n, len(m.all))] }

// drop removes the first n events.
func (m *mailbox) drop(n int) {
	clear(m.all[m.head : m.head+n])
	m.head += n
	const keep = 16 // room that an empty mailbox keeps
	switch {
	case m.empty() && cap(m.all) > keep:
		*m = mailbox{}
	case m.empty():
		m.all, m.head = m.all[:0], 0
	case 2*m.head >= len(m.all):
		left := copy(m.all, m.all[m.head:])
		clear(m.all[left:])
		m.all, m.head = m.all[:left], 0
	}
}

type liveConn struct {
	id   delivery.Conn
	conn Connection
}

// run works off a part of the mailbox, then queues the recipient again if there is more, so that one busy
// recipient does not hold a worker. It returns what that cost.
func (r *recipient) run(flow fair.Flow, out []delivery.Effect) ([]delivery.Effect, int) {
	s := r.shard
	s.mu.Lock()
	if r.running || r.mailbox.empty() {
		s.mu.Unlock() // whoever runs it looks again; or has, and it was worked off before its turn came
		return out, 0
	}
	r.running = true
	events := r.mailbox.first(turnEvents)
	s.mu.Unlock()

	cost := len(events)
	now := s.d.opts.Now()
	out = r.core.SetTight(int(s.d.tight.Load()), now, out[:0])
	for i := range events {
		e := &events[i]
		if e.kind == evAttach || e.kind == evDetach || e.stale != nil {
			// What was decided before is for the connections of then, and makes rows stale.
			r.perform(out, flow, now)
			cost += len(out)
			out = out[:0]
		}
		out = r.apply(e, now, out)
	}
	r.perform(out, flow, now)
	cost += len(out)
	for i := range events {
		if h := events[i].handled; h != nil {
			h.Done()
		}
		if events[i].kind == evRefused {
			s.committer.forget(events[i].ids[0])
		}
	}
	clear(out)
	if wake := r.core.Wake(); !wake.IsZero() {
		s.timers.set(r, wake)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	r.running = false
	r.mailbox.drop(len(events))
	if !r.mailbox.empty() {
		s.d.runq.push(r.mailbox.first(1)[0].wish(r))
		return out, cost
	}
	if r.core.Idle() {
		delete(s.recipients, r.name)
	}
	if s.active--; s.active == 0 {
		s.idle.Broadcast()
	}
	return out, cost
}

// wish asks for a turn of the recipient to handle the event, in the flow of a message that comes, else in whichever
// the recipient was last in.
func (e *event) wish(r *recipient) wish {
	if e.kind != evArrive {
		return wish{r: r, same: true}
	}
	return wish{r: r, flow: flowOf(e.item.Message)}
}

// flowOf is whose message it is, as far as turns and shares go.
func flowOf(m *esh3ar.Message) fair.Flow { return fair.Flow{Tier: m.Tier, Client: m.Client} }

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
	case evRetire:
		return r.forget(out)
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
func (r *recipient) perform(out []delivery.Effect, flow fair.Flow, now time.Time) {
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
				m := e.Item.Message
				s.d.metrics.routed[m.Tier].Observe(now.Sub(m.AcceptedAt).Seconds())
			}
		case delivery.Open:
			s.d.metrics.breakersOpened.Inc()
			s.d.opts.Logger.Warn("a recipient's devices do not acknowledge: its circuit breaker is open", "recipient", r.name, "until", e.Until)
		case delivery.Close:
			s.d.metrics.breakersClosed.Inc()
			s.d.opts.Logger.Info("a recipient's circuit breaker is closed", "recipient", r.name)
		case delivery.Read:
			s.d.inbox.ask(request{r: r, flow: flow, effect: *e})
		default:
			stores = true
		}
	}
	if stores {
		s.committer.add(r, out)
	}
}
