package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
)

// shardKey is what the keys of leases begin with.
const shardKey = "shard."

// Why a lease ends: the cause of its context.
var (
	// ErrHandover: the shard is to go to another node, once its owner has
	// finished in good order.
	ErrHandover = errors.New("the shard goes to another node")

	// ErrLeaseLost: another node may own the shard already.
	ErrLeaseLost = errors.New("the shard's lease is lost")
)

// holder is who holds a shard's lease, as it is stored.
type holder struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation,string"`
	Released    bool   `json:"released,omitempty"`

	revision uint64
}

// free says whether nobody holds the lease.
func (h holder) free() bool { return h.revision == 0 || h.Released }

// LeasesOptions configures Leases.
type LeasesOptions struct {
	Members *Members     // required; must run as long as Leases does
	Shards  int          // how many there are; required
	Logger  *slog.Logger // required
}

// Leases says who may try to own a shard. That a shard has one owner does not
// rest on it, but on the epoch in the store, which every new owner raises: a
// lease keeps the nodes from fighting over shards.
//
// A lease is a key that is changed by compare-and-set alone:
//
//	free ──the node of Assign claims it──► held ──its owner has finished──► free
//	 ▲                                      │ │
//	 └──────────────────────────────────────┘ └─its holder is dead, and the node
//	                                            of Assign claims it──► held
//
// A node asks for shards by Acquire, gets those that Assign gives to it, and
// gives up those that Assign gives to another live node, one at a time. Nodes
// whose store is away are left out as long as there are others.
type Leases struct {
	opts LeasesOptions
	m    *Members

	mu    sync.Mutex
	slots []slot // by shard

	// Of Run alone:
	handing  *handover // the one under way
	members  []string  // whom the shards were assigned to last
	assigned []string  // by shard
}

// slot is what this node has to do with a shard.
type slot struct {
	waiting *waiter
	held    *lease // until it is released
	wrote   uint64 // the revision that this node stored last; what is older is out of date
	busy    bool   // a release is being stored
}

// waiter is an Acquire under way.
type waiter struct {
	ctx     context.Context
	granted chan *lease // cap 1
}

// lease is a context that ends with the lease.
type lease struct {
	clocked
	revision uint64
}

// newLease returns a lease that lasts as long as the others are sure to take this node for alive.
func newLease(parent context.Context, m *Members, revision uint64) *lease {
	return &lease{newClocked(parent, func() bool { return !m.Fresh() }, errNotFresh), revision}
}

// errNotFresh is the cause when nothing but this node's own clock says that the
// lease is lost.
var errNotFresh = fmt.Errorf("%w: no report of this node was stored in time", ErrLeaseLost)

// NewLeases checks the options. Nothing happens before Run.
func NewLeases(o LeasesOptions) (*Leases, error) {
	if o.Members == nil || o.Logger == nil {
		return nil, errors.New("cluster: members and logger are required")
	}
	if o.Shards < 1 || o.Shards > 1<<16 {
		return nil, fmt.Errorf("cluster: %d shards: want 1 to %d", o.Shards, 1<<16)
	}
	return &Leases{opts: o, m: o.Members, slots: make([]slot, o.Shards)}, nil
}

// Acquire waits until this node holds the shard's lease. The returned context
// is a child of ctx and ends when the lease is lost or is to be given up; its
// cause is then ErrLeaseLost or ErrHandover. The function releases the lease: it
// is to be called whatever ended it, when nothing is done for the shard any more,
// and calling it again does nothing.
//
// A shard is to be acquired by one caller at a time. Errors: ctx's.
func (l *Leases) Acquire(ctx context.Context, shard uint16) (context.Context, func(), error) {
	if int(shard) >= len(l.slots) {
		return nil, nil, fmt.Errorf("cluster: shard %d of %d", shard, len(l.slots))
	}
	w := &waiter{ctx: ctx, granted: make(chan *lease, 1)}
	l.mu.Lock()
	s := &l.slots[shard]
	if s.waiting != nil || s.held != nil {
		l.mu.Unlock()
		return nil, nil, fmt.Errorf("cluster: this node acquires or holds shard %d already", shard)
	}
	s.waiting = w
	l.mu.Unlock()
	l.m.tellHolders()
	var granted *lease
	select {
	case granted = <-w.granted:
	case <-ctx.Done():
		l.mu.Lock()
		if s.waiting == w {
			s.waiting = nil
		}
		l.mu.Unlock()
		select {
		case granted = <-w.granted: // in the same moment
		default:
			return nil, nil, context.Cause(ctx)
		}
	}
	return granted, sync.OnceFunc(func() { l.release(shard, granted) }), nil //nolint:contextcheck // a release outlives what it ends
}

// release ends a lease and lets others have the shard.
func (l *Leases) release(shard uint16, held *lease) {
	held.cancel(context.Canceled)
	l.mu.Lock()
	s := &l.slots[shard]
	s.held, s.busy = nil, true
	l.mu.Unlock()
	revision, err := l.storeRelease(shard, held.revision)
	if err != nil && !errors.Is(err, errChanged) && l.m.lost.Err() == nil {
		// The next reconcile sees it again, or the others see this node die.
		l.opts.Logger.Warn("release of a shard was not stored", "shard", shard, "error", err)
	}
	l.mu.Lock()
	s.busy = false
	s.wrote = max(s.wrote, revision)
	l.mu.Unlock()
	l.m.tellHolders()
}

// storeRelease tells the others of a release. It gives up when Members has ended, and when this node stops and there is
// nobody to store it.
func (l *Leases) storeRelease(shard uint16, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(l.m.lost, requestTimeout)
	defer cancel()
	return l.store(ctx, shard, revision, true)
}

// store puts this node in the place of the given revision of a shard's lease.
func (l *Leases) store(ctx context.Context, shard uint16, revision uint64, released bool) (uint64, error) {
	self := l.m.Self()
	value, err := json.Marshal(holder{Node: self.Name, Incarnation: self.Incarnation, Released: released})
	if err != nil {
		return 0, err
	}
	return l.m.leases().replace(ctx, shardKey+strconv.Itoa(int(shard)), value, revision)
}

// Drain tells the others that this node is about to stop, and waits until they
// have got its shards, one after the other, or there is nobody who takes any.
// It returns ctx's error if ctx ends before, and ErrMajorityGone if most of the
// servers have gone, without whom nobody gets anything.
func (l *Leases) Drain(ctx context.Context) error {
	l.m.SetDraining(true)
	for {
		news := l.m.holdersChanged()
		self, v := l.m.Self().Name, l.m.view()
		others := slices.DeleteFunc(owners(v.live), func(name string) bool { return name == self })
		l.mu.Lock()
		held := slices.ContainsFunc(l.slots, func(s slot) bool { return s.held != nil || s.busy })
		l.mu.Unlock()
		if !held || len(others) == 0 {
			return nil
		}
		select {
		case <-news:
		case <-l.m.lost.Done():
			return context.Cause(l.m.lost)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Owner returns the node that holds the shard's lease and is alive, as far as
// this node knows.
func (l *Leases) Owner(shard uint16) (node string, incarnation uint64, ok bool) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	h := l.m.holders[shard]
	n := l.m.nodes[h.Node]
	if h.free() || n == nil || !n.alive || n.Incarnation != h.Incarnation {
		return "", 0, false
	}
	return h.Node, h.Incarnation, true
}

// Changed returns a channel that is closed when what Owner returns may have
// changed for a shard. Take it before looking.
func (l *Leases) Changed() <-chan struct{} { return l.m.holdersChanged() }
