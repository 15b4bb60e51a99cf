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
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Conn names a live connection of the recipient. Zero names none.
type Conn uint64

// Params are the rules of delivery, the same for all recipients of a node.
type Params struct {
	// Window is the largest number of messages in flight to one recipient; WindowBytes bounds their
	// payload, but one message may always fly.
	Window      int
	WindowBytes int
	// Hold is the largest number of arrivals held in memory for one recipient while earlier messages
	// go first. Beyond it they are parked in the store.
	Hold int
	// Settle is how long a change may be known to memory alone before it is saved.
	Settle time.Duration
	// AckTimeout is how long a device may take to acknowledge.
	AckTimeout time.Duration
	// MaxAttempts is the number of failed attempts after which a message is undelivered.
	MaxAttempts int
	Backoff     Backoff
}

// Item is one message in memory. It belongs to one Recipient, which alone changes it.
type Item struct {
	Message *esh3ar.Message
	State   esh3ar.State
	// Ord is the message's place in its shard's order. Arrivals of one recipient have growing Ords.
	Ord uint64
	// Saved says that the store has, or has been asked for, a row of this message. The driver's
	// effects are carried out in order, so a later effect may rely on it.
	Saved bool
	// Unsaved is the index in State.Timeline of the first transition that no effect has handed out.
	Unsaved int
	// Origin is the driver's: where the message came from. The core does not look at it.
	Origin any

	deadline time.Time // in flight: when the attempt has failed
}

func (it *Item) size() int {
	return len(it.Message.Content) + len(it.Message.Data) + 256
}

// Action says what an Effect asks the driver to do.
type Action uint8

const (
	// Send: give Item to connection Conn, or to every attached connection when Conn is 0.
	Send Action = iota + 1
	// Save: store Item's state; it stays in memory.
	Save
	// Park: store Item's state; it has left memory. The driver reports the commit with Parked.
	Park
	// Done: store Item's final state; it has left memory.
	Done
	// Read: fetch waiting rows with After < Ord < Before (0: no bound), at most Limit, and bring
	// them with Page and the same Ticket.
	Read
	// Late: the device acknowledged (or read) a message that is not in memory; settle it in the store.
	Late
)

// Effect is one thing for the driver to do. Effects are carried out in order.
type Effect struct {
	Action Action
	Item   *Item // Send, Save, Park, Done
	// State is Item's state at the time of the effect; NewFrom the index of its first transition
	// that no earlier effect handed out; Fresh says that no earlier effect stored the message.
	State   esh3ar.State
	NewFrom int
	Fresh   bool

	Conn Conn // Send

	Ticket        uint64 // Read
	After, Before uint64
	Limit         int

	ID   esh3ar.ID // Late
	Read bool      // Late: a read receipt rather than an acknowledgement
}

// Recipient is the state of one recipient's deliveries. It is not safe for concurrent use: the driver
// runs one event at a time. Every event method appends its effects to out and returns it.
type Recipient struct {
	params *Params
	conns  []Conn
	lanes  []*lane // few: one for each client with messages in memory

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
	// ticket numbers the reads; reading says that the last one is still out. dirty says that
	// something was parked since it was asked for, or was still uncommitted then.
	ticket  uint64
	reading bool
	dirty   bool
	// again says that a read found nothing while parks were uncommitted: read once more after them.
	again bool
	parks int // parked messages whose commit has not been reported

	// flushAt is when the oldest unsaved change must be saved, zero when everything is.
	flushAt time.Time
}

// lane keeps one client's messages to the recipient in order.
type lane struct {
	client string
	flight []*Item // sent and not acknowledged, in order; deadlines grow
	queue  []*Item // to be sent next, in order; all Ords above those of flight
	// resume is the end of the backoff, zero when there is none.
	resume time.Time
}

// NewRecipient returns a recipient without connections, of whose messages in the store nothing is
// known.
func NewRecipient(p *Params) *Recipient { return &Recipient{params: p} }

