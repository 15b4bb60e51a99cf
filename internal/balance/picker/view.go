package picker

import "time"

// View is how a node looks to the Picker.
type View struct {
	ID    string
	State State
	Cause string
	// Usable: it is being picked. Ejected: it failed too often, and is left alone until then; zero if it is not.
	Usable  bool
	Ejected time.Time
	// Share of the picks of the last seconds, from 0 to 1.
	Share float64
	// Weight is below 1 during the slow start.
	Weight float64
	// Free as reported, less what its refusals say.
	Free     float64
	Latency  time.Duration
	InFlight int
	Work     int // of the requests in flight, in single ones
	Streams  int
	// Picks since the node was first seen.
	Picks uint64
	// Failures in a row.
	Failures int
}

// Views returns the nodes as they look now, in the order in which they came.
func (p *Picker) Views(now time.Time) []View {
	p.refresh(now)
	usable := make(map[*node]bool, len(p.usable))
	for _, n := range p.usable {
		usable[n] = true
	}
	out := make([]View, 0, len(p.nodes))
	var sum float64
	for _, n := range p.nodes {
		share := n.picks * decay(now.Sub(n.picksAt), shareWindow)
		sum += share
		out = append(out, View{
			ID: n.id, State: n.state, Cause: n.cause, Usable: usable[n], Ejected: n.until,
			Share: share, Weight: n.weight(now, p.opts.SlowStart),
			Free:    n.free * (1 - n.shed*decay(now.Sub(n.shedAt), shedFall)),
			Latency: time.Duration(n.latency * float64(time.Second)), InFlight: n.inFlight, Work: n.load(), Streams: n.streams,
			Picks: n.total, Failures: n.failures,
		})
	}
	for i := range out {
		if sum > 0 {
			out[i].Share /= sum
		}
	}
	return out
}
