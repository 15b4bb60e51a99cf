package presence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shards = 4

// network is the buses of some nodes. It loses requests and answers, and repeats requests, as a network that is
// out of order does.
type network struct {
	mu       sync.Mutex
	dice     *rand.Rand
	loss     float64 // of requests, and of answers; repeats come as often
	cut      map[string]bool
	handlers map[string]func(from string, data []byte) []byte
}

func newNetwork(seed uint64) *network {
	return &network{dice: rand.New(rand.NewPCG(seed, 0)), cut: map[string]bool{}, handlers: map[string]func(string, []byte) []byte{}}
}

func (n *network) chance() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dice.Float64() < n.loss
}

func (n *network) setLoss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

func (n *network) setCut(node string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[node] = cut
}

// bus is one node's.
type bus struct {
	net  *network
	node string
}

func (b bus) Request(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	b.net.mu.Lock()
	h := b.net.handlers[node+" "+subject]
	cut := b.net.cut[node] || b.net.cut[b.node]
	b.net.mu.Unlock()
	if h == nil || cut || b.net.chance() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	answer := h(b.node, slices.Clone(data))
	if b.net.chance() {
		answer = h(b.node, slices.Clone(data))
	}
	if b.net.chance() {
		return nil, errors.New("the answer was lost")
	}
	return answer, nil
}

func (b bus) Handle(subject string, answer func(string, []byte) []byte) (func(), error) {
	var one sync.Mutex
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	key := b.node + " " + subject
	b.net.handlers[key] = func(from string, data []byte) []byte {
		one.Lock()
		defer one.Unlock()
		return answer(from, data)
	}
	return func() {
		b.net.mu.Lock()
		defer b.net.mu.Unlock()
		delete(b.net.handlers, key)
	}, nil
}

// owners says who owns what. It is shared by the nodes.
type owners struct {
	mu sync.Mutex
	of [shards]string
}

func (o *owners) Owner(shard uint16) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[shard]
}

// local is a node's dispatcher: it remembers who is tied and what they say.
type local struct {
	mu    sync.Mutex
	owned [shards]bool
	ties  map[*tie]struct{}
	said  []string
}

type tie struct {
	l         *local
	recipient string
	c         Connection
}

func (l *local) Attach(recipient string, c Connection) (Tie, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.owned[esh3ar.ShardOf(recipient, shards)] {
		return nil, false
	}
	t := &tie{l, recipient, c}
	l.ties[t] = struct{}{}
	return t, true
}

func (t *tie) say(s string) {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	if _, ok := t.l.ties[t]; ok {
		t.l.said = append(t.l.said, s)
	}
}

func (t *tie) Acknowledge(ids []esh3ar.ID) { t.say(fmt.Sprint(t.recipient, " has ", ids)) }
func (t *tie) MarkRead(ids []esh3ar.ID)    { t.say(fmt.Sprint(t.recipient, " read ", ids)) }

func (t *tie) Detach(free bool) {
	t.say(fmt.Sprint(t.recipient, " detached ", free))
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	delete(t.l.ties, t)
}

// own has the node own a shard, or not.
func (n *testNode) own(shard uint16, owned bool) {
	n.local.mu.Lock()
	n.local.owned[shard] = owned
	if !owned {
		for t := range n.local.ties {
			if esh3ar.ShardOf(t.recipient, shards) == shard {
				delete(n.local.ties, t)
			}
		}
	}
	n.local.mu.Unlock()
	n.router.Owned(shard, owned)
}

// tied returns the recipients that are tied at the node, sorted, each as often as it is tied.
func (n *testNode) tied() []string {
	n.local.mu.Lock()
	defer n.local.mu.Unlock()
	var all []string
	for t := range n.local.ties {
		all = append(all, t.recipient)
	}
	slices.Sort(all)
	return all
}

// deliver gives a message to everybody who is tied for the recipient.
func (n *testNode) deliver(m *esh3ar.Message) int {
	n.local.mu.Lock()
	var to []Connection
	for t := range n.local.ties {
		if t.recipient == m.To {
			to = append(to, t.c)
		}
	}
	n.local.mu.Unlock()
	e := new(Encoded)
	for _, c := range to {
		c.Deliver(m, 1, e)
	}
	return len(to)
}