// Idle reports whether the recipient can be forgotten: nobody is connected, nothing is in memory and
// nothing is on its way to the store.
func (r *Recipient) Idle() bool {
	return len(r.conns) == 0 && len(r.lanes) == 0 && len(r.tail) == 0 && r.parks == 0
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
		if len(l.flight) > 0 {
			at = earlier(at, l.flight[0].deadline)
		}
		if len(l.queue) > 0 && !l.resume.IsZero() {
			at = earlier(at, l.resume)
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
		// Not a park: it is not among the waiting until it is due.
		return r.emit(Save, it, out)
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
		if len(r.tail) > r.params.Hold {
			out = r.parkTail(out)
		}
		return out
	}
	if r.waiting >= r.params.Hold {
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonBehindBacklog)
		r.clear = false
		r.cursor = it.Ord - 1 // everything below is in memory
		return r.park(it, out)
	}
	it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
	l := r.lane(it.Message.Client)
	r.touch(now)
	l.queue = append(l.queue, it)
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
		for i, it := range l.flight {
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
		for _, it := range l.queue {
			it.State.NotBefore = time.Time{}
			leaving = append(leaving, it)
		}
	}
	leaving = append(leaving, r.tail...)
	slices.SortFunc(leaving, byOrd)
	r.lanes, r.tail = nil, nil
	r.flying, r.flyingBytes, r.waiting = 0, 0, 0
	r.clear, r.reading, r.again, r.cursor = false, false, false, 0
	r.flushAt = time.Time{}
	for _, it := range leaving {
		out = r.park(it, out)
	}
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
		it.State.NotBefore = time.Time{}
		it.State.Move(esh3ar.StatusDelivered, now, esh3ar.ReasonNone)
		if read {
			it.State.Move(esh3ar.StatusRead, now, esh3ar.ReasonNone)
		}
		out = r.emit(Done, it, out)
	}
	return r.pump(now, out)
}

// Page brings the rows that a Read asked for, lowest Ord first. A page of an older ticket is ignored:
// its rows stay in the store.
func (r *Recipient) Page(ticket uint64, items []*Item, now time.Time, out []Effect) []Effect {
	if ticket != r.ticket || !r.reading {
		return out
	}
	r.reading = false
	if len(r.tail) > 0 {
		// Arrivals held since the read was asked for may have been saved and found by it.
		first := r.tail[0].Ord
		items = items[:sort.Search(len(items), func(i int) bool { return items[i].Ord >= first })]
	}
	if len(items) == 0 {
		switch {
		case r.dirty && r.parks > 0:
			r.again = true
		case r.dirty:
			// Committed meanwhile: pump reads again.
		default:
			r.clear = true
			for _, it := range r.tail {
				l := r.lane(it.Message.Client)
				l.queue = append(l.queue, it)
			}
			r.waiting += len(r.tail)
			r.tail = nil
		}
		return r.pump(now, out)
	}
	for _, it := range items {
		r.cursor = max(r.cursor, it.Ord)
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
		l := r.lane(it.Message.Client)
		l.queue = append(l.queue, it)
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
	r.reading = false
	return r.pump(now, out)
}

// Parked says that n parked messages are committed.
func (r *Recipient) Parked(n int, now time.Time, out []Effect) []Effect {
	r.parks -= n
	if r.parks == 0 {
		r.again = false
	}
	return r.pump(now, out)
}

// Due brings a row of the store whose time has come: it expires, or it was scheduled for now.
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
	it.State.NotBefore = time.Time{}
	if len(r.conns) == 0 {
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonRecipientOffline)
		return r.park(it, out)
	}
	// Its Ord is old, so the store's cursor may be past it: it is held whatever the Hold says. The
	// driver's scan bounds how many come at once. Scheduled messages are outside the promise of order.
	it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
	l := r.lane(it.Message.Client)
	r.touch(now)
	l.queue = append(l.queue, it)
	r.waiting++
	return r.pump(now, out)
}

// Flush saves every change that is not saved yet.
func (r *Recipient) Flush(out []Effect) []Effect {
	r.flushAt = time.Time{}
	for it := range r.items() {
		if !it.Saved || it.Unsaved < len(it.State.Timeline) {
			out = r.hand(Save, it, out)
		}
	}
	return out
}

// Tick does what Wake announced: it fails what was not acknowledged in time, resumes what has waited
// out its backoff, and saves what has settled.
func (r *Recipient) Tick(now time.Time, out []Effect) []Effect {
	if !r.flushAt.IsZero() && !now.Before(r.flushAt) {
		out = r.Flush(out)
	}
	for _, l := range r.lanes {
		if len(l.flight) > 0 && !now.Before(l.flight[0].deadline) {
			out = r.fail(l, now, out)
		}
	}
	return r.pump(now, out)
}

// fail ends the attempt of the first message in flight of a lane, and with it that of all behind it.
func (r *Recipient) fail(l *lane, now time.Time, out []Effect) []Effect {
	failed := l.flight[0]
	back := l.flight
	l.flight = nil
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
	r.touch(now)
	for _, it := range back {
		if it == failed {
			continue
		}
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonBehindRetry)
		it.State.Attempts--
	}
	l.queue = append(back, l.queue...)
	r.waiting += len(back)
	return out
}

