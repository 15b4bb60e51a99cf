package delivery

import (
	"slices"
	"time"
)

// tightShare is the part of the window and of what may be held that is left while memory is tight.
const tightShare = 16

// SetTight says whether the process is short of memory. While it is, the recipient has little in flight,
// and everything that need not be in memory is in the store: what is in flight stays until its
// acknowledgement or its timeout, what waits is parked and read back in small pages. So a recipient
// always goes on, only in smaller steps. The driver calls it before each event, and at once on a change.
func (r *Recipient) SetTight(tight bool, now time.Time, out []Effect) []Effect {
	if r.tight == tight {
		return out
	}
	r.tight = tight
	if tight {
		out = r.shed(out)
	}
	return r.pump(now, out)
}

// window is what may be in flight: messages and bytes of payload, though one message always may.
func (r *Recipient) window() (messages, bytes int) {
	if r.tight {
		return max(1, r.params.Window/tightShare), r.params.WindowBytes / tightShare
	}
	return r.params.Window, r.params.WindowBytes
}

// hold is how many arrivals may be held in memory while earlier messages go first.
func (r *Recipient) hold() int {
	if r.tight {
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
