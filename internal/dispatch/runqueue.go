package dispatch

import (
	"runtime"
	"sync"

	"github.com/esh3artech/esh3ar/internal/fair"
)

// runQueue is the queue of recipients that have something to do. Each stands in it at one place, so it is
// bounded by their number. Their turns come by weighted fair queueing over the clients whose messages they
// wait with, so that one client's flood does not hold up another's message.
type runQueue struct {
	mu      sync.Mutex
	ready   sync.Cond // somebody waits for work
	waiting *fair.Queue[place]
	places  uint64 // given out
	depth   int    // recipients that stand in the queue
	busy    int    // recipients being run
	leaving int    // processors that are to retire
	closed  bool
}

// place is one in the queue. It is void when its recipient has gone to another.
type place struct {
	r      *recipient
	number uint64
}

// stand is where a recipient stands. It is guarded by runQueue.mu.
type stand struct {
	place uint64    // 0 for nowhere
	flow  fair.Flow // that it stands in, or was run in the last time
}

// turn is a recipient's turn, which ends with done.
type turn struct {
	r    *recipient
	flow fair.Flow
	fair fair.Turn
}

// wish asks for a recipient's turn, in a flow or in the same that it was last in.
type wish struct {
	r    *recipient
	flow fair.Flow
	same bool
}

func newRunQueue(w fair.Weights) *runQueue {
	q := &runQueue{waiting: fair.New[place](w)}
	q.ready.L = &q.mu
	return q
}

// push sees to it that the recipients have a turn: who stands in the queue already only moves if that
// brings it forward.
func (q *runQueue) push(ws ...wish) {
	q.mu.Lock()
	came := 0
	for _, w := range ws {
		at := &w.r.stand
		flow := w.flow
		if w.same {
			flow = at.flow
		}
		switch {
		case at.place == 0:
			came++
		case !q.waiting.Sooner(flow, at.flow):
			continue
		}
		q.places++
		*at = stand{q.places, flow}
		q.waiting.Push(flow, place{w.r, q.places})
	}
	q.depth += came
	q.mu.Unlock()
	switch came {
	case 0:
	case 1:
		q.ready.Signal()
	default:
		q.ready.Broadcast()
	}
}

// pop blocks for work. It reports false once the queue is closed and empty, and to one processor for each call
// of retire.
func (q *runQueue) pop() (turn, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.leaving > 0 {
			q.leaving--
			return turn{}, false
		}
		p, t, ok := q.waiting.Pop()
		if !ok {
			if q.closed {
				return turn{}, false
			}
			q.ready.Wait()
			continue
		}
		if p.r.stand.place != p.number {
			q.waiting.Done(t, 0)
			continue
		}
		p.r.stand.place = 0
		q.depth--
		q.busy++
		return turn{p.r, p.r.stand.flow, t}, true
	}
}

// done ends a turn, which cost so many units of work.
func (q *runQueue) done(t turn, cost int) {
	q.mu.Lock()
	q.waiting.Done(t.fair, float64(cost))
	q.busy--
	q.mu.Unlock()
}

// load returns how many recipients wait for a turn or have one.
func (q *runQueue) load() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.depth + q.busy
}

// waitingNow returns how many recipients wait for a turn.
func (q *runQueue) waitingNow() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.depth
}

// retire has one processor leave.
func (q *runQueue) retire() {
	q.mu.Lock()
	q.leaving++
	q.mu.Unlock()
	q.ready.Signal()
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}

// letWrite lets the connections write what they were given, before they are given more. What waits for its
// turn here goes by who it is for; what waits for a processor goes by when it came, all the rest of the
// program with it. So that queue must stay short.
func (d *Dispatcher) letWrite() {
	const most = 64 // a moment, however far behind they are
	for range most {
		runtime.Gosched()
		if !d.behind() {
			return
		}
	}
}

// behind reports whether connections wait for a processor of the machine to write what they were given.
func (d *Dispatcher) behind() bool {
	return d.opts.Backlog != nil && d.opts.Backlog() > d.opts.LeastProcessors
}
