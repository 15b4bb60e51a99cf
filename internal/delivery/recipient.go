// Package delivery decides what happens to the messages of one recipient. It is pure: events and the
// time come in as values, effects go out as values; no goroutine, no clock, no I/O. Package dispatch
// drives it.
//
// # What must hold
//
// Order. Messages of one business client to one recipient travel in a lane. A lane sends in order, and
// when a send fails everything unacknowledged from the failed message on returns to the lane's front,
// to be sent again in order after one backoff. Only the failed message is charged the attempt.
//
// Every attached connection has been given every message in flight, in order: a connection that
// attaches is first given what is already in flight.
//
// Memory and store. What is held in memory is either in flight, or at the front of its lane, or a
// contiguous run of the newest arrivals (the tail). What lies between is in the store, and is read
// page by page as there is room. The tail joins the lanes after a read of the store below it found
// nothing and no park is under way: so nothing overtakes a waiting message.
//
// Saving. What is settled (parked, final) is stored at once; what changes otherwise is stored when it
// has been so for the settle time, so that a message delivered at once costs one write. Whenever a
// message gets its first row, all earlier ones of the recipient without one get theirs with it, so
// that after a crash the store's order is the order of arrival.
package delivery

import (
	"slices"
	"sort"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Recipient is the state of one recipient's deliveries. It is not safe for concurrent use: the driver
// runs one event at a time. Every event method appends its effects to out and returns it.
type Recipient struct {
	params *Params
	conns  []Conn
	lanes  []*lane // few: one for each client with messages in memory
	spare  *lane   // an empty one, to be used again

	flying      int // messages in flight over all lanes
	flyingBytes int
	waiting     int // messages in lanes that are not in flight

	// tail holds the newest arrivals while the store may hold earlier ones.
	tail []*Item

	// clear says that the store holds nothing for this recipient that is not in memory. It is false
	// at first: nothing is known until a read found nothing.
	clear bool
	// cursor is the highest Ord that was read from the store, or that memory made superfluous to read.
	cursor uint64
	// ticket numbers the reads; reading says that the last one is still out. void says that its answer
	// will not be used, because it may show a row as it was before memory changed it. dirty says that
	// something was parked since it was asked for, or was uncommitted then: that it finds nothing
	// would then mean nothing.
	ticket  uint64
	reading bool
	void    bool
	dirty   bool
	// reports counts the effects with Report, commits those of them that were reported. lastPark is
	// reports as of the last Park.
	reports, commits, lastPark uint64
	// gate is the number of commits that must be known before the next read, so that it sees them.
	gate uint64

	breaker breaker
	tight   int // how short of memory the process is, from 0 to Tight
	largest int // size of the largest message of the last page, 0 before the first

	// flushAt is when the oldest unsaved change must be saved, zero when everything is.
	flushAt time.Time
}

// NewRecipient returns a recipient without connections, of whose messages in the store nothing is
// known.
func NewRecipient(p *Params) *Recipient { return &Recipient{params: p} }

// Idle reports whether the recipient can be forgotten: nobody is connected, nothing is in memory and
// nothing is on its way to the store or from it.
func (r *Recipient) Idle() bool {
	return len(r.conns) == 0 && len(r.lanes) == 0 && len(r.tail) == 0 && r.reports == r.commits && !r.reading
}

// Online reports whether any connection is attached.
func (r *Recipient) Online() bool { return len(r.conns) > 0 }

// Held returns how many messages of the recipient are in memory.
func (r *Recipient) Held() int { return r.flying + r.waiting + len(r.tail) }

// Wake returns the earliest time at which Tick has something to do, zero when there is none.
func (r *Recipient) Wake() time.Time {
	at := r.flushAt
	if len(r.conns) == 0 {
		return at
	}
	for _, l := range r.lanes {
		if l.flight.len() > 0 {
			at = earlier(at, l.flight.first().deadline)
		}
		if l.queue.len() == 0 || r.breaker.probing() && r.flying > 0 {
			continue // nothing to send, or the probe's end comes first
		}
		next := l.resume
		if next.Before(r.breaker.until) {
			next = r.breaker.until
		}
		if !next.IsZero() {
			at = earlier(at, next)
		}
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// Arrive takes a message that was just read from the journal. Its state is accepted.
func (r *Recipient) Arrive(it *Item, now time.Time, out []Effect) []Effect {
	if !it.Message.SendAt.IsZero() && it.Message.SendAt.After(now) {
		it.State.NotBefore = it.Message.SendAt
		it.State.Move(esh3ar.StatusScheduled, now, esh3ar.ReasonNone)
		// Not a park: it is not among the waiting until it is due, and its place in the order is nobody's
		// concern.
		return r.hand(Save, it, out)
	}
	if it.Message.Expired(now) {
		return r.finish(it, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
	}
	if len(r.conns) == 0 {
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonRecipientOffline)
		return r.park(it, out)
	}
	if !r.clear {
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonBehindBacklog)
		r.touch(now)
		r.tail = append(r.tail, it)
		if it.Aside || len(r.tail) > r.hold() {
			out = r.parkTail(out)
		}
		return out
	}
	if it.Aside || r.waiting >= r.hold() {
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonBehindBacklog)
		r.clear = false
		r.cursor = it.Ord - 1 // everything below is in memory
		out = r.park(it, out)
		r.gate = r.reports // there is nothing to read before
		return r.pump(now, out)
	}
	it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
	r.touch(now)
	r.lane(it.Message.Client).queue.push(it)
	r.waiting++
	return r.pump(now, out)
}

// Attach adds a connection. It is given what is in flight, and ends every backoff: a new connection is
// the best reason to try again.
func (r *Recipient) Attach(c Conn, now time.Time, out []Effect) []Effect {
	if c == 0 || slices.Contains(r.conns, c) {
		return out
	}
	r.conns = append(r.conns, c)
	for _, it := range r.inFlight() {
		out = append(out, Effect{Action: Send, Item: it, State: it.State, Conn: c})
	}
	for _, l := range r.lanes {
		l.resume = time.Time{}
	}
	out = r.close(out)
	return r.pump(now, out)
}

// Detach removes a connection. When it was the last, every message in flight has failed (of each lane
// the first is charged, unless free), and everything goes to the store.
func (r *Recipient) Detach(c Conn, free bool, now time.Time, out []Effect) []Effect {
	i := slices.Index(r.conns, c)
	if i < 0 {
		return out
	}
	r.conns = slices.Delete(r.conns, i, i+1)
	if len(r.conns) > 0 {
		return out
	}
	var leaving []*Item
	for _, l := range r.lanes {
		for i, it := range l.flight.items() {
			if charged := i == 0 && !free; charged {
				if int(it.State.Attempts) >= r.params.MaxAttempts {
					out = r.finish(it, esh3ar.StatusUndelivered, now, esh3ar.ReasonAttempts, out)
					continue
				}
				it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonConnectionLost)
			} else {
				it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonRecipientOffline)
				it.State.Attempts--
			}
			leaving = append(leaving, it)
		}
		for _, it := range l.queue.items() {
			it.State.NotBefore = time.Time{}
			leaving = append(leaving, it)
		}
	}
	leaving = append(leaving, r.tail...)
	slices.SortFunc(leaving, byOrd)
	r.lanes, r.spare, r.tail = nil, nil, nil
	r.flying, r.flyingBytes, r.waiting = 0, 0, 0
	r.clear, r.void, r.cursor = false, r.reading, 0
	r.flushAt = time.Time{}
	for _, it := range leaving {
		out = r.park(it, out)
	}
	r.gate = r.reports
	return out
}

