package hub

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
)

// Reason is why devices are told to reconnect.
type Reason string

// The reasons.
const (
	// ForBalance: this node has more than its share. ForOverload: and too much to do beside.
	ForBalance  Reason = "balance"
	ForOverload Reason = "overload"
	// ForStop: this node is about to stop.
	ForStop Reason = "stop"
	// ForCutOff: this node is cut off from the others, and cannot serve them.
	ForCutOff Reason = "cut_off"
)

// returns reports whether devices that do not negotiate would come back: the node stays.
func (r Reason) returns() bool { return r == ForBalance || r == ForOverload }

// Devices returns how many devices are connected and not told to go, and how many of them negotiated: these follow a
// redirect when they reconnect, while the others stay where they come.
func (h *Hub) Devices() (all, negotiated int64) { return h.present.Load(), h.negotiated.Load() }

// Move tells up to n devices to reconnect and returns how many it told. Those with nothing in flight are first, and among
// them those that have been connected longest, so that none is moved again before the others were. What is in flight to them is sent
// again, and costs no attempt. Devices that did not negotiate are left alone as long as this node stays.
func (h *Hub) Move(n int, why Reason) int {
	if n <= 0 {
		return 0
	}
	told := 0
	for _, c := range firstToGo(h.candidates(why), n) {
		if c.device.move() {
			told++
		}
	}
	h.shed.WithLabelValues(string(why)).Add(float64(told))
	return told
}

// candidate is a device that may be told to reconnect.
type candidate struct {
	device *Device
	busy   bool // something is in flight to it
	age    time.Duration
}

// compare orders candidates by who is rather to go: those with nothing in flight, then those that have been there longest.
func compare(a, b candidate) int {
	switch {
	case a.busy == b.busy:
		return cmp.Compare(b.age, a.age)
	case a.busy:
		return 1
	}
	return -1
}

// candidates are the devices that may be told to reconnect for that reason, in no order.
func (h *Hub) candidates(why Reason) iter.Seq[candidate] {
	return func(yield func(candidate) bool) {
		for c := range h.Connections() {
			d, ok := c.Value().(*Device)
			if !ok || d.moved.Load() || why.returns() && !c.Negotiated() {
				continue // on its way in, or on its way out, or it would be back
			}
			if !yield(candidate{d, d.unanswered.Load() > 0, c.Age()}) {
				return
			}
		}
	}
}

// firstToGo returns the n first of all by compare, in order. It does not sort all, because n is a few of very many, many times a
// second.
func firstToGo(all iter.Seq[candidate], n int) []candidate {
	var first []candidate
	chosen := false // first begins with the n first of those that came so far
	choose := func() {
		slices.SortFunc(first, compare)
		first = first[:min(n, len(first))]
		chosen = len(first) == n
	}
	for c := range all {
		if chosen && compare(c, first[n-1]) >= 0 {
			continue
		}
		if first = append(first, c); len(first) >= 2*n {
			choose()
		}
	}
	choose()
	return first
}

// move tells the device to reconnect, once.
func (d *Device) move() bool {
	if !d.leave() {
		return false
	}
	d.moved.Store(true)
	d.conn.Close("", true)
	return true
}

// leave takes the device out of the numbers, once.
func (d *Device) leave() bool {
	if d.gone.Swap(true) {
		return false
	}
	d.hub.count(d.conn, -1)
	return true
}

// count keeps the numbers of devices.
func (h *Hub) count(c *signalr.Conn, by int64) {
	h.present.Add(by)
	if c.Negotiated() {
		h.negotiated.Add(by)
	}
}

const (
	// emptyTick is how often devices are told.
	emptyTick = 100 * time.Millisecond
	// EmptyLeast is how many devices a second are told at least: fewer are no storm.
	EmptyLeast = 50
)

// Empty tells all devices to reconnect, evenly over a time or in less if they are few (EmptyLeast), also those that come meanwhile,
// and returns how many it told once all have gone or ctx has ended.
func (h *Hub) Empty(ctx context.Context, over time.Duration, why Reason) int {
	tick := time.NewTicker(emptyTick)
	defer tick.Stop()
	all, _ := h.Devices()
	portion := Portion(all, over, emptyTick)
	told := 0
	for h.Len() > 0 {
		told += h.Move(portion, why)
		select {
		case <-ctx.Done():
			return told
		case <-tick.C:
		}
	}
	return told
}

// Portion is how many of so many devices are told to reconnect in each tick, to have told all after a time or in less if they are
// few (EmptyLeast).
func Portion(devices int64, over, tick time.Duration) int {
	ticks := max(int64(over/tick), 1)
	return int(max((devices+ticks-1)/ticks, int64(EmptyLeast*tick/time.Second), 1))
}
