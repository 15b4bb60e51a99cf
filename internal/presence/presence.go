// Package presence ties the devices that are connected to this node to the owners of their recipients'
// shards, wherever those are, and the devices of other nodes to the shards that are owned here.
//
// # What must hold
//
// A device is known to the owner of its recipient's shard, or about to be: when a shard changes hands, every
// node ties its devices anew to the new owner. Presence lives in the owner's memory alone, so there is nothing
// that could go stale.
//
// Two nodes talk in sessions. A session begins with the hub's whole list of what it ties to the owner, and
// carries numbered batches in both directions, each confirmed before the next is sent and repeated until it
// is. Whatever goes wrong (a node restarts, a batch is not confirmed in time, the owner knows of no such
// session) ends the session, and a new one begins with the list again. To the owner the end of a session is
// the end of its connections, so that what was in flight to them is sent again.
//
// A hub gives a device only what comes from the node that the leases name as the shard's owner: an owner that
// was paused and does not know yet that it lost the shard does no harm.
package presence

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
)

// Connection is a live connection of a recipient, here or at another node.
type Connection interface {
	// Deliver queues a message. It never blocks and keeps the order of the calls. A connection that cannot
	// take it ends. What the connections of a recipient can share of the message's encoding they keep in e.
	Deliver(m *esh3ar.Message, attempt uint32, e *Encoded)
}

// Encoded is what the connections of one recipient share of a delivery. They are given it one after the
// other.
type Encoded struct {
	Frame  any    // the devices' own
	record []byte // as it goes to other nodes
}

// Tie is a connection's tie to a shard that is owned here. Its methods are those of a device's attachment.
type Tie interface {
	Acknowledge(ids []esh3ar.ID)
	MarkRead(ids []esh3ar.ID)
	Detach(free bool)
}

// Local ties connections to recipients of the shards that this node owns.
type Local interface {
	// Attach ties a connection to its recipient, or reports false when the shard is not owned here. The tie
	// ends by itself when the shard ceases to be.
	Attach(recipient string, c Connection) (Tie, bool)
}

// Owners says which node owns a shard.
type Owners interface {
	// Owner returns the name of the node that owns the shard, or is about to; "" when nobody does.
	Owner(shard uint16) string
}

// Bus takes requests to other nodes.
type Bus interface {
	// Request sends data to a node and returns its answer. An error means that it may or may not have
	// arrived.
	Request(ctx context.Context, node, subject string, data []byte) ([]byte, error)
	// Handle answers what other nodes send to this one under the subject, one request at a time. From is
	// the sender's name. The returned function ends it.
	Handle(subject string, answer func(from string, data []byte) []byte) (end func(), err error)
}

// Options configures a Router. All but the last five are required.
type Options struct {
	Node   string // this node's name
	Shards int
	Local  Local
	Owners Owners
	Bus    Bus

	// Heartbeat is how often a session without anything to say is confirmed. Default 1 s.
	Heartbeat time.Duration
	// Patience is how long a batch may wait for its confirmation, and an owner for a sign of life, before
	// the session has ended. Default 5 s.
	Patience time.Duration
	// OutboxBytes bounds what waits to be sent to one node. When it is reached the session ends. Default
	// 32 MiB.
	OutboxBytes int

	Logger  *slog.Logger          // default slog.Default()
	Metrics prometheus.Registerer // nil for nobody
}

// Router ties devices to owners. Its methods are safe for concurrent use.
type Router struct {
	opts    Options
	metrics *metrics

	lastConn atomic.Uint64
	shards   []place

	mu       sync.Mutex
	uplinks  map[string]*uplink  // to owners, by node
	sessions map[string]*session // from hubs, by node

	startMu  sync.Mutex
	starting []func(context.Context) error // to be run
	start    chan struct{}                 // cap 1: there are some
}

// place is the devices of this node whose recipients are of one shard.
type place struct {
	owner atomic.Pointer[string] // node that devices of this node take messages from

	mu    sync.Mutex
	here  bool // owned by this node, and ready
	conns map[uint64]*Attachment
}

// New returns a Router. Nothing is sent before Run.
func New(o Options) (*Router, error) {
	if o.Node == "" || o.Shards < 1 || o.Local == nil || o.Owners == nil || o.Bus == nil {
		return nil, errors.New("presence: Node, Shards, Local, Owners and Bus are required")
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = time.Second
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	if o.OutboxBytes == 0 {
		o.OutboxBytes = 32 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	r := &Router{
		opts: o, shards: make([]place, o.Shards),
		uplinks: make(map[string]*uplink), sessions: make(map[string]*session), start: make(chan struct{}, 1),
	}
	nobody := ""
	for i := range r.shards {
		r.shards[i].conns = make(map[uint64]*Attachment)
		r.shards[i].owner.Store(&nobody)
	}
	r.metrics = newMetrics(o.Metrics, r)
	return r, nil
}

// Run talks to the other nodes until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	endUp, err := r.opts.Bus.Handle(subjectUp, r.receiveUp)
	if err != nil {
		return err
	}
	defer endUp()
	endDown, err := r.opts.Bus.Handle(subjectDown, r.receiveDown)
	if err != nil {
		return err
	}
	defer endDown()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		tick := time.NewTicker(r.opts.Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-r.start:
				for _, f := range r.started() {
					g.Go(func() error { return f(ctx) })
				}
			case now := <-tick.C:
				r.expire(now)
			}
		}
	})
	for shard := range r.shards {
		r.Moved(uint16(shard))
	}
	return g.Wait()
}

