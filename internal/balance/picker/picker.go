// Package picker decides which node a request goes to. It is pure: time, chance and what became of
// requests come in as values, so that it can be simulated and replayed. A Picker has one caller at a time.
//
// Two nodes are drawn at random, and the one that is expected to answer sooner is preferred, the more so the greater the
// difference. What is expected follows from the node's latency, which is quick to rise and slow to fall
// (peak-EWMA), from the work that it has, and from the capacity that it says is free. A request may be as much work as
// many, and is expected to take as long as others of its size do.
//
// The states of a node, and who moves it on:
//
//	unknown ──Report──► ready ⇄ degraded       the node's own word, by Report
//	   │                 │  ▲                  (after Set, a restart of this process too: unknown again)
//	   └──Report──► unready, draining ──Report─┘
//
//	in ──Done(Failed) several times in a row──► ejected ──time──► in, on probation, with a slow start
package picker

import (
	"math"
	"slices"
	"time"
)

// State is what a node says of itself, or what must be thought of it as it does not answer.
type State uint8

// The states. Requests go to nodes that are Ready or Degraded. Only when there is none are Unknown and
// Unready ones tried, because a wrong idea of everybody is likelier than the end of all. A Draining node gets
// nothing new in any case.
const (
	Unknown  State = iota // not heard of yet
	Ready                 // it serves
	Degraded              // it serves and keeps its promises, but not all of it works
	Unready               // it says that it cannot serve, or does not answer
	Draining              // it is about to stop
)

// String returns the state's name.
func (s State) String() string {
	return [...]string{"unknown", "ready", "degraded", "unready", "draining"}[s]
}

// Options tune a Picker. DefaultOptions returns values that work.
type Options struct {
	// Rise and Fall are the time constants with which a node's latency follows what is measured, upwards and
	// downwards.
	Rise, Fall time.Duration
	// SlowStart is how long a node that comes, or comes back, takes to get its full share.
	SlowStart time.Duration
	// Failures in a row eject a node; one is enough while it is on probation.
	Failures int
	// EjectBase is how long the first ejection lasts. It doubles with each that follows, up to EjectMax,
	// and is forgotten by halves for every EjectMax without one.
	EjectBase, EjectMax time.Duration
}

// DefaultOptions returns the options that are used unless something else is asked for.
func DefaultOptions() Options {
	return Options{
		Rise: 300 * time.Millisecond, Fall: time.Second,
		SlowStart: 10 * time.Second,
		Failures:  5, EjectBase: 2 * time.Second, EjectMax: time.Minute,
	}
}

const (
	// leastFree is what a node counts as having free when it says that it has less: it still gets a little,
	// so that it is seen when it recovers.
	leastFree = 0.05
	// leastWeight is the share of a full one that a node begins its slow start with.
	leastWeight = 0.1
	// shedStep and shedFall: how much one refusal for overload takes of what counts as free, and the time
	// constant with which it is given back.
	shedStep = 0.05
	shedFall = 2 * time.Second
	// leastLeft is what counts as free at a node that refuses everything.
	leastLeft = 0.01
	// shareWindow is the time constant of the shares that View tells.
	shareWindow = 10 * time.Second
)

// Picker knows the nodes and picks among them.
type Picker struct {
	opts  Options
	nodes []*node
	byID  map[string]*node

	typical float64 // latency of all nodes, smoothed; 0 as long as none is known

	// usual is how many seconds requests of a size take, smoothed over all nodes; 0 as long as none is known. Index 0 is a
	// single request, and each further one twice the work.
	usual [sizes]float64

	// usable are the nodes that are picked from; stale is the time from which on that may be another set, or
	// zero if it is now.
	usable []*node
	stale  time.Time
	fresh  bool
}

// node is one node. Invariant: inFlight and streams are the picks whose Done is to come, arriving those of inFlight whose
// Arrived is to come, too, and work is that of the others in flight.
type node struct {
	id   string
	hash uint64
	gone bool // no longer in the set; kept while it has requests

	state State
	cause string
	free  float64 // (0, 1], as reported

	latency  float64 // of a single request, in seconds, as of sampled
	sampled  time.Time
	inFlight int
	arriving int
	work     int // of the requests in flight that are not arriving, in single ones
	streams  int
	progress time.Time // when a request ended last, or the first of those that wait for it was there

	rampFrom time.Time // beginning of the slow start, zero if there is none

	failures  int // in a row
	probation bool
	ejections float64 // decayed as of ejected
	ejected   time.Time
	until     time.Time // end of the ejection, zero if it is not ejected

	shed   float64 // as of shedAt
	shedAt time.Time

	picks   float64 // decayed as of picksAt
	picksAt time.Time
	total   uint64
}

