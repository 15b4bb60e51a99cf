// Package policy decides how many nodes a deployment should have.
//
// It is pure: the time, what is known of the nodes and what was decided before come in as values, and a decision and
// the new state come out. Whoever calls it carries decisions out and keeps the state.
package policy

import (
	"errors"
	"fmt"
	"time"
)

// Rules say when nodes come and go. DefaultRules returns some that work; Check says what is wrong with others.
//
// Nodes that keep the journal, the core, neither come nor go: Min and Max count the elastic ones alone. Utilisation is
// of all.
type Rules struct {
	// Min and Max bound the number of elastic nodes.
	Min, Max int

	// High is the share of capacity at which nodes are added, as many as bring it down to Target. A node is removed
	// if the rest would be loaded to no more than Low. Low < Target < High: what lies between them keeps a decision
	// from calling for its opposite.
	High, Target, Low float64

	// Smooth is the time constant of the average that is compared with the above: shorter peaks count for little.
	Smooth time.Duration

	// LowFor is how long the load must have been low without a break before a node is removed.
	LowFor time.Duration

	// UpCooldown is the least time between two additions, DownCooldown that from an addition or a removal to the
	// next removal. An addition waits for no removal.
	UpCooldown, DownCooldown time.Duration

	// StartWithin is how long a node that was asked for counts as capacity to come, DrainWithin how long one that
	// was told to go may take before the next may be told.
	StartWithin, DrainWithin time.Duration

	// StaleAfter is the age at which a node's figures say nothing any more.
	StaleAfter time.Duration

	// RetryAfter is the wait after a decision that could not be carried out. It doubles with each further failure
	// in a row, up to RetryCap.
	RetryAfter, RetryCap time.Duration

	// Capacity is what a node can take.
	Capacity Capacity
}

// Capacity is what 100 % of each load is. What is 0 the nodes say of themselves.
type Capacity struct {
	Connections   float64       // open at a node
	Processors    float64       // used by a node
	AcceptLatency time.Duration // mean time until a message is durable

	// Lag is the age of what is read of the journal, Queue the recipients at a node that wait for a turn. The nodes do
	// not say what these should be.
	Lag   time.Duration
	Queue float64
}

// DefaultRules returns rules for any number of nodes but none to add: Max is 0.
func DefaultRules() Rules {
	return Rules{
		High: 0.8, Target: 0.6, Low: 0.5,
		Smooth: 10 * time.Second, LowFor: 5 * time.Minute,
		UpCooldown: 30 * time.Second, DownCooldown: 5 * time.Minute,
		StartWithin: 2 * time.Minute, DrainWithin: 2 * time.Minute, StaleAfter: 10 * time.Second,
		RetryAfter: 5 * time.Second, RetryCap: 5 * time.Minute,
		Capacity: Capacity{Lag: 10 * time.Second, Queue: 20000},
	}
}

// Check reports what cannot be.
func (r Rules) Check() error {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	check(r.Min >= 0, "min %d: must be 0 or more", r.Min)
	check(r.Max >= r.Min, "max %d: must be min, %d, or more", r.Max, r.Min)
	check(0 < r.Low && r.Low < r.Target && r.Target < r.High && r.High <= 1, "low %g, target %g, high %g: must grow, from above 0 to at most 1", r.Low, r.Target, r.High)
	for _, d := range []struct {
		name string
		time.Duration
	}{
		{"smooth", r.Smooth}, {"low-for", r.LowFor}, {"up-cooldown", r.UpCooldown}, {"down-cooldown", r.DownCooldown},
		{"start-within", r.StartWithin}, {"drain-within", r.DrainWithin}, {"stale-after", r.StaleAfter},
		{"retry-after", r.RetryAfter}, {"capacity-lag", r.Capacity.Lag},
	} {
		check(d.Duration > 0, "%s %s: must be longer than nothing", d.name, d.Duration)
	}
	check(r.RetryCap >= r.RetryAfter, "the longest wait after a failure, %s, must be the first, %s, or more", r.RetryCap, r.RetryAfter)
	check(r.Capacity.Queue > 0, "capacity-queue %g: must be more than 0", r.Capacity.Queue)
	check(r.Capacity.Connections >= 0 && r.Capacity.Processors >= 0 && r.Capacity.AcceptLatency >= 0, "capacities must not be negative")
	return errors.Join(wrong...)
}

