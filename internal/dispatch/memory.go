package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/fair"
)

const (
	// messageCost is what a message in memory takes beside its record, in bytes: its fields, its state
	// and timeline, its places in a mailbox, a lane and the committer, and its encoded frame. Measured
	// over small messages, where it is most of what they take.
	messageCost = 2 << 10
	// tightEvery is how often it is asked whether memory is tight.
	tightEvery = 50 * time.Millisecond
	// relaxEvery is the time between two steps by which recipients get their memory back: long enough for
	// a collection to tell what the last step took.
	relaxEvery = 2 * time.Second
)

// memory counts what the journal entries take that were read and are not stored yet, and for whom.
type memory struct {
	limit int64
	room  *semaphore.Weighted
	used  atomic.Int64

	mu    sync.Mutex
	flows map[fair.Flow]int64 // never 0
}

func newMemory(limit int64) *memory {
	return &memory{limit: limit, room: semaphore.NewWeighted(limit), flows: make(map[fair.Flow]int64)}
}

// Acquire waits for room; its error is ctx's.
func (m *memory) Acquire(ctx context.Context, n int64) error {
	if err := m.room.Acquire(ctx, n); err != nil {
		return err
	}
	m.used.Add(n)
	return nil
}

// Release gives room back that was not charged to anybody.
func (m *memory) Release(n int64) {
	m.used.Add(-n)
	m.room.Release(n)
}

// part is what a client's messages take of a charge.
type part struct {
	flow  fair.Flow
	bytes int64
}

// charge notes whose the messages are.
func (m *memory) charge(c *charge, msgs []*esh3ar.Message) {
	if len(msgs) == 0 {
		return
	}
	each := c.bytes / int64(len(msgs))
	for _, x := range msgs {
		f := flowOf(x)
		if n := len(c.parts); n == 0 || c.parts[n-1].flow != f {
			c.parts = append(c.parts, part{flow: f})
		}
		c.parts[len(c.parts)-1].bytes += each
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range c.parts {
		m.flows[p.flow] += p.bytes
	}
}

// free gives the room of messages back that are stored.
func (m *memory) free(charges []*charge) {
	if len(charges) == 0 {
		return
	}
	var bytes int64
	m.mu.Lock()
	for _, c := range charges {
		bytes += c.bytes
		for _, p := range c.parts {
			if m.flows[p.flow] -= p.bytes; m.flows[p.flow] == 0 {
				delete(m.flows, p.flow)
			}
		}
	}
	m.mu.Unlock()
	m.Release(bytes)
}

// crowded reports whether memory is scarce enough for shares to count.
func (m *memory) crowded() bool { return m.used.Load() > m.limit/2 }

// over reports whether the flow has more than its fair share in memory: half of the limit, divided among all
// that have anything there. The other half is for who comes next. Who is alone is in nobody's way, and would only
// be delivered at a third of the speed.
func (m *memory) over(f fair.Flow) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.flows) > 1 && m.flows[f] > m.limit/2/int64(len(m.flows))
}

// tightness returns how short of memory the process is, from 0 to delivery.Tight.
func (d *Dispatcher) tightness() int {
	if d.opts.Tight != nil && d.opts.Tight() {
		return delivery.Tight
	}
	return int(d.tight.Load())
}

// holdBack keeps from reading on while memory is tight and the shard has its share of that in use: a
// sixteenth at first, and twice that with each step by which it is less tight. What it waits for is the
// store, so there is always an end to it, or the store is down and there is nothing to gain by reading.
// Nor does it read faster than that share in a second: the journal keeps what was read in the last seconds
// in memory too. Bytes is the size of the entry that was read last.
func (in *intake) holdBack(ctx context.Context, bytes int) error {
	d, m := in.s.d, in.s.memory
	if d.tightness() == 0 {
		return nil
	}
	began := d.opts.Now()
	tick := time.NewTicker(tightEvery / 5)
	defer tick.Stop()
	for {
		level := d.tightness()
		share := max(m.limit>>level, 1)
		pause := time.Duration(float64(bytes) / float64(share) * float64(time.Second))
		if level == 0 || m.used.Load() <= share && d.opts.Now().Sub(began) >= pause {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// watchMemory tells the recipients when memory gets tight, and step by step when it no longer is, until
// ctx ends.
func (d *Dispatcher) watchMemory(ctx context.Context) {
	if d.opts.Tight == nil {
		return
	}
	tick := time.NewTicker(tightEvery)
	defer tick.Stop()
	var changed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		was, now := d.tight.Load(), d.opts.Now()
		is := was
		switch {
		case d.opts.Tight():
			is, changed = delivery.Tight, now
		case was > 0 && now.Sub(changed) >= relaxEvery:
			is, changed = was-1, now
		}
		if is == was {
			continue
		}
		d.tight.Store(is)
		for _, s := range d.all() {
			s.wakeAll()
		}
	}
}
