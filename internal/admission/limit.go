package admission

import (
	"time"

	"github.com/esh3artech/esh3ar"
)

// Bounds of a Limit, in messages. Few messages at one time need no limit: a group commit carries them as
// fast as one. And more than the most is more than a server has connections for.
const (
	LeastLimit = 64
	MostLimit  = 1 << 17
)

// How a Limit follows what is measured.
const (
	// smooth is the weight of a new window of usual length: what lasts for half a second counts, a single
	// slow sync or a collection of garbage does not.
	smooth = 0.2
	// release is by what the limit grows, at most, in each window in which the latency is right.
	release = 1.25
	// tolerance is how far above the target latency may be before anybody is refused at all. Once it was
	// above, the limit holds it at the target.
	tolerance = 2
	// bare is how many times the latency without load the target is at least: a commit that has to wait
	// for the one before takes twice its own time.
	bare = 2
	// patience is what the target is raised to at most, however slow the disk is.
	patience = time.Second
)

// Window is what was measured of accepting over some time. Windows follow each other without a gap.
type Window struct {
	Took time.Duration // how long it lasted
	Done int64         // messages whose append ended in it, well or not
	// Latency is the sum of the times that they took, from the request's last byte on.
	Latency time.Duration
	// InFlight is how many messages are under way at the end of it.
	InFlight int64
}

// Limit is the limit on how many messages may be under way to the journal at one time, over all clients. It
// is not a set number: it follows the latency.
//
// By Little's law what is under way is the throughput times the latency. So when accepting takes too long,
// the limit is what the measured throughput carries within the target: throughput * target. More would
// not be accepted any faster, it would only wait longer. While latency is well below the target the limit grows until it
// stands in nobody's way.
//
// The target is the wanted latency, or twice what a message takes when the server has next to nothing to
// do, if that is more. Without that a slow disk, or other work that takes the processors, which no limit makes
// faster, would have nearly everything refused. What a message takes without load is learned when little is under
// way, or when the limit has brought down what is under way and nothing became faster by it.
type Limit struct {
	target time.Duration

	limit   float64
	rate    float64 // messages a second, smoothed
	latency float64 // seconds, smoothed
	idle    float64 // seconds that a message takes without load, 0 if not known
	stalled time.Duration

	// How it was when the limit began to refuse: messages under way, and seconds that each took.
	load, slow float64
}

// window is the usual length of a Window.
const window = 100 * time.Millisecond

// NewLimit returns a Limit that aims at the target latency and refuses nothing before it measured
// anything.
func NewLimit(target time.Duration) Limit { return Limit{target: target, limit: MostLimit} }

// For returns how many messages may be under way, those of all tiers counted, for one more of the tier to
// be taken. Lower tiers come to their limit first.
func (l *Limit) For(t esh3ar.Tier) int64 { return int64(l.limit) * share(t) / 100 }

// Observe takes in what was measured since the last call.
func (l *Limit) Observe(w Window) {
	l.stalled += w.Took
	switch {
	case w.Done == 0 && w.InFlight == 0:
		// Idle: nothing is slow.
		l.stalled, l.latency = 0, l.latency*(1-smooth)
	case w.Done == 0:
		// Whoever is under way takes at least as long as nothing was done. What was done is told by the
		// window that ends the standstill.
		if s := l.stalled.Seconds(); s > l.latency {
			l.latency += (s - l.latency) * smooth
		}
	default:
		l.measure(w)
	}
	target := l.Target().Seconds()
	most := target
	if l.limit == MostLimit {
		most *= tolerance
	}
	carries := l.rate * target
	switch {
	case l.latency > most:
		if l.limit == MostLimit {
			l.load, l.slow = l.rate*l.latency, l.latency
		}
		l.limit = max(min(l.limit, carries), LeastLimit)
	case l.latency <= target/2:
		l.limit = min(l.limit*release, MostLimit)
	case l.latency <= target:
		l.limit = max(l.limit, min(carries, l.limit*release, MostLimit))
	}
}

// measure smooths a window in which something was done. Throughput is measured over the standstill before it, too.
func (l *Limit) measure(w Window) {
	took := l.stalled.Seconds()
	l.stalled = 0
	if took <= 0 {
		return
	}
	rate, mean := float64(w.Done)/took, w.Latency.Seconds()/float64(w.Done)
	if l.rate == 0 {
		l.rate = rate
	}
	weight := min(smooth*took/window.Seconds(), 0.5)
	l.rate += (rate - l.rate) * weight
	l.latency += (mean - l.latency) * smooth
	// Little's law again: the mean number under way is the sum of the latencies over the time.
	under := w.Latency.Seconds() / took
	few := under <= LeastLimit
	switch {
	case l.idle == 0 && few:
		l.idle = mean
	case l.limit < MostLimit && under < l.load/4 && mean > l.slow*3/4:
		// A quarter of the load takes as long as all of it did: it is not the load, and refusing does not help.
		l.idle = mean
	case few, mean < l.idle:
		l.idle += (mean - l.idle) * weight / 2
	}
}

// Target returns the latency that the limit aims at now.
func (l *Limit) Target() time.Duration {
	idle := time.Duration(l.idle * bare * float64(time.Second))
	return max(l.target, min(idle, patience))
}

// Refuses reports whether the limit is in anybody's way, or could be.
func (l *Limit) Refuses() bool { return l.limit < MostLimit }
