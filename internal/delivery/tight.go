package delivery

import (
	"slices"
	"time"
)

// Tight is the greatest tightness of memory, at which the least is left of what a recipient may hold. Each
// step below it doubles that, down to 0, where nothing is tight: so that recipients who all wait for room
// do not take it at one time.
const Tight = 4

// SetTight says how short of memory the process is, from 0 to Tight. While it is, the recipient has little
// in flight, and when it becomes so, everything that need not be in memory goes to the store: what is in
// flight stays until its acknowledgement or its timeout, what waits is parked and read back in small
// pages. So a recipient always goes on, only in smaller steps. The driver calls it before each event, and
// at once on a change.
func (r *Recipient) SetTight(tight int, now time.Time, out []Effect) []Effect {
	if r.tight == tight {
		return out
	}
	tighter := tight > r.tight
	r.tight = tight
	if tighter {
		out = r.shed(out)
	}
	return r.pump(now, out)
}

// window is what may be in flight: messages and bytes of payload, though one message always may.
func (r *Recipient) window() (messages, bytes int) {
	return max(1, r.params.Window>>r.tight), r.params.WindowBytes >> r.tight
}

// hold is how many arrivals may be held in memory while earlier messages go first.
func (r *Recipient) hold() int {
	if r.tight > 0 {
		return 1
	}
	return r.params.Hold
}

// page is how many messages a read may bring: no more than the window would take of the size that was
// seen last.
func (r *Recipient) page() int {
	messages, bytes := r.window()
	if r.largest == 0 {
		return messages
	}
	return min(messages, max(1, bytes/r.largest))
}

// shed parks what waits, except that a message in backoff stays: it is what its lane waits for. What is
// parked is read again from below the first of it; what a lane has kept is found there too and left out.
func (r *Recipient) shed(out []Effect) []Effect {
	var leaving []*Item
	for _, l := range r.lanes {
		keep := 0
		if !l.resume.IsZero() {
			keep = 1
		}
		for l.queue.len() > keep {
			leaving = append(leaving, l.queue.remove(l.queue.len()-1))
			r.waiting--
		}
	}
	leaving = append(leaving, r.tail...)
	r.tail = nil
	if len(leaving) == 0 {
		return out
	}
	slices.SortFunc(leaving, byOrd)
	below := leaving[0].Ord - 1
	if r.clear {
		r.cursor = below // everything below is in memory or final
	}
	r.cursor = min(r.cursor, below)
	// A read that is out would bring what lies behind what was parked now.
	r.clear, r.void = false, r.reading
	for _, it := range leaving {
		it.State.NotBefore = time.Time{}
		out = r.park(it, out)
	}
	r.gate = r.reports
	r.sweep()
	return out
}