// pump sends what may be sent, and reads on when there is room.
func (r *Recipient) pump(now time.Time, out []Effect) []Effect {
	for len(r.conns) > 0 && r.waiting > 0 {
		l := r.next(now)
		if l == nil {
			break
		}
		it := l.queue[0]
		if it.Message.Expired(now) {
			l.queue = l.queue[1:]
			r.waiting--
			out = r.finish(it, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
			continue
		}
		if r.flying > 0 && (r.flying >= r.params.Window || r.flyingBytes+it.size() > r.params.WindowBytes) {
			break
		}
		l.queue = l.queue[1:]
		l.resume = time.Time{}
		l.flight = append(l.flight, it)
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
	r.lanes = slices.DeleteFunc(r.lanes, func(l *lane) bool { return len(l.flight) == 0 && len(l.queue) == 0 })
	if len(r.conns) > 0 && !r.clear && !r.reading && !r.again && r.flying+r.waiting < r.params.Window {
		r.ticket++
		r.reading = true
		r.dirty = r.parks > 0
		e := Effect{Action: Read, Ticket: r.ticket, After: r.cursor, Limit: r.params.Window}
		if len(r.tail) > 0 {
			e.Before = r.tail[0].Ord
		}
		out = append(out, e)
	}
	return out
}

// next returns the lane whose first waiting message is the oldest of those that may go now.
func (r *Recipient) next(now time.Time) *lane {
	var best *lane
	for _, l := range r.lanes {
		if len(l.queue) == 0 || now.Before(l.resume) {
			continue
		}
		if best == nil || l.queue[0].Ord < best.queue[0].Ord {
			best = l
		}
	}
	return best
}

func (r *Recipient) lane(client string) *lane {
	for _, l := range r.lanes {
		if l.client == client {
			return l
		}
	}
	l := &lane{client: client}
	r.lanes = append(r.lanes, l)
	return l
}

// inFlight returns what is in flight over all lanes, in order.
func (r *Recipient) inFlight() []*Item {
	if r.flying == 0 {
		return nil
	}
	all := make([]*Item, 0, r.flying)
	for _, l := range r.lanes {
		all = append(all, l.flight...)
	}
	slices.SortFunc(all, byOrd)
	return all
}

func byOrd(a, b *Item) int {
	switch {
	case a.Ord < b.Ord:
		return -1
	case a.Ord > b.Ord:
		return 1
	}
	return 0
}

// take removes a message from memory and returns it, nil when it is not there.
func (r *Recipient) take(id esh3ar.ID) *Item {
	for _, l := range r.lanes {
		for i, it := range l.flight {
			if it.Message.ID == id {
				l.flight = remove(l.flight, i)
				r.flying--
				r.flyingBytes -= it.size()
				return it
			}
		}
		for i, it := range l.queue {
			if it.Message.ID == id {
				l.queue = remove(l.queue, i)
				r.waiting--
				if i == 0 {
					// What the lane waited for is settled; those behind need not.
					l.resume = time.Time{}
				}
				return it
			}
		}
	}
	for i, it := range r.tail {
		if it.Message.ID == id {
			r.tail = remove(r.tail, i)
			return it
		}
	}
	return nil
}

// remove takes the common case, the first, without moving the rest.
func remove(s []*Item, i int) []*Item {
	if i == 0 {
		s[0] = nil
		return s[1:]
	}
	return slices.Delete(s, i, i+1)
}

func (r *Recipient) find(id esh3ar.ID) *Item {
	for it := range r.items() {
		if it.Message.ID == id {
			return it
		}
	}
	return nil
}

// emit hands out the item's state. When that gives it its first row, everything earlier without one
// goes first; a final row needs no order.
func (r *Recipient) emit(a Action, it *Item, out []Effect) []Effect {
	if a != Done && !it.Saved {
		for e := range r.items() {
			if !e.Saved && e.Ord < it.Ord {
				out = r.hand(Save, e, out)
			}
		}
	}
	return r.hand(a, it, out)
}

func (r *Recipient) hand(a Action, it *Item, out []Effect) []Effect {
	out = append(out, Effect{Action: a, Item: it, State: it.State, NewFrom: it.Unsaved, Fresh: !it.Saved})
	it.Saved = true
	it.Unsaved = len(it.State.Timeline)
	return out
}

// touch notes that something changed that no effect has handed out.
func (r *Recipient) touch(now time.Time) {
	if r.flushAt.IsZero() {
		r.flushAt = now.Add(r.params.Settle)
	}
}

// items yields everything in memory.
func (r *Recipient) items() iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		for _, l := range r.lanes {
			for _, it := range l.flight {
				if !yield(it) {
					return
				}
			}
			for _, it := range l.queue {
				if !yield(it) {
					return
				}
			}
		}
		for _, it := range r.tail {
			if !yield(it) {
				return
			}
		}
	}
}

func (r *Recipient) park(it *Item, out []Effect) []Effect {
	r.parks++
	r.dirty = true
	return r.emit(Park, it, out)
}

func (r *Recipient) parkTail(out []Effect) []Effect {
	tail := r.tail
	r.tail = nil
	for _, it := range tail {
		out = r.park(it, out)
	}
	return out
}

func (r *Recipient) finish(it *Item, s esh3ar.Status, now time.Time, why esh3ar.Reason, out []Effect) []Effect {
	it.State.NotBefore = time.Time{}
	it.State.Move(s, now, why)
	return r.emit(Done, it, out)
}
