// Package placement decides at which node of a cluster a device is to be: where one goes that asks for a
// connection, and how many a node with too many sends away. Both follow from the same bounds, so that nobody is sent
// back to where it was just sent from. It is pure: no clock, no goroutine, no I/O.
package placement

import (
	"math"
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

// sentHalf is the time after which half of the devices that were sent to a node count there no more. Figures are up to three
// seconds old, so by then most who arrived are among those that it tells, and who has not arrived is hardly to be waited for.
const sentHalf = 2 * time.Second

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
	// Overdue says that the node should have told more by now: it may be dead.
	Overdue bool
}

// Overloaded reports whether the node has too much to do, whatever it is, to be given devices.
func (n *Node) Overloaded() bool {
	return n.MemoryTight ||
		n.Processors > 0 && n.CPU >= busyShare*n.Processors ||
		n.MaxConnections > 0 && float64(n.Connections) >= busyShare*float64(n.MaxConnections)
}

// takes reports whether the node is to be given devices.
func (n *Node) takes() bool { return !n.Overdue && !n.Overloaded() }

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
	nodes   []target  // this one, then the others that take devices
	looked  time.Time // at the last Look
	changed time.Time // when a node came or went, or the first Look

	full     time.Time // since when; zero if it is not
	shedding bool
	stepped  time.Time // of the last Shed
	budget   float64   // devices that may be shed
}

// target is a node that takes devices.
type target struct {
	Node
	// sent is how many devices were sent there of late, the fewer the longer ago. Of these, coming are not among those that it
	// tells: who has come since counts as one of them.
	sent, coming float64
}

// expected is how many devices the node has or is about to have.
func (t *target) expected() float64 { return float64(t.Devices) + t.coming }

// told returns the target as the node now tells of itself, when a part of those who were sent there still counts.
func (t *target) told(n Node, left float64) target {
	come := float64(max(n.Devices-t.Devices, 0))
	return target{Node: n, sent: t.sent * left, coming: max(t.coming-come, 0) * left}
}

// claim says how much a node with that share is due the next device: it is the one with the highest. Of many devices that come between
// two figures each node gets in proportion to what it lacked at the first, so that nodes which send devices without knowing of each
// other do not all send them to the same, and the first goes to the one that lacks most. Who has got what it lacked comes after all others.
func (t *target) claim(share float64) float64 {
	most := levelFactor*share + 1
	if room, bounded := t.room(); bounded {
		most = min(most, room)
	}
	lacks := most - float64(t.Devices)
	if t.sent >= lacks {
		return lacks - t.sent
	}
	return lacks / (t.sent + 1)
}

// New returns a Cluster that consists of this node alone.
func New(p Policy) *Cluster { return &Cluster{policy: p, nodes: make([]target, 1)} }

// self is this node.
func (c *Cluster) self() *target { return &c.nodes[0] }

// Look takes the nodes' figures: this one's, and those of the others that take devices.
func (c *Cluster) Look(now time.Time, self Node, others []Node) {
	type run struct {
		name string
		run  uint64
	}
	left := math.Exp2(-float64(max(now.Sub(c.looked), 0)) / float64(sentHalf))
	before := make(map[run]target, len(c.nodes))
	for _, t := range c.nodes[1:] {
		before[run{t.Name, t.Run}] = t
	}
	changed := c.changed.IsZero() || len(others) != len(c.nodes)-1
	nodes := make([]target, 1, 1+len(others))
	nodes[0] = c.self().told(self, left)
	for _, n := range others {
		b, known := before[run{n.Name, n.Run}]
		nodes = append(nodes, b.told(n, left))
		changed = changed || !known
	}
	c.nodes, c.looked = nodes, now
	if changed {
		c.changed = now
	}
}

// shares returns how many devices would be at each node, if all that are at nodes that take any were spread evenly, as far as each
// has room. This node has so many. Others that are to be given none keep what they have and are left out; this one is not.
func (c *Cluster) shares(own float64) []float64 { return c.even(own, []int{0}) }

