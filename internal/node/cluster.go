package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/hub"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/presence"
)

// clusterInFlight is how many batches of a partition are under way to a replicated stream, which waits for
// other machines.
const clusterInFlight = 8

// peers is what a node has that is one of several.
type peers struct {
	members *cluster.Members
	leases  *cluster.Leases
	bus     *cluster.Bus
	router  *presence.Router
	places  *places

	committed committed
	takers    atomic.Int64 // live nodes that do not drain
	began     atomic.Pointer[time.Time]
}

// joinTime is how long a node that starts may take to join the others before that is something to look at.
const joinTime = 15 * time.Second

// starts reports whether the node has only just begun to join the others, or has not yet.
func (p *peers) starts(now time.Time) bool {
	began := p.began.Load()
	return began == nil || now.Sub(*began) < joinTime
}

// takers returns how many nodes take calls of clients.
func (n *Node) takers() int {
	if n.peers == nil {
		return 1
	}
	return int(n.peers.takers.Load())
}

// clustered reports whether the node is one of several.
func (c *Config) clustered() bool { return c.ClusterName != "" }

// openNATS starts the NATS server of this process, or says how to reach the servers elsewhere.
func (n *Node) openNATS(ctx context.Context) (cluster.Connector, error) {
	cfg := &n.cfg
	if len(cfg.NATSURL) > 0 {
		for _, monitor := range cfg.NATSMonitor {
			switch err := cluster.CheckSync(ctx, monitor); {
			case errors.Is(err, cluster.ErrNotSynced):
				return nil, fmt.Errorf("journal: %w", err)
			case err != nil:
				n.log.Warn("whether a NATS server syncs each write could not be found out", "err", err)
			}
		}
		return cluster.External{URLs: cfg.NATSURL, Token: string(cfg.ClusterSecret), TLS: cfg.clusterTLS()}, nil
	}
	o := cluster.Options{
		Name: "esh3ar",
		Dir:  filepath.Join(cfg.Data, "journal"),
		// Every stream may grow to the journal's size; the disk reserve refuses before the disk is full.
		MaxStore:  int64(cfg.JournalSize) * int64(cfg.Shards),
		MaxMemory: 64 << 20,
		Logger:    n.log,
	}
	if cfg.clustered() {
		o.Name = cfg.NodeName
		o.MaxStore += 64 << 20 // what the nodes tell each other
		// NATS takes two servers or more for a cluster: one that keeps the journal alone is none.
		if len(cfg.Routes) > 1 {
			o.Peers = &cluster.Peers{
				Cluster: cfg.ClusterName, Listen: cfg.ClusterListen, Advertise: cfg.ClusterAdvertise, Routes: cfg.Routes,
				Secret: string(cfg.ClusterSecret), TLS: cfg.clusterTLS(),
			}
		}
		if cfg.ClientListen != "" {
			o.Clients = &cluster.Clients{Listen: cfg.ClientListen, Token: string(cfg.ClusterSecret), TLS: cfg.clusterTLS()}
		}
	}
	s, err := startServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	n.nats = s
	return s, nil
}

// startServer starts a NATS server, unless ctx ends before it has: then it is closed when it has started, which nobody waits
// for. It may have much to recover, and whoever is told to stop meanwhile is to end as soon as otherwise.
func startServer(ctx context.Context, o cluster.Options) (*cluster.Server, error) {
	type outcome struct {
		server *cluster.Server
		err    error
	}
	started := make(chan outcome, 1)
	go func() {
		s, err := cluster.Start(o)
		started <- outcome{s, err}
	}()
	select {
	case o := <-started:
		return o.server, o.err
	case <-ctx.Done():
	}
	go func() {
		if o := <-started; o.err == nil {
			_ = o.server.Close() // nobody is there to be told
		}
	}()
	return nil, context.Cause(ctx)
}

func (c *Config) clusterTLS() *cluster.TLSFiles {
	if c.ClusterCert == "" && c.ClusterCA == "" {
		return nil
	}
	return &cluster.TLSFiles{Cert: c.ClusterCert, Key: c.ClusterKey, CA: c.ClusterCA}
}

