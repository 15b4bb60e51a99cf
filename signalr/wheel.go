package signalr

import (
	"sync"
	"time"
)

const wheelSlots = 8

// A wheel drives everything of a server that depends on time, with one
// goroutine and without a timer per connection. Each connection sits in one of
// its slots; the hand visits one slot at each tick, so that every connection
// is asked once a period what is due, and those that came together are spread
// over the period.
type wheel struct {
	server *Server

	mu      sync.Mutex
	slots   [wheelSlots][]*Conn
	next    int           // slot that the next connection gets
	period  time.Duration // of one turn
	running bool
	stopped bool
	quit    chan struct{}
	done    chan struct{}
}

// wheelPlace is where a connection sits.
type wheelPlace struct {
	slot, index int32
}

// The period is an eighth of the shortest interval that must be kept, within
// these bounds.
const (
	minWheelPeriod = 16 * time.Millisecond
	maxWheelPeriod = time.Second
)

func newWheel(s *Server) *wheel {
	return &wheel{server: s, period: maxWheelPeriod, quit: make(chan struct{}), done: make(chan struct{})}
}

// setPeriod makes the wheel turn fast enough for intervals of d.
func (w *wheel) setPeriod(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.period = min(w.period, max(d/8, minWheelPeriod))
}

// start starts the goroutine, if it does not run yet.
func (w *wheel) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.startLocked()
}

func (w *wheel) startLocked() {
	if !w.running && !w.stopped {
		w.running = true
		go w.run()
	}
}

func (w *wheel) add(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.startLocked()
	c.place = wheelPlace{slot: int32(w.next), index: int32(len(w.slots[w.next]))}
	w.slots[w.next] = append(w.slots[w.next], c)
	w.next = (w.next + 1) % wheelSlots
}

func (w *wheel) remove(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.slots[c.place.slot]
	last := len(slot) - 1
	moved := slot[last]
	slot[c.place.index] = moved
	moved.place.index = c.place.index
	slot[last] = nil
	w.slots[c.place.slot] = slot[:last]
}

// connections returns all connections, also those before their handshake.
func (w *wheel) connections() []*Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*Conn
	for _, slot := range w.slots {
		all = append(all, slot...)
	}
	return all
}

func (w *wheel) run() {
	defer close(w.done)
	tick := w.tickInterval()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var visit []*Conn
	for hand := 0; ; hand = (hand + 1) % wheelSlots {
		select {
		case <-w.quit:
			return
		case <-ticker.C:
		}
		if t := w.tickInterval(); t != tick {
			tick = t
			ticker.Reset(tick)
		}
		w.mu.Lock()
		visit = append(visit[:0], w.slots[hand]...)
		w.mu.Unlock()
		now := w.server.now()
		for i, c := range visit {
			c.tick(now)
			visit[i] = nil
		}
		if hand == 0 {
			for _, h := range w.server.allHubs() {
				h.expireNegotiations(now)
			}
		}
	}
}

func (w *wheel) tickInterval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.period / wheelSlots
}

// stop ends the goroutine and waits for it.
func (w *wheel) stop() {
	w.mu.Lock()
	running := w.running
	if !w.stopped {
		w.stopped = true
		close(w.quit)
	}
	w.mu.Unlock()
	if running {
		<-w.done
	}
}
