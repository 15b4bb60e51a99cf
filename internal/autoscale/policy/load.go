package policy

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Signal is a kind of load.
type Signal string

// The signals.
const (
	Lag         Signal = "lag"         // how far the reading of the journal is behind
	Queue       Signal = "queue"       // recipients that wait for a turn
	Latency     Signal = "latency"     // how long accepting takes
	Accepting   Signal = "accepting"   // messages on their way to the journal
	CPU         Signal = "cpu"         // processors
	Connections Signal = "connections" // open connections
)

// Signals returns all of them.
func Signals() []Signal { return []Signal{Lag, Queue, Latency, Accepting, CPU, Connections} }

// measure is how much of a load there is and how much there may be.
type measure struct{ used, capacity float64 }

func (m measure) utilisation() float64 {
	if !(m.capacity > 0) {
		return 0
	}
	u := m.used / m.capacity
	if math.IsNaN(u) || u < 0 {
		return 0
	}
	return min(u, mostUtilisation)
}

// mostUtilisation bounds what a figure is believed to say: a backlog of an hour does not ask for hundreds of times the nodes.
const mostUtilisation = 10

// measures adds up what the nodes say. Serving are those whose capacity counts; what the leaving ones still have to do
// goes to these.
//
// What can be divided over nodes is compared with the sum of their capacities. Lag is the worst of all, because its
// messages wait whatever the others do. Latency is the mean over messages: what makes one node slow, such as its disk,
// is not cured by more nodes.
func (c Capacity) measures(serving, leaving []Node) map[Signal]measure {
	m := make(map[Signal]measure)
	add := func(s Signal, used, capacity float64) {
		have := m[s]
		m[s] = measure{have.used + used, have.capacity + capacity}
	}
	lag := time.Duration(0)
	for i, n := range slices.Concat(serving, leaving) {
		f, counts := n.Figures, 1.0
		if i >= len(serving) {
			counts = 0
		}
		lag = max(lag, f.Lag)
		add(Queue, f.Queue, counts*c.Queue)
		add(CPU, f.CPU, counts*or(c.Processors, f.Processors))
		add(Connections, f.Connections, counts*or(c.Connections, f.MaxConnections))
		if counts == 0 {
			continue
		}
		limit := or(c.AcceptLatency.Seconds(), f.AcceptLatency.Seconds())
		add(Latency, f.Accepted*f.Accept.Seconds(), f.Accepted*limit)
		add(Accepting, f.Accepting, 1)
	}
	m[Lag] = measure{lag.Seconds(), c.Lag.Seconds()}
	return m
}

// or returns the first number unless it is 0.
func or(a, b float64) float64 {
	if a != 0 {
		return a
	}
	return b
}

// ofStore says whether a load grows because the store is away, whatever the number of nodes.
func (s Signal) ofStore() bool { return s == Lag || s == Queue || s == Accepting }

// most returns the signal that is loaded most, the first of them if several are.
func most(load map[Signal]float64, except func(Signal) bool) (Signal, float64) {
	signal, top := Signal(""), -1.0
	for _, s := range Signals() {
		if u, ok := load[s]; ok && u > top && !except(s) {
			signal, top = s, u
		}
	}
	return signal, max(top, 0)
}

// smooth takes a new reading into the average. After a gap it begins anew: what was before says nothing of between.
func (r Rules) smooth(s State, reading map[Signal]float64, now time.Time) State {
	passed := now.Sub(s.At)
	if s.At.IsZero() || s.Load == nil || passed > 2*r.StaleAfter {
		s.Began, s.At, s.Load, s.LowSince = now, now, maps.Clone(reading), time.Time{}
		return s
	}
	weight := 1 - math.Exp(-passed.Seconds()/r.Smooth.Seconds())
	load := make(map[Signal]float64, len(reading))
	for signal, u := range reading {
		before, ok := s.Load[signal]
		if !ok {
			before = u
		}
		load[signal] = before + weight*(u-before)
	}
	s.At, s.Load = now, load
	return s
}

// describe says how much of a load there is, in its own unit and as a share of the capacity; when says of which time that is.
func (s Signal) describe(utilisation, capacity float64, when string) string {
	used, share := utilisation*capacity, percent(utilisation)
	switch s {
	case Lag:
		return fmt.Sprintf("the journal is read %.1f s behind %s, %s of what may be", used, when, share)
	case Queue:
		return fmt.Sprintf("%.0f recipients wait for a turn %s, %s of what may", used, when, share)
	case Latency:
		return fmt.Sprintf("accepting takes %s of the time %s that it should take at most", share, when)
	case Accepting:
		return fmt.Sprintf("messages on their way to the journal are %s %s of what may be", share, when)
	case CPU:
		return fmt.Sprintf("%.2f of %.4g processors are used %s, %s", used, capacity, when, share)
	case Connections:
		return fmt.Sprintf("%.0f of %.0f connections are open %s, %s", used, capacity, when, share)
	}
	return share + " " + when
}

func percent(u float64) string { return fmt.Sprintf("%.0f %%", 100*u) }