// New returns a Picker without nodes.
func New(o Options) *Picker {
	return &Picker{opts: o, byID: make(map[string]*node)}
}

// Set makes ids the set of nodes, in which no id stands twice. Those that are new are Unknown until
// Report; those that are no longer in it get nothing any more, and their requests under way end as usual.
func (p *Picker) Set(now time.Time, ids []string) {
	first := len(p.nodes) == 0
	for _, n := range p.nodes {
		n.gone = true
	}
	for _, id := range ids {
		n := p.byID[id]
		if n == nil {
			n = &node{id: id, hash: hashString(id), free: 1, sampled: now, picksAt: now, shedAt: now, ejected: now}
			if !first {
				n.rampFrom = now
			}
			p.byID[id] = n
			p.nodes = append(p.nodes, n)
		}
		n.gone = false
	}
	p.forget()
	p.fresh = false
}

// forget drops the nodes that are gone and have no requests any more.
func (p *Picker) forget() {
	p.nodes = slices.DeleteFunc(p.nodes, func(n *node) bool {
		if n.gone && n.inFlight+n.streams == 0 {
			delete(p.byID, n.id)
			return true
		}
		return false
	})
}

// Health is what is known of a node beside its answers.
type Health struct {
	State State
	// Free is the share of its capacity that is free, from 0 to 1.
	Free float64
	// Cause says why it is in that state, for people; "" where there is nothing to say.
	Cause string
}

// Report notes what a node says of itself. An unknown id is ignored.
func (p *Picker) Report(now time.Time, id string, h Health) {
	n := p.byID[id]
	if n == nil {
		return
	}
	if serves(h.State) && !serves(n.state) && (n.state != Unknown || !n.rampFrom.IsZero()) {
		n.rampFrom = now
	}
	if h.State != n.state {
		p.fresh = false
	}
	n.state, n.cause, n.free = h.State, h.Cause, min(max(h.Free, leastFree), 1)
}

func serves(s State) bool { return s == Ready || s == Degraded }

// Request is what a node is picked for.
type Request struct {
	// Chance is 64 random bits.
	Chance uint64
	// Stream says that it may last long (an event stream, a WebSocket): it goes to the node of two with
	// fewer of them, and its duration is no latency.
	Stream bool
	// Work is how much there is to do for it, in what there is for a single message; less than 1 counts as 1. Of a Stream
	// it says nothing.
	Work int
	// Arriving says that its body is still to come. Until Arrived it counts as 1, and the node is not awaited, because there is
	// nothing to do for it yet; the client may never send the rest. Of a Stream it says nothing.
	Arriving bool
	// Affinity, if it is not 0, is the hash of what all requests of one kind share that must meet at one node. They
	// do as long as the usable nodes are the same, whoever picks.
	Affinity uint64
	// Tried are the nodes that are not to be picked, because they failed with it.
	Tried []string
}

// Pick returns the node for a request. It reports false when there is none, or none that was not tried
// yet. Each pick is followed by one Done.
func (p *Picker) Pick(now time.Time, r Request) (id string, ok bool) {
	p.refresh(now)
	n := p.choose(now, r)
	if n == nil {
		return "", false
	}
	if r.Stream {
		n.streams++
	} else {
		if n.inFlight == n.arriving {
			n.progress = now
		}
		n.inFlight++
		if r.Arriving {
			n.arriving++
		} else {
			n.work += max(r.Work, 1)
		}
	}
	n.picks = n.picks*decay(now.Sub(n.picksAt), shareWindow) + 1
	n.picksAt = now
	n.total++
	return n.id, true
}

// Arrived notes that the whole body of a request that was picked for as Arriving, and is no Stream, has gone to the node. From then on
// it counts as that much work.
func (p *Picker) Arrived(now time.Time, id string, work int) {
	n := p.byID[id]
	if n == nil {
		return
	}
	if n.inFlight == n.arriving {
		n.progress = now
	}
	n.arriving--
	n.work += max(work, 1)
}

