package delivery

import (
	"time"

	"github.com/esh3artech/esh3ar"
)

// What people ask for comes with the message's row as it was read from the store. It may be older than
// what memory or the commits under way know: then the change comes too late, and whoever asked sees by
// the row that it was not made.

// Cancel withdraws a message that is not in flight.
func (r *Recipient) Cancel(row *Item, now time.Time, out []Effect) []Effect {
	it := row
	if held := r.find(row.Message.ID); held != nil {
		if held.State.Status != esh3ar.StatusQueued {
			return out
		}
		it = r.take(row.Message.ID)
	} else if it.State.Status == esh3ar.StatusSent {
		// Its attempt ended with whoever made it.
		it.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonOwnerRestarted)
	}
	if !it.State.Status.CanBecome(esh3ar.StatusCanceled) {
		return out
	}
	return r.pump(now, r.finish(it, esh3ar.StatusCanceled, now, esh3ar.ReasonByClient, out))
}

// Replay brings a message back from the dead-letter queue, with all its attempts anew.
func (r *Recipient) Replay(row *Item, now time.Time, out []Effect) []Effect {
	if row.State.Status != esh3ar.StatusUndelivered || row.Message.Stripped || r.find(row.Message.ID) != nil {
		return out
	}
	row.State.Attempts = 0
	row.State.Generation++
	if row.Message.Expired(now) {
		row.State.Move(esh3ar.StatusQueued, now, esh3ar.ReasonReplay)
		return r.finish(row, esh3ar.StatusExpired, now, esh3ar.ReasonTTL, out)
	}
	return r.admit(row, esh3ar.ReasonReplay, now, out)
}

// Discard says that nobody wants a message of the dead-letter queue any more. It stays undelivered.
func (r *Recipient) Discard(row *Item, why esh3ar.Reason, now time.Time, out []Effect) []Effect {
	if row.State.Status != esh3ar.StatusUndelivered || r.find(row.Message.ID) != nil ||
		!row.State.Move(esh3ar.StatusUndelivered, now, why) {
		return out
	}
	return r.done(row, out)
}

// Refused says that the store refused these messages for good and has them as they ended for that. What is in
// memory of them is dropped; a device that has one still may acknowledge it late.
func (r *Recipient) Refused(ids []esh3ar.ID, now time.Time, out []Effect) []Effect {
	for _, id := range ids {
		r.take(id)
	}
	return r.pump(now, out)
}

// admit takes a stored message in among the waiting whose place in the order is nobody's concern: it
// was scheduled, or replayed.
func (r *Recipient) admit(it *Item, why esh3ar.Reason, now time.Time, out []Effect) []Effect {
	it.State.NotBefore = time.Time{}
	if len(r.conns) == 0 {
		if why == esh3ar.ReasonNone {
			why = esh3ar.ReasonRecipientOffline
		}
		it.State.Move(esh3ar.StatusQueued, now, why)
		out = r.park(it, out)
		r.gate = r.reports // its Ord is old: a read that does not see it would go past it
		return out
	}
	// Its Ord is old, so the store's cursor may be past it: it is held whatever the Hold says. Who asks
	// for it bounds how many come at once.
	it.State.Move(esh3ar.StatusQueued, now, why)
	out = r.hand(Save, it, out)
	r.lane(it.Message.Client).queue.push(it)
	r.waiting++
	return r.pump(now, out)
}