// Observation is what is known of the nodes at one time.
type Observation struct {
	// Known says that what follows is all there is. Without it nothing is decided.
	Known bool
	Nodes []Node

	// Removable names the elastic nodes that may be told to go; nil means any. If Chooses is set, whoever removes
	// nodes chooses which by itself.
	Removable []string
	Chooses   bool
}

// Node is one node that is alive.
type Node struct {
	Name string
	Core bool
	// Draining: it is about to stop. What it has to do goes to the others.
	Draining bool
	// Ready: it takes work.
	Ready bool
	// Reported is when it told its figures; zero if it has told none.
	Reported time.Time
	Figures  Figures
}

// Figures are a node's load and, as far as the node itself says it, its capacity.
type Figures struct {
	Lag   time.Duration // age of what is being read of the journal
	Queue float64       // recipients that wait for a turn

	Accept        time.Duration // mean time until a message was durable
	AcceptLatency time.Duration // what it should be at most
	Accepted      float64       // messages a second
	Accepting     float64       // share of what may be on its way to the journal at one time

	CPU, Processors             float64 // used, and there
	Connections, MaxConnections float64

	// StoreAway: the message store does not answer this node.
	StoreAway bool
}

// Kind is what is to be done.
type Kind string

// The kinds of decisions.
const (
	Hold   Kind = "hold"
	Add    Kind = "add"
	Remove Kind = "remove"
)

// Decision is what is to be done, and why.
type Decision struct {
	Kind Kind `json:"kind"`
	// Count is how many nodes to add or remove: one at most to remove.
	Count int `json:"count,omitempty"`
	// Node is the one to drain, "" if whoever removes it chooses.
	Node   string `json:"node,omitempty"`
	Reason string `json:"reason"`

	// Wanted is how many elastic nodes there should be after it.
	Wanted int `json:"wanted"`

	// Signal is what is loaded most, and Utilisation how much, of the capacity that is there. "" if nothing is known.
	Signal      Signal  `json:"signal,omitempty"`
	Utilisation float64 `json:"utilisation"`
	// Live and Elastic are the nodes that do not drain, Starting those that are to come.
	Live     int `json:"live"`
	Elastic  int `json:"elastic"`
	Starting int `json:"starting"`
}

// State is what decisions depend on beside what is seen. It can be kept as JSON and read back by another process: times
// that lie ahead of its clock then count as now.
type State struct {
	// Began is since when the load has been seen without a gap, At when it was last, Load its average.
	Began time.Time          `json:"began,omitzero"`
	At    time.Time          `json:"at,omitzero"`
	Load  map[Signal]float64 `json:"load,omitempty"`
	// LowSince is since when the load is low enough to remove a node; zero if it is not.
	LowSince time.Time `json:"low_since,omitzero"`

	// Added and Removed are the last of each.
	Added   time.Time `json:"added,omitzero"`
	Removed time.Time `json:"removed,omitzero"`

	// Awaited is when each node was asked for that has not been seen since, the oldest first.
	Awaited []time.Time `json:"awaited,omitempty"`
	// Seen is the nodes that are alive.
	Seen map[string]Sighting `json:"seen,omitempty"`
	// Drain is the node that was told to go and has not gone.
	Drain *Drain `json:"drain,omitempty"`

	// Failures is how many decisions in a row could not be carried out. Nothing is tried before RetryAt.
	Failures int       `json:"failures,omitempty"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
}

// Sighting is a node that was seen.
type Sighting struct {
	Since  time.Time `json:"since"`
	Served bool      `json:"served,omitempty"` // it has been ready at some time
}

// Drain is a removal under way.
type Drain struct {
	Node  string    `json:"node,omitempty"` // "" if it was not chosen here
	Since time.Time `json:"since"`
	Live  int       `json:"live"` // nodes that did not drain before
}

// Failed returns the state after a decision that could not be carried out, from the state before it and the one that
// came with it.
func (r Rules) Failed(before, after State, now time.Time) State {
	after.Added, after.Removed, after.Awaited, after.Drain = before.Added, before.Removed, before.Awaited, before.Drain
	after.LowSince = before.LowSince
	wait := r.RetryCap
	if before.Failures < 20 { // beyond, shifting would say nothing
		wait = min(r.RetryAfter<<before.Failures, r.RetryCap)
	}
	after.Failures, after.RetryAt = before.Failures+1, now.Add(wait)
	return after
}

// Carried returns the state after a decision that was carried out.
func (s State) Carried() State {
	s.Failures, s.RetryAt = 0, time.Time{}
	return s
}