func (n *testNode) said() []string {
	n.local.mu.Lock()
	defer n.local.mu.Unlock()
	return slices.Clone(n.local.said)
}

// testNode is a node with a router.
type testNode struct {
	name   string
	router *Router
	local  *local
	stop   func()
}

// cluster is some nodes on a network.
type cluster struct {
	t      *testing.T
	net    *network
	owners *owners
	nodes  map[string]*testNode
}

func newCluster(t *testing.T, seed uint64, names ...string) *cluster {
	c := &cluster{t: t, net: newNetwork(seed), owners: new(owners), nodes: map[string]*testNode{}}
	for _, name := range names {
		c.start(name)
	}
	synctest.Wait() // they listen
	return c
}

// start starts a node, as after a restart of its process.
func (c *cluster) start(name string, options ...func(*Options)) *testNode {
	n := &testNode{name: name, local: &local{ties: map[*tie]struct{}{}}}
	o := Options{Logger: slog.New(slog.DiscardHandler), Node: name, Shards: shards, Local: n.local, Owners: c.owners, Bus: bus{c.net, name}}
	for _, f := range options {
		f(&o)
	}
	var err error
	if n.router, err = New(o); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.router.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	c.nodes[name] = n
	return n
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		n.stop()
	}
}

// give has a node own a shard, after the one before has given it up.
func (c *cluster) give(shard uint16, to string) {
	if n := c.nodes[c.owners.Owner(shard)]; n != nil {
		n.own(shard, false)
	}
	c.owners.mu.Lock()
	c.owners.of[shard] = to
	c.owners.mu.Unlock()
	if n := c.nodes[to]; n != nil {
		n.own(shard, true)
	}
	for _, n := range c.nodes {
		n.router.Moved(shard)
	}
}

// device is a device that remembers what it got.
type device struct {
	mu  sync.Mutex
	got []string
}

func (d *device) Deliver(m *esh3ar.Message, attempt uint32, e *Encoded) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, m.Content)
}

func (d *device) texts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.got)
}

// user returns the name of a recipient of the shard.
func user(shard uint16, n int) string {
	for i := 0; ; i++ {
		name := fmt.Sprint("user", i)
		if esh3ar.ShardOf(name, shards) == shard {
			if n == 0 {
				return name
			}
			n--
		}
	}
}

func text(to, content string) *esh3ar.Message {
	return &esh3ar.Message{ID: new(esh3ar.IDs).New(time.Now(), 0), To: to, Client: "c", Content: content, AcceptedAt: time.Now()}
}

func TestDevicesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "hub", "owner")
		defer c.stop()
		hub, owner := c.nodes["hub"], c.nodes["owner"]
		c.give(0, "owner")
		c.give(1, "hub")
		far, near := new(device), new(device)
		a := hub.router.Attach(user(0, 0), far)
		b := hub.router.Attach(user(1, 0), near)
		second := new(device)
		hub.router.Attach(user(0, 0), second)
		time.Sleep(time.Second)
		if got := owner.tied(); !slices.Equal(got, []string{user(0, 0), user(0, 0)}) {
			t.Fatalf("tied at the owner: %v", got)
		}
		if n := owner.deliver(text(user(0, 0), "far")); n != 2 {
			t.Errorf("delivered to %d", n)
		}
		hub.deliver(text(user(1, 0), "near"))
		time.Sleep(time.Second)
		for d, want := range map[*device]string{far: "far", second: "far", near: "near"} {
			if got := d.texts(); !slices.Equal(got, []string{want}) {
				t.Errorf("a device got %v, want %s", got, want)
			}
		}
		id := esh3ar.ID{1}
		a.Acknowledge([]esh3ar.ID{id})
		a.MarkRead([]esh3ar.ID{id})
		a.Detach(true)
		a.Detach(false) // does nothing
		b.Detach(false)
		time.Sleep(time.Second)
		want := []string{
			fmt.Sprint(user(0, 0), " has ", []esh3ar.ID{id}), fmt.Sprint(user(0, 0), " read ", []esh3ar.ID{id}), fmt.Sprint(user(0, 0), " detached true"),
		}
		if got := owner.said(); !slices.Equal(got, want) {
			t.Errorf("the owner heard %v", got)
		}
		if got := hub.said(); !slices.Equal(got, []string{user(1, 0) + " detached false"}) {
			t.Errorf("the hub's own shards heard %v", got)
		}
	})
}

