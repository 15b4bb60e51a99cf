package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
)

const testShards = 12

// patience bounds what has no bound of its own.
const patience = 40 * time.Second

// testNode is a node that does nothing but be a member and own shards.
type testNode struct {
	t       *testing.T
	members *cluster.Members
	leases  *cluster.Leases

	leave, kill context.CancelFunc // the leases, everything
	running     sync.WaitGroup
	ended       chan error // of Members.Run

	mu     sync.Mutex
	owning map[uint16]bool
	causes []error // why leases ended
}

// stop ends a node, in the middle of things.
func (n *testNode) stop() {
	n.kill()
	n.running.Wait()
}

// startNode starts a node on NATS. It ends with the test.
func startNode(t *testing.T, nats cluster.Connector, name string, shards bool, change ...func(*cluster.MembersOptions)) *testNode {
	t.Helper()
	o := cluster.MembersOptions{
		NATS: nats, Name: name, Address: "http://" + name, Roles: []string{"hub"}, Replicas: 3, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name),
		Load: func() json.RawMessage { return json.RawMessage(`{"cpu":0.5}`) },
	}
	for _, c := range change {
		c(&o)
	}
	m, err := cluster.NewMembers(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := cluster.NewLeases(cluster.LeasesOptions{Members: m, Shards: testShards, Logger: o.Logger})
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{t: t, members: m, leases: l, ended: make(chan error, 1), owning: make(map[uint16]bool)}
	all, kill := context.WithCancel(context.Background())
	leasing, leave := context.WithCancel(all)
	n.kill, n.leave = kill, leave
	n.running.Go(func() { n.ended <- m.Run(all) })
	if shards {
		n.running.Go(func() {
			if err := l.Run(leasing); err != nil {
				t.Error(err)
			}
		})
		for s := range uint16(testShards) {
			n.running.Go(func() { n.own(leasing, s) })
		}
	}
	t.Cleanup(n.stop)
	return n
}

// own is what a shard's owner does.
func (n *testNode) own(ctx context.Context, shard uint16) {
	for {
		lease, release, err := n.leases.Acquire(ctx, shard)
		if err != nil {
			if ctx.Err() == nil {
				n.t.Error(err)
			}
			return
		}
		n.mu.Lock()
		n.owning[shard] = true
		n.mu.Unlock()
		<-lease.Done()
		n.mu.Lock()
		delete(n.owning, shard)
		n.causes = append(n.causes, context.Cause(lease))
		n.mu.Unlock()
		release()
		release()
	}
}

func (n *testNode) owned() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.owning)
}

func (n *testNode) live() []string {
	var names []string
	for _, m := range n.members.Live() {
		names = append(names, m.Name)
	}
	return names
}

// eventually waits until the condition holds and returns how long that took.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// balanced says whether the nodes own all shards, no two of them as many more
// or less than one.
func balanced(nodes ...*testNode) bool {
	total, least, most := 0, testShards, 0
	for _, n := range nodes {
		o := n.owned()
		total, least, most = total+o, min(least, o), max(most, o)
	}
	return total == testShards && most-least <= 1
}

// audit reads everything that was ever stored of leases and checks that nobody
// took a shard that another live node held. Dead says when a node was killed.
type audit struct {
	t    *testing.T
	dead map[string]bool
	mu   sync.Mutex
	held map[string]holderSeen
	gaps []time.Duration // from a release to the next node
	n    int
}

type holderSeen struct {
	Node     string `json:"node"`
	Released bool   `json:"released"`
	at       time.Time
}

func startAudit(t *testing.T, nats cluster.Connector) *audit {
	t.Helper()
	nc, err := nats.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var s jetstream.Stream
	eventually(t, patience, "the bucket is there", func() bool {
		s, err = js.Stream(ctx, "KV_ESH3AR_CLUSTER_0")
		return err == nil
	})
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"$KV.ESH3AR_CLUSTER_0.shard.*"}})
	if err != nil {
		t.Fatal(err)
	}
	a := &audit{t: t, held: make(map[string]holderSeen), dead: make(map[string]bool)}
	consuming, err := c.Consume(a.see)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		consuming.Stop()
		<-consuming.Closed()
	})
	return a
}

