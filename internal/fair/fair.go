// Package fair hands out work by weighted fair queueing over service levels and, within one, evenly over
// business clients. It is pure: no goroutine, no clock, no I/O. Package dispatch runs recipients in its
// order.
//
// The discipline is start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing: A
// Scheduling Algorithm for Integrated Services Packet Switching Networks", 1996), once over the tiers and,
// in each tier, once over its clients. What holds, of any two that have work waiting all the while: what
// each got, divided by its weight, differs by no more than one turn of each, divided by its weight. So
//
//   - who has little to do is served next but for the turns that are under way, however long the others'
//     queues are;
//   - nobody starves;
//   - what one does not use, the others get, and nobody can save it up.
package fair

import (
	"container/heap"

	"github.com/esh3artech/esh3ar"
)

// Flow is whose work it is.
type Flow struct {
	Tier   esh3ar.Tier
	Client string
}

// Weights are the tiers' shares of what there is when all of them want more of it.
type Weights [esh3ar.Tiers]int

// DefaultWeights returns 16 for gold, 4 for silver and 1 for bronze.
func DefaultWeights() Weights { return Weights{16, 4, 1} }

// Queue holds work until its turn. It is not safe for concurrent use. Work of one flow is handed out in the
// order in which it was pushed. The queue takes as much as it is given: whoever pushes bounds it.
type Queue[T any] struct {
	tiers  [esh3ar.Tiers]tier[T]
	now    float64 // virtual time among the tiers
	length int
}

// tags are the place of a tier, or of a flow in its tier, on the virtual time of those that it competes
// with.
type tags struct {
	since  float64 // when it last began to have work waiting
	finish float64 // the end of its last turn
	start  float64 // of its next turn, if it has work waiting: the later of the two
}

// begin notes that there is work waiting again.
func (t *tags) begin(now float64) {
	t.since = now
	t.charge(0)
}

// charge puts off the end of the last turn, and with it the start of the next.
func (t *tags) charge(cost float64) {
	t.finish += cost
	t.start = max(t.since, t.finish)
}

// serve begins a turn: it ends so much later, and the next one starts then.
func (t *tags) serve(cost float64) {
	t.since = t.start
	t.finish = t.start
	t.charge(cost)
}

// next is the start of the next turn, of work that comes now if none is waiting.
func (t *tags) next(now float64, waiting bool) float64 {
	if waiting {
		return t.start
	}
	return max(now, t.finish)
}

// tier is the clients of one service level.
type tier[T any] struct {
	tags
	weight  float64
	now     float64 // virtual time among the flows
	last    float64 // the latest end of any flow's turn
	serves  int     // turns under way
	flows   map[string]*flow[T]
	crowd   int // number of flows at which to look for some to forget
	waiting flowHeap[T]
}

// flow is one client's work at one service level.
type flow[T any] struct {
	tags
	client string
	queue  []T
	head   int
	index  int     // in waiting, -1 if it has no work there
	serves int     // turns under way
	cost   float64 // what a turn is expected to cost: a moving average
}

// Turn is a piece of work under way. It ends with Done.
type Turn struct {
	tier     esh3ar.Tier
	client   string
	expected float64
}

// New returns an empty queue. Every weight must be positive.
func New[T any](w Weights) *Queue[T] {
	q := new(Queue[T])
	for i := range q.tiers {
		q.tiers[i].weight = float64(w[i])
		q.tiers[i].flows = make(map[string]*flow[T])
		q.tiers[i].crowd = keep
	}
	return q
}

// Len returns how much work waits.
func (q *Queue[T]) Len() int { return q.length }

// Flows returns how many flows are remembered: those with work, and those who had more than their share of
// late.
func (q *Queue[T]) Flows() int {
	n := 0
	for i := range q.tiers {
		n += len(q.tiers[i].flows)
	}
	return n
}

// Push adds work to its flow's end.
func (q *Queue[T]) Push(f Flow, work T) {
	t := &q.tiers[f.Tier]
	if len(t.waiting) == 0 {
		t.begin(q.now)
	}
	x := t.flows[f.Client]
	if x == nil {
		t.forget()
		x = &flow[T]{client: f.Client, index: -1, cost: 1}
		t.flows[f.Client] = x
	}
	x.queue = append(x.queue, work)
	q.length++
	if x.index < 0 {
		x.begin(t.now)
		heap.Push(&t.waiting, x)
	}
}

