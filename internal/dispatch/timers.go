package dispatch

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// timers wakes a shard's recipients when Wake asked for it. A recipient stands in the heap at most
// once per time that it was set earlier; what is out of date is dropped when it comes up.
type timers struct {
	now func() time.Time

	mu   sync.Mutex
	heap timerHeap
	wake chan struct{} // cap 1: the earliest time has changed
}

type timerEntry struct {
	at time.Time
	r  *recipient
}

type timerHeap []timerEntry

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timerEntry)) }
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = timerEntry{}
	*h = old[:len(old)-1]
	return last
}

func newTimers(now func() time.Time) *timers {
	return &timers{now: now, wake: make(chan struct{}, 1)}
}

// set asks for a tick of r at that time or earlier. A recipient that finds on its tick that it has
// time yet sets it anew.
func (t *timers) set(r *recipient, at time.Time) {
	t.mu.Lock()
	if !r.timer.IsZero() && !at.Before(r.timer) {
		t.mu.Unlock()
		return
	}
	r.timer = at
	heap.Push(&t.heap, timerEntry{at, r})
	first := t.heap[0].r == r
	t.mu.Unlock()
	if first {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// run ticks until ctx ends.
func (t *timers) run(ctx context.Context, tick func([]*recipient)) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var due []*recipient
	for {
		t.mu.Lock()
		now := t.now()
		wait := time.Hour
		for len(t.heap) > 0 {
			e := t.heap[0]
			if d := e.at.Sub(now); d > 0 {
				wait = d
				break
			}
			heap.Pop(&t.heap)
			if e.r.timer.Equal(e.at) {
				e.r.timer = time.Time{}
				due = append(due, e.r)
			}
		}
		t.mu.Unlock()
		if len(due) > 0 {
			tick(due)
			clear(due)
			due = due[:0]
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
		}
	}
}
