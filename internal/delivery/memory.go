package delivery

import (
	"iter"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
)

// next returns the lane whose first waiting message is the oldest of those that may go now.
func (r *Recipient) next(now time.Time) *lane {
	var best *lane
	for _, l := range r.lanes {
		if l.queue.len() == 0 || now.Before(l.resume) {
			continue
		}
		if best == nil || l.queue.first().Ord < best.queue.first().Ord {
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
	l := r.spare
	if l == nil {
		l = new(lane)
	}
	r.spare = nil
	l.client = client
	r.lanes = append(r.lanes, l)
	return l
}

// sweep removes the lanes that have become empty.
func (r *Recipient) sweep() {
	kept := r.lanes[:0]
	for _, l := range r.lanes {
		if l.empty() {
			l.resume = time.Time{}
			r.spare = l
			continue
		}
		kept = append(kept, l)
	}
	clear(r.lanes[len(kept):])
	r.lanes = kept
}

// inFlight returns what is in flight over all lanes, in order.
func (r *Recipient) inFlight() []*Item {
	if r.flying == 0 {
		return nil
	}
	all := make([]*Item, 0, r.flying)
	for _, l := range r.lanes {
		all = append(all, l.flight.items()...)
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
		for i, it := range l.flight.items() {
			if it.Message.ID == id {
				r.flying--
				r.flyingBytes -= it.size()
				return l.flight.remove(i)
			}
		}
		for i, it := range l.queue.items() {
			if it.Message.ID == id {
				r.waiting--
				if i == 0 {
					// What the lane waited for is settled; those behind need not.
					l.resume = time.Time{}
				}
				return l.queue.remove(i)
			}
		}
	}
	for i, it := range r.tail {
		if it.Message.ID == id {
			r.tail = slices.Delete(r.tail, i, i+1)
			return it
		}
	}
	return nil
}

func (r *Recipient) find(id esh3ar.ID) *Item {
	for it := range r.items() {
		if it.Message.ID == id {
			return it
		}
	}
	return nil
}

// items yields everything in memory.
func (r *Recipient) items() iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		for _, l := range r.lanes {
			for _, it := range l.flight.items() {
				if !yield(it) {
					return
				}
			}
			for _, it := range l.queue.items() {
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