// Acknowledge takes a device's word that it has, or that its user has read, these messages. Whoever
// reports it has checked that the connection is this recipient's.
func (r *Recipient) Acknowledge(ids []esh3ar.ID, read bool, now time.Time, out []Effect) []Effect {
	for _, id := range ids {
		it := r.take(id)
		if it == nil {
			out = append(out, Effect{Action: Late, ID: id, Read: read})
			continue
		}
		out = r.close(out)
		out = r.shown(it, read, now, out)
	}
	return r.pump(now, out)
}

// Settle brings the row that Late asked for. An acknowledgement counts whatever became of the message
// meanwhile, because the device did show it.
func (r *Recipient) Settle(it *Item, read bool, now time.Time, out []Effect) []Effect {
	if held := r.take(it.Message.ID); held != nil {
		it = held
	}
	return r.pump(now, r.shown(it, read, now, out))
}

// shown ends a message that a device has acknowledged, and that is not in memory any more.
func (r *Recipient) shown(it *Item, read bool, now time.Time, out []Effect) []Effect {
	why := esh3ar.ReasonNone
	if it.State.Status.Final() {
		why = esh3ar.ReasonLateAck
	}
	news := it.State.Move(esh3ar.StatusDelivered, now, why)
	if read {
		news = it.State.Move(esh3ar.StatusRead, now, esh3ar.ReasonNone) || news
	}
	if !news {
		return out
	}
	it.State.NotBefore = time.Time{}
	return r.done(it, out)
}