// replicas is how many servers keep each stream.
func (c *Config) replicas() int {
	switch {
	case !c.clustered():
		return 1
	case c.Replicas > 0:
		return c.Replicas
	case len(c.Routes) == 1:
		return 1
	}
	return clusterReplicas
}

// join makes the node one of several. The dispatcher is told what it owns by the leases, and the router takes
// the place of the hub's owner.
func (n *Node) join(connect cluster.Connector) (err error) {
	cfg := &n.cfg
	p := &peers{committed: committed{shards: make(map[uint16]struct{}), wake: make(chan struct{}, 1)}}
	if p.members, err = cluster.NewMembers(cluster.MembersOptions{
		NATS: connect, Logger: n.log, Name: cfg.NodeName, Address: cfg.advertised(), Replicas: cfg.replicas(),
		Roles: cfg.roles(), Store: n.store.Reach, Commits: n.store.Commits, Load: n.memberLoad, Streams: jetstream.StreamNames(cfg.Shards),
	}); err != nil {
		return err
	}
	if p.leases, err = cluster.NewLeases(cluster.LeasesOptions{Members: p.members, Shards: cfg.Shards, Logger: n.log}); err != nil {
		return err
	}
	if p.bus, err = cluster.NewBus(connect, cfg.NodeName); err != nil {
		return err
	}
	n.health.Registry().MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "esh3ar_store_away",
		Help: "Whether the store does not answer this node though it does others, which then own its shards.",
	}, func() float64 {
		if p.members.StoreAway() {
			return 1
		}
		return 0
	}))
	p.places = newPlaces(n)
	n.peers = p
	return nil
}

// inCluster has the dispatcher own what the leases say, and tell the others of what it stored.
func (n *Node) inCluster(o dispatch.Options) dispatch.Options {
	p := n.peers
	if p == nil {
		return o
	}
	o.End = n.journal.End
	o.Leases, o.Barrier, o.Connected, o.StoreAway = p.leases, n.journal.Barrier, p.members.Fresh, p.members.StoreAway
	o.Owned = func(shard uint16, owned bool) { p.router.Owned(shard, owned) }
	o.Committed = func(shard uint16) {
		n.notify.Committed(shard)
		p.committed.add(shard)
	}
	return o
}

// newRouter makes the router, once there is a dispatcher.
func (n *Node) newRouter(metrics prometheus.Registerer) (err error) {
	n.peers.router, err = presence.New(presence.Options{
		Node: n.cfg.NodeName, Shards: n.cfg.Shards, Local: local{n.dispatch}, Owners: owners{n.peers.leases}, Bus: n.peers.bus,
		Logger: n.log, Metrics: metrics,
	})
	return err
}

// leaving reports whether the NATS server of that name is that of a node which is about to stop, or gone.
func (n *Node) leaving(server string) bool { return n.peers != nil && n.peers.members.Leaving(server) }

// giveWayTime is how long a stop waits at most for others to lead what this node's server led.
const giveWayTime = time.Second

// giveWay has the servers of others lead what this node's does.
func (n *Node) giveWay(ctx context.Context) {
	if n.nats == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, giveWayTime)
	defer cancel()
	moved, err := n.nats.GiveWay(ctx)
	if err != nil {
		n.log.Warn("not everything that this node's NATS server led has another leader yet; it will be elected", "moved", moved)
		return
	}
	if moved > 0 {
		n.log.Info("other nodes lead what this one's NATS server led", "moved", moved)
	}
}

// run takes part in the cluster until ctx ends. Base ends later: until then the others see this node.
func (p *peers) run(ctx, base context.Context, n *Node) error {
	began := time.Now()
	p.began.Store(&began)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.members.Run(base) })
	g.Go(func() error { return p.leases.Run(base) })
	g.Go(func() error { return p.router.Run(ctx) })
	g.Go(func() error { return p.watch(ctx, n.cfg.Shards) })
	g.Go(func() error { return p.announce(ctx) })
	g.Go(func() error { return p.places.run(ctx) })
	endAsk, err := p.bus.Handle(askSubject, func(_ string, raw []byte) []byte { return n.answer(ctx, raw) })
	if err != nil {
		return err
	}
	defer endAsk()
	endNews, err := p.bus.Hear(committedSubject, func(_ string, data []byte) {
		for ; len(data) >= 2; data = data[2:] {
			n.notify.Committed(binary.BigEndian.Uint16(data))
		}
	})
	if err != nil {
		return err
	}
	defer endNews()
	return g.Wait()
}

