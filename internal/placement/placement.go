// Package placement decides at which node of a cluster a device is to be: where one goes that asks a node for a
// connection, and how many a node with too many sends away. Both follow from the same bounds, so that nobody is sent
// back to where it was just sent from. It is pure: no clock, no goroutine, no I/O.
package placement

import (
	"slices"
	"time"
)

// A node is full with so much more than its share of the devices. The margin keeps small clusters, and nodes that are
// about even, from sending devices around. A node that began to shed goes on until it is near its share.
const (
	fullFactor  = 1.25
	fullMargin  = 50
	levelFactor = 1.05
	levelMargin = 10
)

// busyShare is the part of its processors or connections from which on a node is overloaded.
const busyShare = 0.9

// Node is what a node tells of itself.
type Node struct {
	Name string
	// Run is of one start of the node: another one is another node, which begins without devices.
	Run     uint64
	Devices int64
	// Connections are open, of any kind, of at most MaxConnections; 0 for no bound.
	Connections, MaxConnections int64
	// CPU is how many processors are in use, of so many that the node has; 0 if that is not known.
	CPU, Processors float64
	// MemoryTight says that the node is short of memory.
	MemoryTight bool
}

// Overloaded reports whether the node has too much to do, whatever it is, to be given devices.
func (n *Node) Overloaded() bool {
	return n.MemoryTight ||
		n.Processors > 0 && n.CPU >= busyShare*n.Processors ||
		n.MaxConnections > 0 && float64(n.Connections) >= busyShare*float64(n.MaxConnections)
}

// room is the most devices that the node may be given to have, whatever its share; the other connections stay.
func (n *Node) room() (most float64, bounded bool) {
	if n.MaxConnections == 0 {
		return 0, false
	}
	return max(busyShare*float64(n.MaxConnections)-float64(n.Connections-n.Devices), 0), true
}

// Policy is how fast devices are sent away.
type Policy struct {
	// Rate is the most of its devices that a node sheds, as a share, in a minute. One device a second is always
	// allowed. 0 sheds none.
	Rate float64
	// Quiet is how long no node may have come or gone, or begun to stop, before any sheds.
	Quiet time.Duration
	// Patience is how long a node must have been full before it sheds.
	Patience time.Duration
}

// Cluster is what one node knows of the cluster's devices, and decides by. It has one caller at a time.
type Cluster struct {
	policy  Policy
	self    Node
	others  []target
	changed time.Time // when a node came or went, or the first Look

	full     time.Time // since when; zero if it is not
	shedding bool
	stepped  time.Time // of the last Shed
	budget   float64   // devices that may be shed
}

// target is another node that takes devices.
type target struct {
	Node
	sent int64 // there since it last told another number of devices
}

// expected is how many devices the node has or is about to have.
func (t *target) expected() float64 { return float64(t.Devices + t.sent) }

// New returns a Cluster that consists of this node alone.
func New(p Policy) *Cluster { return &Cluster{policy: p} }

// Look takes the nodes' figures: this one's, and those of the others that take devices. Who was sent to a node
// counts there until it tells another number of devices.
func (c *Cluster) Look(now time.Time, self Node, others []Node) {
	type run struct {
		name string
		run  uint64
	}
	before := make(map[run]target, len(c.others))
	for _, t := range c.others {
		before[run{t.Name, t.Run}] = t
	}
	changed := c.changed.IsZero() || len(others) != len(c.others)
	c.self, c.others = self, make([]target, len(others))
	for i, n := range others {
		c.others[i].Node = n
		b, known := before[run{n.Name, n.Run}]
		if known && b.Devices == n.Devices {
			c.others[i].sent = b.sent
		}
		changed = changed || !known
	}
	if changed {
		c.changed = now
	}
}