// Has reports whether there is a node to pick that was not tried.
func (p *Picker) Has(now time.Time, tried []string) bool {
	p.refresh(now)
	return slices.ContainsFunc(p.usable, func(n *node) bool { return !slices.Contains(tried, n.id) })
}

func (p *Picker) choose(now time.Time, r Request) *node {
	if r.Affinity != 0 {
		return p.byAffinity(r)
	}
	d := dice(r.Chance)
	a := p.draw(now, &d, r.Tried)
	if a == nil {
		return nil
	}
	b := p.drawOther(now, &d, r.Tried, a)
	if b == nil {
		return a
	}
	x, y := p.cost(now, a), p.cost(now, b)
	if r.Stream {
		x, y = float64(a.streams+1)/a.weight(now, p.opts.SlowStart), float64(b.streams+1)/b.weight(now, p.opts.SlowStart)
	}
	// Preferring by the square of the ratio and not by the sign of the difference keeps equal nodes equal in
	// spite of noise, and never lets a slow node out of sight.
	if d.float()*(x*x+y*y) < y*y {
		return a
	}
	return b
}

// draw draws one of the usable nodes that were not tried, by their weights.
func (p *Picker) draw(now time.Time, d *dice, tried []string) *node {
	var sum float64
	for _, n := range p.usable {
		if !slices.Contains(tried, n.id) {
			sum += n.weight(now, p.opts.SlowStart)
		}
	}
	x := d.float() * sum
	var last *node
	for _, n := range p.usable {
		if slices.Contains(tried, n.id) {
			continue
		}
		last = n
		if x -= n.weight(now, p.opts.SlowStart); x < 0 {
			break
		}
	}
	return last
}

// drawOther draws one of the other usable nodes. In its slow start a node is passed over as often as its
// weight says, and the first choice stands.
func (p *Picker) drawOther(now time.Time, d *dice, tried []string, not *node) *node {
	count := 0
	for _, n := range p.usable {
		if n != not && !slices.Contains(tried, n.id) {
			count++
		}
	}
	if count == 0 {
		return nil
	}
	i := d.below(count)
	for _, n := range p.usable {
		if n == not || slices.Contains(tried, n.id) {
			continue
		}
		if i == 0 {
			if w := n.weight(now, p.opts.SlowStart); w < 1 && d.float() >= w {
				return nil
			}
			return n
		}
		i--
	}
	return nil
}

// byAffinity picks by highest random weight: a node that comes or goes moves only what is its own.
func (p *Picker) byAffinity(r Request) *node {
	var best *node
	var most uint64
	for _, n := range p.usable {
		if slices.Contains(r.Tried, n.id) {
			continue
		}
		d := dice(n.hash ^ r.Affinity)
		if w := d.next(); best == nil || w > most {
			best, most = n, w
		}
	}
	return best
}

// weight is how much of its full share a node is to get, by its slow start.
func (n *node) weight(now time.Time, slowStart time.Duration) float64 {
	if n.rampFrom.IsZero() {
		return 1
	}
	w := leastWeight + (1-leastWeight)*now.Sub(n.rampFrom).Seconds()/slowStart.Seconds()
	if !(w < 1) { // the ramp is over, or there is none
		n.rampFrom = time.Time{}
		return 1
	}
	return max(w, leastWeight)
}

// load returns the work at the node, in which a request whose body is still to come counts as a single one.
func (n *node) load() int { return n.work + n.arriving }

// cost is the time that one more request is expected to take at a node, in relation to others.
func (p *Picker) cost(now time.Time, n *node) float64 {
	latency, waiting := n.latency, n.inFlight-n.arriving
	if latency == 0 {
		latency = p.typical // it draws neither all requests nor none
	} else if waiting == 0 {
		// What is thought of a node without requests is slowly forgotten; else a slow one would hardly be
		// tried again.
		latency = p.typical + (latency-p.typical)*decay(now.Sub(n.sampled), p.opts.Fall)
	}
	if waiting > 0 {
		// A node from which nothing comes back is as slow as that, long before its requests are given up. What is much
		// work is expected to take longer.
		latency = max(latency, now.Sub(n.progress).Seconds()*float64(waiting)/float64(n.work))
	}
	free := n.free * (1 - n.shed*decay(now.Sub(n.shedAt), shedFall))
	return max(latency, leastLatency) * (float64(n.load())/n.weight(now, p.opts.SlowStart) + 1) / max(free, leastLeft)
}

