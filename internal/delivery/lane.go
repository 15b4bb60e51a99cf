package delivery

import (
	"slices"
	"time"
)

// lane keeps one client's messages to the recipient in order.
type lane struct {
	client string
	flight fifo // sent and not acknowledged, in order; deadlines grow
	queue  fifo // to be sent next, in order
	// resume is the end of the backoff, zero when there is none.
	resume time.Time
}

func (l *lane) empty() bool { return l.flight.len() == 0 && l.queue.len() == 0 }

// fifo is a queue of items that keeps its memory while it is small. The zero fifo is empty.
type fifo struct {
	all  []*Item // all[:head] are nil
	head int
}

// keepCap is the largest capacity that an empty fifo keeps.
const keepCap = 32

func (q *fifo) len() int { return len(q.all) - q.head }

// items returns the content in order. It is valid until the next change.
func (q *fifo) items() []*Item { return q.all[q.head:] }

func (q *fifo) first() *Item { return q.all[q.head] }

func (q *fifo) push(it *Item) {
	if len(q.all) == cap(q.all) && q.head > len(q.all)/2 {
		n := copy(q.all, q.all[q.head:])
		clear(q.all[n:])
		q.all, q.head = q.all[:n], 0
	}
	q.all = append(q.all, it)
}

// prepend puts back before everything else.
func (q *fifo) prepend(back []*Item) {
	if len(back) <= q.head {
		q.head -= len(back)
		copy(q.all[q.head:], back)
		return
	}
	q.all, q.head = slices.Concat(back, q.items()), 0
}

// remove takes out the i-th item. The common case, the first, moves nothing.
func (q *fifo) remove(i int) *Item {
	it := q.all[q.head+i]
	if i > 0 {
		q.all = slices.Delete(q.all, q.head+i, q.head+i+1)
		return it
	}
	q.all[q.head] = nil
	q.head++
	if q.head == len(q.all) {
		q.reset()
	}
	return it
}

// reset empties the queue.
func (q *fifo) reset() {
	clear(q.all)
	q.all, q.head = q.all[:0], 0
	if cap(q.all) > keepCap {
		q.all = nil
	}
}