// shares returns how many devices would be at this node and at each other, if all that are at nodes that take any
// were spread evenly, as far as each has room. Nodes that are overloaded keep what they have and are left out; this one is not.
func (c *Cluster) shares(own int64) (self float64, others []float64) {
	const here = -1
	others = make([]float64, len(c.others))
	set := func(i int, share float64) {
		if i == here {
			self = share
		} else {
			others[i] = share
		}
	}
	node := func(i int) *Node {
		if i == here {
			return &c.self
		}
		return &c.others[i].Node
	}
	left, open := float64(own), []int{here}
	for i := range c.others {
		if t := &c.others[i]; !t.Overloaded() {
			left += t.expected()
			open = append(open, i)
		}
	}
	// Who has less room than the rest would get on average takes what it can; the rest is spread over the rest.
	for again := true; again && len(open) > 0; {
		again = false
		average := left / float64(len(open))
		for k, i := range open {
			if most, bounded := node(i).room(); bounded && most < average {
				set(i, most)
				left -= most
				open = slices.Delete(open, k, k+1)
				again = true
				break
			}
		}
	}
	for _, i := range open {
		set(i, left/float64(len(open)))
	}
	return self, others
}

// bounds are the numbers of devices down to which a node sheds, and above which it is full. One that is overloaded is
// full as soon as it has more than its share.
func (c *Cluster) bounds(share float64) (level, full float64) {
	level = levelFactor*share + levelMargin
	if c.self.Overloaded() {
		return level, level
	}
	return level, fullFactor*share + fullMargin
}

// Place returns the name of the node to which a device that comes is to go, "" for this one, which has so many.
func (c *Cluster) Place(own int64) string {
	share, shares := c.shares(own)
	level, full := c.bounds(share)
	if c.shedding {
		full = level
	}
	if float64(own) <= full {
		return ""
	}
	return c.send(shares, func(t *target) bool { return !t.Overloaded() })
}

// Elsewhere returns the name of the node to which a device is to go that cannot stay, "" if there is no other. An
// overloaded node is better than none.
func (c *Cluster) Elsewhere() string {
	_, shares := c.shares(0)
	if to := c.send(shares, func(t *target) bool { return !t.Overloaded() }); to != "" {
		return to
	}
	return c.send(shares, func(*target) bool { return true })
}

// send chooses the node that is furthest below its share of those that may be chosen, and counts a device there.
func (c *Cluster) send(shares []float64, may func(*target) bool) string {
	best := -1
	missing := func(i int) float64 { return shares[i] - c.others[i].expected() }
	for i := range c.others {
		if may(&c.others[i]) && (best < 0 || missing(i) > missing(best)) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	c.others[best].sent++
	return c.others[best].Name
}

// Shed returns how many of this node's own devices are to be told to go elsewhere now, of those that would. It is called
// a few times a second. None are shed while nodes come and go, while the node is not much above its share, and
// beyond what the others have room for.
func (c *Cluster) Shed(now time.Time, own, movable int64) int {
	passed := min(now.Sub(c.stepped), time.Second)
	c.stepped = now
	share, shares := c.shares(own)
	level, full := c.bounds(share)
	room := 0.0
	for i := range c.others {
		if t := &c.others[i]; !t.Overloaded() {
			room += max(shares[i]-t.expected(), 0)
		}
	}
	if float64(own) <= level || !c.shedding && float64(own) <= full {
		c.full = time.Time{}
	} else if c.full.IsZero() {
		c.full = now
	}
	may := c.policy.Rate > 0 && room >= 1 && now.Sub(c.changed) >= c.policy.Quiet
	c.shedding = may && !c.full.IsZero() && (c.shedding || now.Sub(c.full) >= c.policy.Patience)
	if !c.shedding {
		c.budget = 0
		return 0
	}
	rate := max(c.policy.Rate/60*float64(own), 1) // a second
	c.budget = min(c.budget+rate*passed.Seconds(), rate)
	n := int(max(min(c.budget, float64(own)-level, room, float64(movable)), 0))
	c.budget -= float64(n)
	return n
}

// Excess describes a node that has too many devices.
type Excess struct {
	Share      int64 // what it should have
	Overloaded bool  // it has too much to do beside
}

// Shedding reports whether the node sends devices away, as of the last Shed, and if so why.
func (c *Cluster) Shedding(own int64) (Excess, bool) {
	if !c.shedding {
		return Excess{}, false
	}
	share, _ := c.shares(own)
	return Excess{Share: int64(share), Overloaded: c.self.Overloaded()}, true
}