// Attachment is a device's tie to its recipient, wherever that is owned.
type Attachment struct {
	router    *Router
	shard     uint16
	recipient string
	conn      uint64
	device    Connection

	// Guarded by the place's mu.
	tie    Tie     // to this node
	uplink *uplink // or to another
	gone   bool
}

// Attach ties a device of this node to its recipient, named by its normalised form.
func (r *Router) Attach(recipient string, d Connection) *Attachment {
	shard := esh3ar.ShardOf(recipient, len(r.shards))
	a := &Attachment{router: r, shard: shard, recipient: recipient, conn: r.lastConn.Add(1), device: d}
	p := &r.shards[shard]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[a.conn] = a
	r.tie(p, a)
	return a
}

// tie ties a device to the present owner of its shard, if there is one. The caller holds p.mu.
func (r *Router) tie(p *place, a *Attachment) {
	a.tie, a.uplink = nil, nil
	switch owner := *p.owner.Load(); owner {
	case "":
	case r.opts.Node:
		if p.here {
			a.tie, _ = r.opts.Local.Attach(a.recipient, localConnection{a})
		}
	default:
		a.uplink = r.uplink(owner)
		a.uplink.attach(a)
	}
}

// Acknowledge passes on that the device has these messages; the slice is given away.
func (a *Attachment) Acknowledge(ids []esh3ar.ID) { a.receipt(ids, false) }

// MarkRead passes on that the device's user read these messages; the slice is given away.
func (a *Attachment) MarkRead(ids []esh3ar.ID) { a.receipt(ids, true) }

func (a *Attachment) receipt(ids []esh3ar.ID, read bool) {
	p := &a.router.shards[a.shard]
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case a.tie != nil && read:
		a.tie.MarkRead(ids)
	case a.tie != nil:
		a.tie.Acknowledge(ids)
	case a.uplink != nil:
		a.uplink.receipt(a, ids, read)
	}
}

// Detach unties the device. Free says that it is not the device's fault.
func (a *Attachment) Detach(free bool) {
	p := &a.router.shards[a.shard]
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.gone {
		return
	}
	a.gone = true
	delete(p.conns, a.conn)
	switch {
	case a.tie != nil:
		a.tie.Detach(free)
	case a.uplink != nil:
		a.uplink.detach(a, free)
	}
	a.tie, a.uplink = nil, nil
}

// Owned says that the shard begins to be owned by this node and can be attached to, or ceases to be. Calls
// about one shard must not overlap.
func (r *Router) Owned(shard uint16, owned bool) {
	p := &r.shards[shard]
	p.mu.Lock()
	p.here = owned
	for _, a := range p.conns {
		if *p.owner.Load() != r.opts.Node {
			break
		}
		r.tie(p, a)
	}
	p.mu.Unlock()
	r.mu.Lock()
	sessions := slices.Collect(maps.Values(r.sessions))
	r.mu.Unlock()
	for _, s := range sessions {
		s.owned(shard, owned)
	}
}

// Moved says that the shard may have another owner now.
func (r *Router) Moved(shard uint16) {
	p := &r.shards[shard]
	p.mu.Lock()
	defer p.mu.Unlock()
	owner, was := r.opts.Owners.Owner(shard), *p.owner.Load()
	if owner == was {
		return
	}
	// From now on nothing of the old owner's reaches a device.
	p.owner.Store(&owner)
	if was != "" && was != r.opts.Node {
		r.uplink(was).leave(shard)
	}
	for _, a := range p.conns {
		if a.tie != nil {
			a.tie.Detach(true)
		}
		r.tie(p, a)
	}
}

// uplink returns the uplink to a node, which begins to run when it is new.
func (r *Router) uplink(node string) *uplink {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.uplinks[node]
	if u == nil {
		u = newUplink(r, node)
		r.uplinks[node] = u
		r.begin(u.run)
	}
	return u
}

// localConnection is a device of this node as a shard that is owned here sees it.
type localConnection struct{ a *Attachment }

func (c localConnection) Deliver(m *esh3ar.Message, attempt uint32, e *Encoded) {
	if c.a.router.takesFrom(c.a.shard, c.a.router.opts.Node) {
		c.a.device.Deliver(m, attempt, e)
	}
}

// takesFrom reports whether devices take messages of the shard from that node.
func (r *Router) takesFrom(shard uint16, node string) bool {
	return *r.shards[shard].owner.Load() == node
}