func (a *audit) see(msg jetstream.Msg) {
	var h holderSeen
	if err := json.Unmarshal(msg.Data(), &h); err != nil {
		a.t.Error(err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		a.t.Error(err)
		return
	}
	h.at = meta.Timestamp
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	before := a.held[msg.Subject()]
	if before.Node != "" && !before.Released && h.Node != before.Node && !a.dead[before.Node] {
		a.t.Errorf("%s: %s took it from %s, which lives and has not released it", msg.Subject(), h.Node, before.Node)
	}
	if before.Released && !h.Released {
		a.gaps = append(a.gaps, h.at.Sub(before.at))
	}
	a.held[msg.Subject()] = h
}

func (a *audit) killed(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead[name] = true
}

// nodeName is the name of the i-th server's node.
func nodeName(i int) string { return "node-" + strconv.Itoa(i) }

// startNodes starts three servers with a node each, and waits until these share
// the shards.
func startNodes(t *testing.T) (*clustertest.Cluster, []*testNode) {
	t.Helper()
	c := clustertest.Start(t, 3, nil)
	var nodes []*testNode
	for i := range 3 {
		nodes = append(nodes, startNode(t, c.Server(i), nodeName(i), true))
	}
	took := eventually(t, patience, "three nodes share the shards", func() bool { return balanced(nodes...) })
	t.Log("balanced after", took)
	return c, nodes
}

// TestLeases has nodes come and go in good order, and start again.
func TestLeases(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c, nodes := startNodes(t)
	audit := startAudit(t, c.Server(0))
	for _, n := range nodes {
		eventually(t, patience, "all know all", func() bool { return slices.Equal(n.live(), []string{"node-0", "node-1", "node-2"}) })
		eventually(t, patience, n.members.Self().Name+" knows who owns what", func() bool {
			for s := range uint16(testShards) {
				if _, _, ok := n.leases.Owner(s); !ok {
					return false
				}
			}
			return true
		})
	}

	extra := startNode(t, c.Server(1), "node-3", true)
	took := eventually(t, patience, "a new node has its share", func() bool { return balanced(append(nodes, extra)...) })
	t.Log("balanced with a fourth after", took)

	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := extra.leases.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log("drained after", time.Since(began))
	leaves := nodes[0].members.Leaving
	if !leaves("node-3") || leaves("node-1") || leaves("stranger") {
		t.Errorf("it is said to be leaving: %t, one that stays: %t, one that nobody knows: %t", leaves("node-3"), leaves("node-1"), leaves("stranger"))
	}
	eventually(t, patience, "the others have its share", func() bool { return balanced(nodes...) })
	t.Log("balanced after", time.Since(began))
	extra.leave()
	extra.stop()
	for _, cause := range extra.causes {
		if !errors.Is(cause, cluster.ErrHandover) {
			t.Errorf("a lease ended in a drain because of %v", cause)
		}
	}
	took = eventually(t, time.Second, "goodbye is heard", func() bool { return len(nodes[0].live()) == 3 })
	t.Log("goodbye heard after", took)
	if !leaves("node-3") {
		t.Error("a node that is gone is not said to be leaving")
	}
	audit.mu.Lock()
	if worst := slices.Max(audit.gaps); worst > time.Second {
		t.Errorf("a shard was without an owner for %v", worst)
	}
	t.Log(audit.n, "changes; gaps", audit.gaps)
	audit.mu.Unlock()

	// A node that starts again does not wait until its own death is noticed.
	audit.killed(nodeName(2))
	nodes[2].leave()
	eventually(t, patience, "it has none", func() bool { return nodes[2].owned() == 0 })
	nodes[2].stop()
	nodes[2] = startNode(t, c.Server(2), nodeName(2), true)
	took = eventually(t, 4*time.Second, "a node that was started again has its share", func() bool { return balanced(nodes...) })
	t.Log("balanced with the restarted one after", took)

	// Two processes with one name: the later one wins.
	again := startNode(t, c.Server(1), nodeName(2), false)
	if err := <-nodes[2].ended; !errors.Is(err, cluster.ErrSuperseded) {
		t.Errorf("the earlier of two nodes with one name ended with %v", err)
	}
	eventually(t, patience, "the shards are with the other names", func() bool { return balanced(nodes[:2]...) && nodes[2].owned() == 0 })
	if a, b := again.members.Self().Incarnation, nodes[2].members.Self().Incarnation; a <= b {
		t.Errorf("incarnation %d after %d", a, b)
	}
}

// lost counts the leases that ended otherwise than by a handover.
func (n *testNode) lost() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.causes {
		if errors.Is(c, cluster.ErrLeaseLost) {
			count++
		}
	}
	return count
}

// spread puts the leaders of what the members report to on two servers, and
// returns the number of the server with the leases'.
func spread(t *testing.T, c *clustertest.Cluster, m *cluster.Members) (leader int) {
	t.Helper()
	nc := mustConnect(t, c.Server(0))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var leases map[string]int
	eventually(t, patience, "the leaders are spread", func() bool {
		_, err := cluster.SpreadLeaders(t.Context(), nc, m.Streams())
		leases = leadersOf(t, js, m.Streams()[:1])
		return err == nil && len(leadersOf(t, js, m.Streams())) == len(m.Streams()) && len(leases) == 1
	})
	for name := range leases {
		leader = int(name[1] - '0')
	}
	return leader
}