// A shard that changes hands takes its devices with it, and an owner that does not know yet that it lost it
// reaches nobody.
func TestShardMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "hub", "old", "new")
		defer c.stop()
		c.give(0, "old")
		d, own := new(device), new(device)
		c.nodes["hub"].router.Attach(user(0, 0), d)
		c.nodes["old"].router.Attach(user(0, 0), own)
		time.Sleep(time.Second)
		if n := c.nodes["old"].deliver(text(user(0, 0), "first")); n != 2 {
			t.Fatalf("%d devices are tied", n)
		}
		time.Sleep(time.Second)

		// The leases say so; the old owner goes on.
		c.owners.mu.Lock()
		c.owners.of[0] = "new"
		c.owners.mu.Unlock()
		c.nodes["new"].own(0, true)
		for _, n := range c.nodes {
			if n.name != "old" {
				n.router.Moved(0)
			}
		}
		time.Sleep(time.Second)
		c.nodes["old"].deliver(text(user(0, 0), "stale"))
		time.Sleep(time.Second)
		if n := c.nodes["new"].deliver(text(user(0, 0), "second")); n != 1 {
			t.Errorf("%d devices are tied to the new owner", n)
		}
		time.Sleep(time.Second)
		if got := d.texts(); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("the device got %v", got)
		}
		// When it learns it, its own device moves too.
		c.nodes["old"].own(0, false)
		c.nodes["old"].router.Moved(0)
		time.Sleep(time.Second)
		c.nodes["new"].deliver(text(user(0, 0), "third"))
		time.Sleep(time.Second)
		if got := own.texts(); len(got) == 0 || got[len(got)-1] != "third" {
			t.Errorf("the old owner's device got %v", got)
		}
	})
}

// An owner that restarts knows nobody; the hubs notice and say it all again.
func TestOwnerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "hub", "owner")
		defer c.stop()
		c.give(0, "owner")
		devices := make([]*device, 20_000)
		for i := range devices {
			devices[i] = new(device)
			c.nodes["hub"].router.Attach(user(0, 0), devices[i])
		}
		time.Sleep(2 * time.Second)
		c.nodes["owner"].stop()
		owner := c.start("owner")
		owner.own(0, true)
		time.Sleep(10 * time.Second)
		if n := owner.deliver(text(user(0, 0), "hello")); n != len(devices) {
			t.Errorf("%d of %d devices are tied", n, len(devices))
		}
		time.Sleep(5 * time.Second)
		for i, d := range devices {
			if got := d.texts(); !slices.Equal(got, []string{"hello"}) {
				t.Fatalf("device %d got %v", i, got)
			}
		}
	})
}

// An owner that has restarted and gets a shard back has its devices at once, though the hub takes their session to go on: it
// does not wait for the next heartbeat.
func TestRestartedOwnerIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "hub", "owner", "other")
		defer c.stop()
		c.give(0, "owner")
		c.nodes["hub"].router.Attach(user(0, 0), new(device))
		time.Sleep(2100 * time.Millisecond) // heartbeats come at whole seconds
		c.give(0, "other")
		synctest.Wait()
		c.nodes["owner"].stop()
		owner := c.start("owner")
		synctest.Wait()
		c.give(0, "owner")
		time.Sleep(100 * time.Millisecond)
		if n := owner.deliver(text(user(0, 0), "hello")); n != 1 {
			t.Errorf("%d devices are tied", n)
		}
	})
}

