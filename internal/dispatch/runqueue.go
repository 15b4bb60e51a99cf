package dispatch

import (
	"context"
	"sync"

	"github.com/esh3artech/esh3ar/internal/delivery"
)

// runQueue is the queue of recipients that have something to do. Each stands in it at most once, so it
// is bounded by their number.
type runQueue struct {
	mu     sync.Mutex
	ready  sync.Cond // somebody waits for work
	idle   sync.Cond // somebody waits for the end of all work
	queue  []*recipient
	head   int
	busy   int // recipients being run
	closed bool
}

func newRunQueue() *runQueue {
	q := &runQueue{}
	q.ready.L, q.idle.L = &q.mu, &q.mu
	return q
}

func (q *runQueue) push(rs ...*recipient) {
	q.mu.Lock()
	q.queue = append(q.queue, rs...)
	q.mu.Unlock()
	if len(rs) == 1 {
		q.ready.Signal()
	} else {
		q.ready.Broadcast()
	}
}

// pop blocks for work, and returns nil once the queue is closed and empty.
func (q *runQueue) pop() *recipient {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == len(q.queue) {
		if q.closed {
			return nil
		}
		q.ready.Wait()
	}
	r := q.queue[q.head]
	q.queue[q.head] = nil
	q.head++
	if q.head == len(q.queue) {
		q.queue, q.head = q.queue[:0], 0
	} else if q.head >= 1024 && q.head*2 >= len(q.queue) {
		n := copy(q.queue, q.queue[q.head:])
		clear(q.queue[n:])
		q.queue, q.head = q.queue[:n], 0
	}
	q.busy++
	return r
}

func (q *runQueue) done() {
	q.mu.Lock()
	q.busy--
	quiet := q.busy == 0 && q.head == len(q.queue)
	q.mu.Unlock()
	if quiet {
		q.idle.Broadcast()
	}
}

func (q *runQueue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue) - q.head + q.busy
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}

// work runs recipients until the queue is closed.
func (d *Dispatcher) work() {
	var out []delivery.Effect
	for {
		r := d.runq.pop()
		if r == nil {
			return
		}
		out = r.run(out)
		d.runq.done()
	}
}

// quiesce waits until no recipient is queued or running, or ctx ends.
func (q *runQueue) quiesce(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.idle.Broadcast()
	})
	defer stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for (q.busy > 0 || q.head < len(q.queue)) && ctx.Err() == nil {
		q.idle.Wait()
	}
}