// sharesOfOthers is shares without this node and what it has.
func (c *Cluster) sharesOfOthers() []float64 { return c.even(0, nil) }

// even spreads so many devices, and those of the others that take any, over these nodes and the others.
func (c *Cluster) even(left float64, open []int) []float64 {
	shares := make([]float64, len(c.nodes))
	for i := 1; i < len(c.nodes); i++ {
		if t := &c.nodes[i]; t.takes() {
			left += t.expected()
			open = append(open, i)
		}
	}
	// Who has less room than the rest would get on average takes what it can; the rest is spread over the rest.
	for again := true; again && len(open) > 0; {
		again = false
		average := left / float64(len(open))
		for k, i := range open {
			if most, bounded := c.nodes[i].room(); bounded && most < average {
				shares[i] = most
				left -= most
				open = slices.Delete(open, k, k+1)
				again = true
				break
			}
		}
	}
	for _, i := range open {
		shares[i] = left / float64(len(open))
	}
	return shares
}

// bounds are the numbers of devices down to which a node sheds, and above which it is full. One that is overloaded is
// full as soon as it has more than its share.
func (c *Cluster) bounds(share float64) (level, full float64) {
	level = levelFactor*share + levelMargin
	if c.self().Overloaded() {
		return level, level
	}
	return level, fullFactor*share + fullMargin
}

// Spread returns the name of the node to which a device is to go that has asked for no node in particular. It may be this
// one. It is "" before the first Look.
func (c *Cluster) Spread() string {
	if self := c.self(); self.takes() && !c.shedding {
		return send(c.shares(self.expected()), c.nodes, (*Node).takes)
	}
	if to := c.other((*Node).takes); to != "" {
		return to
	}
	return c.self().Name // as busy as the others
}

// Place returns the name of the node to which a device is to go that has asked for this one, which has so many; "" if it may stay.
func (c *Cluster) Place(own int64) string {
	level, full := c.bounds(c.shares(float64(own))[0])
	if c.shedding {
		full = level
	}
	if float64(own) <= full {
		return ""
	}
	return c.other((*Node).takes)
}

// Elsewhere returns the name of the node to which a device is to go that cannot stay, "" if there is no other. One that
// would rather have none is better than none.
func (c *Cluster) Elsewhere() string {
	if to := c.other((*Node).takes); to != "" {
		return to
	}
	return c.other(func(*Node) bool { return true })
}

// other is send to another node.
func (c *Cluster) other(may func(*Node) bool) string {
	return send(c.sharesOfOthers()[1:], c.nodes[1:], may)
}

// send returns the name of the node that is due the next device, of those that may be chosen and have such shares, and counts it
// there; "" if none may.
func send(shares []float64, nodes []target, may func(*Node) bool) string {
	best, highest := -1, math.Inf(-1)
	for i := range nodes {
		if claim := nodes[i].claim(shares[i]); may(&nodes[i].Node) && claim > highest {
			best, highest = i, claim
		}
	}
	if best < 0 {
		return ""
	}
	nodes[best].sent++
	nodes[best].coming++
	return nodes[best].Name
}

// Shed returns how many of this node's own devices are to be told to go elsewhere now, of those that would. It is called
// a few times a second. None are shed while nodes come and go, while the node is not much above its share, and
// beyond what the others have room for.
func (c *Cluster) Shed(now time.Time, own, movable int64) int {
	passed := min(now.Sub(c.stepped), time.Second)
	c.stepped = now
	shares := c.shares(float64(own))
	level, full := c.bounds(shares[0])
	room := 0.0
	for i := 1; i < len(c.nodes); i++ {
		if t := &c.nodes[i]; t.takes() {
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
	share := c.shares(float64(own))[0]
	return Excess{Share: int64(share), Overloaded: c.self().Overloaded()}, true
}