// watch tells the router which shards moved, and which nodes have gone.
func (p *peers) watch(ctx context.Context, shards int) error {
	alive := make(map[string]uint64)
	for {
		moved, changed := p.leases.Changed(), p.members.Changed()
		now := make(map[string]uint64)
		takers := int64(0)
		for _, m := range p.members.Live() {
			now[m.Name] = m.Incarnation
			if !m.Draining {
				takers++
			}
		}
		p.takers.Store(takers)
		for name, incarnation := range alive {
			if now[name] != incarnation {
				p.router.Gone(name)
			}
		}
		alive = now
		for shard := range shards {
			p.router.Moved(uint16(shard))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		case <-changed:
		}
	}
}

const committedSubject = "committed"

// committed gathers the shards that have news, to tell the other nodes of them.
type committed struct {
	mu     sync.Mutex
	shards map[uint16]struct{}
	wake   chan struct{} // cap 1
}

func (c *committed) add(shard uint16) {
	c.mu.Lock()
	c.shards[shard] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// announce tells the other nodes which shards have events that they may not have read, at most every few
// milliseconds. What is lost they find by themselves, a little later.
func (p *peers) announce(ctx context.Context) error {
	const every = 10 * time.Millisecond
	pace := time.NewTimer(every)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.committed.wake:
		}
		p.committed.mu.Lock()
		var news []byte
		for shard := range p.committed.shards {
			news = binary.BigEndian.AppendUint16(news, shard)
		}
		clear(p.committed.shards)
		p.committed.mu.Unlock()
		_ = p.bus.Tell(committedSubject, news)
		pace.Reset(every)
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
}

// owners is the leases as the router sees them.
type owners struct{ *cluster.Leases }

func (o owners) Owner(shard uint16) string {
	name, _, _ := o.Leases.Owner(shard)
	return name
}

// local is the dispatcher as the router sees it.
type local struct{ *dispatch.Dispatcher }

func (l local) Attach(recipient string, c presence.Connection) (presence.Tie, bool) {
	a := l.Dispatcher.Attach(recipient, connection{c})
	if a == nil {
		return nil, false
	}
	return a, true
}

// connection is a router's connection as the dispatcher sees it.
type connection struct{ presence.Connection }

func (c connection) Deliver(d *dispatch.Delivery) {
	e, ok := d.Encoded.(*presence.Encoded)
	if !ok {
		e = new(presence.Encoded)
		d.Encoded = e
	}
	c.Connection.Deliver(d.Message, d.Attempt, e)
}

// routed is the router as the hub sees it.
type routed struct{ *presence.Router }

func (r routed) Attach(recipient string, d *hub.Device) hub.Attachment {
	return r.Router.Attach(recipient, routedDevice{d})
}

// routedDevice is a hub's device as the router sees it.
type routedDevice struct{ *hub.Device }

func (d routedDevice) Deliver(m *esh3ar.Message, attempt uint32, e *presence.Encoded) {
	frame, ok := e.Frame.(*hub.Frame)
	if !ok {
		frame = hub.NewFrame(m, attempt)
		e.Frame = frame
	}
	d.Send(frame)
}

// checkCluster says what is wrong with this node's place among the others.
func (n *Node) checkCluster(context.Context) error {
	switch {
	case n.nats == nil && !n.journal.Connected():
		return health.Degrade(esh3ar.Errorf(esh3ar.KindUnavailable, "journal_unavailable",
			"none of the servers in nats-url is connected: this node accepts nothing until one is"))
	case !n.peers.members.Fresh() && n.peers.starts(time.Now()):
		return health.Starting(esh3ar.Errorf(esh3ar.KindUnavailable, "journal_unavailable",
			"this node has just started and joins the cluster: it can accept nothing yet"))
	case !n.peers.members.Fresh():
		return health.Degrade(errCutOff())
	}
	return nil
}

func errCutOff() *esh3ar.Error {
	return esh3ar.Errorf(esh3ar.KindUnavailable, "journal_unavailable",
		"this node does not reach the majority of the cluster: it can accept nothing, and its shards go to others")
}
