package delivery

import (
	"time"

	"github.com/esh3artech/esh3ar"
)

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

// hand hands out the item's state.
func (r *Recipient) hand(a Action, it *Item, out []Effect) []Effect {
	report := a == Park || a == Done && it.Saved
	if report {
		r.reports++
	}
	out = append(out, Effect{
		Action: a, Item: it, State: it.State, NewFrom: it.Unsaved, Fresh: !it.Saved, Report: report,
	})
	it.Saved = true
	it.Unsaved = len(it.State.Timeline)
	return out
}

// park gives a message back to the store. When that is its first row, everything earlier without one
// gets its own first.
func (r *Recipient) park(it *Item, out []Effect) []Effect {
	if !it.Saved {
		for e := range r.items() {
			if !e.Saved && e.Ord < it.Ord {
				out = r.hand(Save, e, out)
			}
		}
	}
	out = r.hand(Park, it, out)
	r.lastPark = r.reports
	r.dirty = true
	return out
}

func (r *Recipient) parkTail(out []Effect) []Effect {
	tail := r.tail
	r.tail = nil
	for _, it := range tail {
		out = r.park(it, out)
	}
	return out
}

// finish ends a message that is not in memory any more, other than by an acknowledgement.
func (r *Recipient) finish(it *Item, s esh3ar.Status, now time.Time, why esh3ar.Reason, out []Effect) []Effect {
	it.State.NotBefore = time.Time{}
	it.State.Move(s, now, why)
	return r.done(it, out)
}

// done stores a final state. A final row needs no order, so it may be the first of its recipient.
func (r *Recipient) done(it *Item, out []Effect) []Effect {
	stale := it.Saved && !r.clear && it.Ord > r.cursor
	out = r.hand(Done, it, out)
	if stale {
		// A read now could bring it back to life.
		r.void = r.reading
		r.gate = r.reports
	}
	return out
}

// touch notes that something changed that no effect has handed out.
func (r *Recipient) touch(now time.Time) {
	if r.flushAt.IsZero() {
		r.flushAt = now.Add(r.params.Settle)
	}
}
