package ingest

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/fair"
)

const (
	// batchPart is how many messages of a batch go to the journal at one time. The next part follows when
	// they are durable, so that a long batch leaves room for others in the journal's queue: a message of its
	// own waits behind a few parts, not behind whole batches.
	batchPart = 128
	// batchRoom is how many messages of all batches may be on their way to the journal at one time: enough
	// for a sync to be shared by many.
	batchRoom = 1024
	// While there are messages that come alone, batches go in smaller parts, and fewer of them at a time:
	// about as fast as their messages can be delivered. Otherwise a flood of batches would take what the others need of the
	// processors.
	politePart = 32
	politeRoom = 128
	// politeFor is how long after a message that came alone batches make room for others.
	politeFor = 250 * time.Millisecond
	// batchYield is after how many messages a batch lets others at the bench.
	batchYield = 32
)

// bench is where batches are worked on, few at a time and each for a moment: with many at work at once, a
// message of its own would wait for the processor until all of them have had theirs.
type bench chan struct{}

// newBench returns a bench for half of that many processors.
func newBench(procs int) bench { return make(bench, max(1, procs/2)) }

// enter waits for a place, unless the batch has one.
func (c bench) enter(b *batch) {
	if !b.atBench {
		c <- struct{}{}
		b.atBench = true
	}
}

// leave gives up the place, if the batch has one. Whoever waits for anything else leaves first.
func (c bench) leave(b *batch) {
	if b.atBench {
		<-c
		b.atBench = false
	}
}

// company knows whether messages come alone, besides batches.
type company struct {
	start time.Time
	last  atomic.Int64 // when one came, since start
}

// came notes a message that came alone. Most calls only read, so that processors do not take the note from each
// other for every message.
func (c *company) came(now time.Time) {
	const accuracy = 10 * time.Millisecond
	if at := now.Sub(c.start); at-time.Duration(c.last.Load()) >= accuracy {
		c.last.Store(int64(at))
	}
}

// polite reports whether batches are to make room for others.
func (c *company) polite() bool {
	last := c.last.Load()
	return last > 0 && time.Since(c.start)-time.Duration(last) < politeFor
}

func (c *company) part() int {
	if c.polite() {
		return politePart
	}
	return batchPart
}

func (c *company) room() int {
	if c.polite() {
		return politeRoom
	}
	return batchRoom
}

// turns hands out the room that batches have on the way to the journal, by weighted fair queueing over tiers
// and clients. Who waits is a request under way, and so bounded by the memory that batches may take.
type turns struct {
	room func() int // in messages, as of now

	mu      sync.Mutex
	taken   int
	waiting *fair.Queue[*wait]
}

// wait is somebody's wait for room.
type wait struct {
	n     int
	turn  fair.Turn
	admit chan struct{} // closed when there is room
}

func newTurns(w fair.Weights, room func() int) *turns {
	return &turns{room: room, waiting: fair.New[*wait](w)}
}

// take waits for room for n messages. It ends soon: everybody who has room is waiting
// for the journal, which answers in bounded time.
func (t *turns) take(f fair.Flow, n int) *wait {
	w := &wait{n: n, admit: make(chan struct{})}
	t.mu.Lock()
	t.waiting.Push(f, w)
	t.next()
	t.mu.Unlock()
	<-w.admit
	return w
}

// done gives the room back.
func (t *turns) done(w *wait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.Done(w.turn, float64(w.n))
	t.taken -= w.n
	t.next()
}

// next admits who is next while there is any room. The last may overdraw it, so that nobody waits for ever
// for much of it.
func (t *turns) next() {
	for room := t.room(); t.taken < room; {
		w, turn, ok := t.waiting.Pop()
		if !ok {
			return
		}
		w.turn = turn
		t.taken += w.n
		close(w.admit)
	}
}