// Result is what became of a request at a node.
type Result uint8

// The results.
const (
	// Served: the node answered.
	Served Result = iota
	// Overloaded: the node answered that it has too much to do. That is no failure.
	Overloaded
	// Failed: it could not be reached, hung up, or took too long.
	Failed
	// Void: nothing can be learned from it, because the client gave up or because it was a stream.
	Void
)

// Outcome is the end of a request.
type Outcome struct {
	Result Result
	// Latency is the time until the answer's header; counted when Served, unless it is Untimed or Arriving.
	Latency time.Duration
	// Untimed says that the time was not that of a request of its size, because the answer may not have needed the body.
	Untimed bool
	// Arriving says that the request was picked for as Arriving, and there was no Arrived.
	Arriving bool
	// Stream and Work as in the Request.
	Stream bool
	Work   int
}

// Done notes the end of a request at a node that was picked for it.
func (p *Picker) Done(now time.Time, id string, o Outcome) {
	n := p.byID[id]
	if n == nil {
		return
	}
	if o.Stream {
		n.streams--
	} else {
		n.inFlight--
		if o.Arriving {
			n.arriving--
		} else {
			n.work -= max(o.Work, 1)
		}
		n.progress = now
	}
	switch o.Result {
	case Served:
		n.failures, n.probation = 0, false
		if !o.Stream && !o.Untimed && !o.Arriving {
			p.sample(now, n, p.single(o.Latency.Seconds(), o.Work))
		}
	case Overloaded:
		n.failures, n.probation = 0, false
		shed := n.shed * decay(now.Sub(n.shedAt), shedFall)
		n.shed, n.shedAt = shed+(1-shed)*shedStep, now
	case Failed:
		n.failures++
		if n.failures >= p.opts.Failures || n.probation {
			p.eject(now, n)
		}
	}
	if n.gone {
		p.forget()
	}
}

// eject takes a node out for a while, unless that would leave less than half of those that serve: so many bad nodes
// are rather a fault of the network or of ours, and the rest would not stand the load.
func (p *Picker) eject(now time.Time, n *node) {
	if !n.until.IsZero() && now.Before(n.until) {
		return
	}
	out, all := 0, 0
	for _, o := range p.nodes {
		if o.gone || o.state == Draining {
			continue
		}
		all++
		if !o.until.IsZero() && now.Before(o.until) {
			out++
		}
	}
	if 2*(out+1) > all {
		return
	}
	n.ejections *= math.Pow(0.5, now.Sub(n.ejected).Seconds()/p.opts.EjectMax.Seconds())
	length := time.Duration(float64(p.opts.EjectBase) * math.Pow(2, math.Round(min(n.ejections, 30))))
	n.ejections++
	n.ejected = now
	n.until = now.Add(min(length, p.opts.EjectMax))
	n.failures = 0
	p.fresh = false
}

// refresh brings usable up to date.
func (p *Picker) refresh(now time.Time) {
	if p.fresh && (p.stale.IsZero() || now.Before(p.stale)) {
		return
	}
	p.usable, p.stale, p.fresh = p.usable[:0], time.Time{}, true
	for _, n := range p.nodes {
		if !n.until.IsZero() && !now.Before(n.until) {
			n.until, n.probation, n.rampFrom = time.Time{}, true, now
			n.latency = 0
		}
		if !n.until.IsZero() && (p.stale.IsZero() || n.until.Before(p.stale)) {
			p.stale = n.until
		}
		if !n.gone && serves(n.state) && n.until.IsZero() {
			p.usable = append(p.usable, n)
		}
	}
	if len(p.usable) > 0 {
		return
	}
	for _, n := range p.nodes {
		if !n.gone && n.state != Draining {
			p.usable = append(p.usable, n)
		}
	}
}

// decay is what is left of something after a time.
func decay(d, constant time.Duration) float64 {
	if d <= 0 {
		return 1
	}
	return math.Exp(-float64(d) / float64(constant))
}