// Page brings the rows that a Read asked for, lowest Ord first. Every Read is answered by it or by
// ReadFailed.
func (r *Recipient) Page(ticket uint64, items []*Item, now time.Time, out []Effect) []Effect {
	if ticket != r.ticket || !r.reading {
		return out
	}
	r.reading = false
	if r.void {
		r.void = false
		return r.pump(now, out)
	}
	if len(r.tail) > 0 {
		// Arrivals held since the read was asked for may have been saved and found by it.
		first := r.tail[0].Ord
		items = items[:sort.Search(len(items), func(i int) bool { return items[i].Ord >= first })]
	}
	if len(items) == 0 {
		if r.dirty {
			// Once more, when all that is parked by now can be seen.
			r.gate = max(r.gate, r.lastPark)
			return r.pump(now, out)
		}
		r.clear = true
		for _, it := range r.tail {
			r.lane(it.Message.Client).queue.push(it)
		}
		r.waiting += len(r.tail)
		r.tail = nil
		return r.pump(now, out)
	}
	r.largest = 0
	for _, it := range items {
		r.cursor = max(r.cursor, it.Ord)
		r.largest = max(r.largest, it.size())
		if r.find(it.Message.ID) != nil {
			continue
		}
		if it.State.Status == esh3ar.StatusSent {
			// The attempt ended with whoever made it; nobody waits for its acknowledgement.
			it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonOwnerRestarted)
			if it.State.Attempts > 0 {
				it.State.Attempts--
			}
			r.touch(now)
		}
		it.State.NotBefore = time.Time{}
		if it.Message.Expired(now) {
			out = r.finish(it, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
			continue
		}
		r.lane(it.Message.Client).queue.push(it)
		r.waiting++
	}
	return r.pump(now, out)
}

// ReadFailed says that the Read of that ticket found no answer. The driver calls it when it makes
// sense to try again.
func (r *Recipient) ReadFailed(ticket uint64, now time.Time, out []Effect) []Effect {
	if ticket != r.ticket || !r.reading {
		return out
	}
	r.reading, r.void = false, false
	return r.pump(now, out)
}

// Parked says that n more of the effects with Report are committed.
func (r *Recipient) Parked(n int, now time.Time, out []Effect) []Effect {
	r.commits += uint64(n)
	return r.pump(now, out)
}