// TestNodeKilled kills the node whose server leads the leases, then another.
// The others take its shards, and lose none of theirs.
func TestNodeKilled(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c, nodes := startNodes(t)
	audit := startAudit(t, c.Server(0))
	for name, victim := range map[string]func(leader int) int{
		"with the leader":    func(leader int) int { return leader },
		"without the leader": func(leader int) int { return (leader + 1) % 3 },
	} {
		i := victim(spread(t, c, nodes[0].members))
		var rest []*testNode
		for k, n := range nodes {
			if k != i {
				rest = append(rest, n)
			}
		}
		lost := rest[0].lost() + rest[1].lost()
		audit.killed(nodeName(i))
		c.Kill(i)
		// An election takes up to nine seconds, and it takes two until the silence of a
		// node counts again.
		took := eventually(t, 15*time.Second, name+": its shards are taken", func() bool { return balanced(rest...) })
		t.Logf("%s: shards of %s taken after %v", name, nodeName(i), took)
		nodes[i].stop()
		if n := nodes[i].lost(); n == 0 {
			t.Errorf("%s: the killed node lost no lease", name)
		}
		if n := rest[0].lost() + rest[1].lost(); n != lost {
			t.Errorf("%s: the others lost %d leases", name, n-lost)
		}
		c.Restart(i)
		c.Ready(i)
		nodes[i] = startNode(t, c.Server(i), nodeName(i), true)
		took = eventually(t, patience, name+": it has its share again", func() bool { return balanced(nodes...) })
		t.Logf("%s: balanced again after %v", name, took)
	}
}

// TestMinority cuts a node and its server off. It knows before the others take
// its shards, and comes back by itself.
func TestMinority(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c, nodes := startNodes(t)
	for _, other := range []int{0, 1} { // with the leader of the leases, and without
		i := (spread(t, c, nodes[0].members) + other) % 3
		rest := []*testNode{nodes[(i+1)%3], nodes[(i+2)%3]}
		if !nodes[i].members.Fresh() {
			t.Error("not fresh before the cut")
		}
		c.Cut(i)
		took := eventually(t, 6*time.Second, "the minority has no leases", func() bool { return nodes[i].owned() == 0 })
		t.Log("no leases after", took)
		if nodes[i].members.Fresh() {
			t.Error("fresh while it is cut off")
		}
		if live := nodes[i].live(); len(live) != 3 {
			t.Errorf("to the minority only %v are alive, of whom it cannot know", live)
		}
		took = eventually(t, 15*time.Second, "the majority has its shards", func() bool { return balanced(rest...) })
		t.Log("taken after", took)
		c.Heal(i)
		took = eventually(t, patience, "it has its share again", func() bool { return balanced(nodes...) && nodes[i].members.Fresh() })
		t.Log("balanced again after", took)
	}
}

// TestElasticNode: a node without a server takes part by the others' client
// ports, and outlives the server that it was connected to.
func TestElasticNode(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, func(_ int, o *cluster.Options) {
		o.Clients = &cluster.Clients{Listen: "127.0.0.1:0", Token: "t"}
	})
	core := startNode(t, c.Server(0), "core", true)
	e := cluster.External{Token: "t"}
	for i := range 3 {
		e.URLs = append(e.URLs, c.Server((i+1)%3).ClientAddr())
	}
	elastic := startNode(t, connectFirst{e}, "elastic", true)
	eventually(t, patience, "they share the shards", func() bool { return balanced(core, elastic) })
	spread(t, c, core.members)
	before := elastic.lost() + core.lost()
	c.Stop(1) // to which it is connected
	eventually(t, patience, "the other server is ready", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.Server(2).Ready(ctx) == nil && elastic.members.Fresh() && core.members.Fresh()
	})
	if !balanced(core, elastic) || core.lost()+elastic.lost() != before {
		t.Errorf("the end of a server cost %d leases", core.lost()+elastic.lost()-before)
	}
	m := core.members.Live()[1]
	if m.Name != "elastic" || m.Address != "http://elastic" || !m.Owner || m.Draining || !slices.Equal(m.Roles, []string{"hub"}) || string(m.Load) != `{"cpu":0.5}` {
		t.Errorf("the elastic node is known as %+v", m)
	}
}

// connectFirst connects to the first server that answers.
type connectFirst struct{ cluster.External }

func (c connectFirst) Connect(o ...nats.Option) (*nats.Conn, error) {
	return c.External.Connect(append(o, nats.DontRandomize())...)
}
