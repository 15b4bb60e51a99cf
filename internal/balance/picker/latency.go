package picker

import (
	"math/bits"
	"time"
)

const (
	// One measured latency counts as at most so many times what was thought, and moves that by at most
	// sampleShare: a single pause of a node says nothing about the next request.
	mostRise    = 4
	sampleShare = 0.1
	// leastLatency, in seconds, is below what a network can do.
	leastLatency = 10e-6
	// sizes is how many sizes of requests are told apart, each of twice the work of the one before.
	sizes = 12
)

// single returns what a single request would have taken where one of that much work took x seconds: a node that is
// twice as slow as others with large requests counts as twice as slow, and one that got the large ones is not slow for it.
func (p *Picker) single(x float64, work int) float64 {
	size := min(bits.Len(uint(max(work, 1)))-1, sizes-1)
	x = max(x, leastLatency)
	if p.usual[size] == 0 {
		p.usual[size] = x
	}
	p.usual[size] += (min(x, mostRise*p.usual[size]) - p.usual[size]) * sampleShare / float64(len(p.nodes))
	smallest := 0 // as long as there were no single ones the smallest stand for them
	for p.usual[smallest] == 0 {
		smallest++
	}
	return x * p.usual[smallest] / p.usual[size]
}

// sample lets the latency of the node, and that of all, follow a measured one.
func (p *Picker) sample(now time.Time, n *node, x float64) {
	x = max(x, leastLatency)
	if n.latency == 0 {
		n.latency, n.sampled = x, now
	}
	constant := p.opts.Fall
	if x > n.latency {
		constant = p.opts.Rise
		x = min(x, mostRise*n.latency)
	}
	old := max(decay(now.Sub(n.sampled), constant), 1-sampleShare)
	n.latency = n.latency*old + x*(1-old)
	n.sampled = now
	if p.typical == 0 {
		p.typical = n.latency
	}
	p.typical += (n.latency - p.typical) * (1 - old) / float64(len(p.nodes))
}