// Due brings a row of the store whose time has come: it expires, or it was scheduled for now. The driver
// looks for due rows again only when the effects of the last time are committed, or a scheduled message
// would come twice.
func (r *Recipient) Due(it *Item, now time.Time, out []Effect) []Effect {
	if held := r.find(it.Message.ID); held != nil {
		if held.State.Status == esh3ar.StatusQueued && held.Message.Expired(now) {
			r.take(held.Message.ID)
			out = r.finish(held, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
			return r.pump(now, out)
		}
		return out // in flight: the end of the attempt decides
	}
	if it.Message.Expired(now) {
		if it.State.Status == esh3ar.StatusSent {
			it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonOwnerRestarted)
		}
		return r.finish(it, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
	}
	if it.State.Status != esh3ar.StatusScheduled {
		return out
	}
	return r.admit(it, esh3ar.ReasonNone, now, out)
}

// Tick does what Wake announced: it fails what was not acknowledged in time, resumes what has waited
// out its backoff, and saves what has settled.
func (r *Recipient) Tick(now time.Time, out []Effect) []Effect {
	if !r.flushAt.IsZero() && !now.Before(r.flushAt) {
		out = r.Flush(out)
	}
	failed := false
	for _, l := range r.lanes {
		if !now.Before(l.resume) {
			l.resume = time.Time{} // also when the window is full: it is not to be woken for again
		}
		if l.flight.len() > 0 && !now.Before(l.flight.first().deadline) {
			out = r.fail(l, now, out)
			failed = true
		}
	}
	out = r.pump(now, out)
	if failed && r.tight > 0 {
		out = r.shed(out) // a read for it comes when it is parked
	}
	return out
}

// fail ends the attempt of the first message in flight of a lane, and with it that of all behind it.
func (r *Recipient) fail(l *lane, now time.Time, out []Effect) []Effect {
	back := l.flight.items()
	failed := back[0]
	for _, it := range back {
		r.flying--
		r.flyingBytes -= it.size()
	}
	switch {
	case int(failed.State.Attempts) >= r.params.MaxAttempts:
		back = back[1:]
		out = r.finish(failed, esh3ar.StatusUndelivered, now, esh3ar.ReasonAttempts, out)
	case failed.Message.Expired(now):
		back = back[1:]
		failed.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonAckTimeout)
		out = r.finish(failed, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
	default:
		l.resume = now.Add(r.params.Backoff.After(int(failed.State.Attempts), failed.Message.ID))
		failed.State.NotBefore = l.resume
		failed.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonAckTimeout)
	}
	if r.breaker.strike(r.params, now) {
		out = append(out, Effect{Action: Open, Until: r.breaker.until})
	}
	r.touch(now)
	for _, it := range back {
		if it == failed {
			continue
		}
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonBehindRetry)
		it.State.Attempts--
	}
	l.queue.prepend(back)
	r.waiting += len(back)
	l.flight.reset()
	return out
}

// close closes the breaker.
func (r *Recipient) close(out []Effect) []Effect {
	if r.breaker.reset() {
		out = append(out, Effect{Action: Close})
	}
	return out
}

// pump sends what may be sent, and reads on when there is room.
func (r *Recipient) pump(now time.Time, out []Effect) []Effect {
	window, windowBytes := r.window()
	for len(r.conns) > 0 && r.waiting > 0 && !r.breaker.open(now) {
		l := r.next(now)
		if l == nil {
			break
		}
		it := l.queue.first()
		if it.Message.Expired(now) {
			l.queue.remove(0)
			r.waiting--
			out = r.finish(it, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
			continue
		}
		if r.flying > 0 && (r.breaker.probing() || r.flying >= window || r.flyingBytes+it.size() > windowBytes) {
			break
		}
		l.queue.remove(0)
		l.resume = time.Time{}
		l.flight.push(it)
		r.waiting--
		r.flying++
		r.flyingBytes += it.size()
		it.State.NotBefore = time.Time{}
		it.State.Attempts++
		it.State.Move(esh3ar.StatusSent, now, esh3ar.ReasonNone)
		it.deadline = now.Add(r.params.AckTimeout)
		r.touch(now)
		out = append(out, Effect{Action: Send, Item: it, State: it.State})
	}
	r.sweep()
	if len(r.conns) > 0 && !r.clear && !r.reading && r.commits >= r.gate && r.flying+r.waiting < window {
		r.ticket++
		r.reading = true
		r.dirty = r.commits < r.lastPark
		e := Effect{Action: Read, Ticket: r.ticket, After: r.cursor, Limit: r.page()}
		if len(r.tail) > 0 {
			e.Before = r.tail[0].Ord
		}
		out = append(out, e)
	}
	return out
}