// Pop takes out the work whose turn it is. It reports false when there is none.
func (q *Queue[T]) Pop() (work T, turn Turn, ok bool) {
	level := -1
	for i := range q.tiers {
		if t := &q.tiers[i]; len(t.waiting) > 0 && (level < 0 || t.start < q.tiers[level].start) {
			level = i
		}
	}
	if level < 0 {
		return work, turn, false
	}
	t := &q.tiers[level]
	x := t.waiting[0]
	q.now = max(q.now, t.start)
	t.now = max(t.now, x.start)

	work = x.take()
	q.length--
	turn = Turn{tier: esh3ar.Tier(level), client: x.client, expected: x.cost}
	x.serves++
	t.serves++
	t.serve(x.cost / t.weight)
	x.serve(x.cost)
	t.last = max(t.last, x.finish)
	if x.waits() > 0 {
		heap.Fix(&t.waiting, 0)
	} else {
		heap.Pop(&t.waiting)
	}
	return work, turn, true
}

// Done ends a turn and says what it cost, in whatever unit all turns are measured by. Until then it counts
// as what the flow's turns cost of late.
func (q *Queue[T]) Done(turn Turn, cost float64) {
	t := &q.tiers[turn.tier]
	x := t.flows[turn.client] // not forgotten while it is being served
	x.serves--
	t.serves--
	x.cost += (cost - x.cost) / 8
	more := cost - turn.expected
	x.charge(more)
	if x.index >= 0 {
		heap.Fix(&t.waiting, x.index)
	}
	t.charge(more / t.weight)
	t.last = max(t.last, x.finish)
	if t.serves == 0 && len(t.waiting) == 0 {
		// All had what they wanted: they are even.
		t.now = max(t.now, t.last)
	}
}

// Sooner reports whether work that is pushed to f now would have its turn before the last of what waits in
// other's queue, as far as can be told.
func (q *Queue[T]) Sooner(f, other Flow) bool {
	x := q.tiers[other.Tier].flows[other.Client]
	return f != other && x != nil && x.index >= 0 && q.wait(f, 0) < q.wait(other, 1)
}

// wait estimates the start, in virtual time among the tiers, of what stands so many places before the end of
// the flow's queue.
func (q *Queue[T]) wait(f Flow, back int) float64 {
	t := &q.tiers[f.Tier]
	start := t.next(q.now, len(t.waiting) > 0)
	x := t.flows[f.Client]
	if x == nil {
		return start
	}
	ahead := x.next(t.now, x.index >= 0) - t.now + float64(x.waits()-back)*x.cost
	return start + ahead*float64(max(1, len(t.waiting)))/t.weight
}

func (x *flow[T]) waits() int { return len(x.queue) - x.head }

// take removes the first of the flow's work, and gives back the memory of what was handed out.
func (x *flow[T]) take() T {
	var none T
	work := x.queue[x.head]
	x.queue[x.head] = none
	x.head++
	switch {
	case x.head == len(x.queue):
		x.queue, x.head = x.queue[:0], 0
		if cap(x.queue) > keep {
			x.queue = nil
		}
	case x.head >= keep && 2*x.head >= len(x.queue):
		n := copy(x.queue, x.queue[x.head:])
		clear(x.queue[n:])
		x.queue, x.head = x.queue[:n], 0
	}
	return work
}

// keep is the room for work that a flow keeps when it has none.
const keep = 64

// forget drops the flows that a new one would not differ from. It looks for them only when there are twice as
// many as were left the last time, so that it costs little.
func (t *tier[T]) forget() {
	if len(t.flows) < t.crowd {
		return
	}
	for client, x := range t.flows {
		if x.index < 0 && x.serves == 0 && x.finish <= t.now {
			delete(t.flows, client)
		}
	}
	t.crowd = 2*len(t.flows) + keep
}

// flowHeap orders flows by the start of their next turn.
type flowHeap[T any] []*flow[T]

func (h flowHeap[T]) Len() int           { return len(h) }
func (h flowHeap[T]) Less(i, j int) bool { return h[i].start < h[j].start }

func (h flowHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *flowHeap[T]) Push(x any) {
	f := x.(*flow[T])
	f.index = len(*h)
	*h = append(*h, f)
}

// Pop implements heap.Interface.
func (h *flowHeap[T]) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	f.index = -1
	return f
}