// A node that takes its messages too slowly loses its session, not the owner its memory.
func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, "hub")
		owner := c.start("owner", func(o *Options) { o.OutboxBytes = 1 << 20 })
		defer c.stop()
		c.give(0, "owner")
		c.nodes["hub"].router.Attach(user(0, 0), new(device))
		time.Sleep(time.Second)
		c.net.setCut("hub", true)
		big := text(user(0, 0), string(make([]byte, 60_000)))
		for range 100 {
			owner.deliver(big)
		}
		time.Sleep(20 * time.Second)
		if got := owner.tied(); len(got) > 0 {
			t.Errorf("still tied: %v", got)
		}
	})
}

// Whatever the network loses and repeats, and however shards move: in the end everybody is tied to the owner
// alone, and in a quiet time each message arrives once and in order.
func TestAnyWeather(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { anyWeather(t, seed) })
		})
	}
}

func anyWeather(t *testing.T, seed uint64) {
	names := []string{"a", "b", "c"}
	c := newCluster(t, seed, names...)
	defer c.stop()
	dice := rand.New(rand.NewPCG(seed, 1))
	node := func() *testNode { return c.nodes[names[dice.IntN(len(names))]] }
	type attached struct {
		a  *Attachment
		d  *device
		to string
	}
	var all []attached
	c.net.setLoss(0.2)
	for range 300 {
		switch dice.IntN(6) {
		case 0:
			c.give(uint16(dice.IntN(shards)), node().name)
		case 1, 2:
			x := attached{d: new(device), to: user(uint16(dice.IntN(shards)), dice.IntN(3))}
			x.a = node().router.Attach(x.to, x.d)
			all = append(all, x)
		case 3:
			if len(all) > 0 {
				i := dice.IntN(len(all))
				all[i].a.Detach(dice.IntN(2) == 0)
				all = slices.Delete(all, i, i+1)
			}
		case 4:
			node().deliver(text(user(uint16(dice.IntN(shards)), dice.IntN(3)), "in the storm"))
		case 5:
			n := node().name
			c.net.setCut(n, dice.IntN(3) == 0)
		}
		time.Sleep(time.Duration(dice.IntN(400)) * time.Millisecond)
	}
	for _, n := range names {
		c.net.setCut(n, false)
	}
	for shard := range uint16(shards) {
		c.give(shard, node().name)
	}
	c.net.setLoss(0)
	time.Sleep(30 * time.Second)

	want := map[string][]string{}
	for _, x := range all {
		owner := c.owners.Owner(esh3ar.ShardOf(x.to, shards))
		want[owner] = append(want[owner], x.to)
		x.d.mu.Lock()
		x.d.got = nil
		x.d.mu.Unlock()
	}
	for _, n := range names {
		slices.Sort(want[n])
		if got := c.nodes[n].tied(); !slices.Equal(got, want[n]) {
			t.Fatalf("tied at %s: %v, want %v", n, got, want[n])
		}
	}
	for i := range 50 {
		for shard := range uint16(shards) {
			for j := range 3 {
				c.nodes[c.owners.Owner(shard)].deliver(text(user(shard, j), fmt.Sprint(i)))
			}
		}
	}
	time.Sleep(10 * time.Second)
	var texts []string
	for i := range 50 {
		texts = append(texts, fmt.Sprint(i))
	}
	for _, x := range all {
		if got := x.d.texts(); !slices.Equal(got, texts) {
			t.Fatalf("%s got %v", x.to, got)
		}
	}
}

func FuzzBatches(f *testing.F) {
	var o outbox
	o.add([]byte{opAttach, 1, 'u'})
	o.add([]byte{opDeliver, 1, 1})
	f.Add(append(header{1, 1}.append(nil), o.take()...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, ops, err := readHeader(data)
		if err != nil {
			return
		}
		_ = h
		s := &session{r: &Router{shards: make([]place, shards), opts: Options{Local: &local{ties: map[*tie]struct{}{}}}}, conns: map[uint64]*remote{}}
		_ = s.take(ops)
		u := newUplink(s.r, "n")
		u.r.opts.Logger = slog.New(slog.DiscardHandler)
		u.r.metrics = newMetrics(nil, u.r)
		u.session = h.session | 1
		u.receive(header{u.session, 1}, ops)
	})
}
