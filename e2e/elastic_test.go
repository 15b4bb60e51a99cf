package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// secretOfNodes lets the nodes and NATS servers of the tests in with each other.
const secretOfNodes = "the nodes of the tests know this"

// deployment is a core of nodes that keep the journal, or NATS servers that do, and the elastic nodes that join them.
type deployment struct {
	t      *testing.T
	dir    string
	store  string
	nats   []string // where clients of NATS connect, as host:port
	shards int
	args   []string // of every node
	scheme string   // of nats-url
}

func newDeployment(t *testing.T, args ...string) *deployment {
	t.Helper()
	_, store := database(t)
	return &deployment{t: t, dir: t.TempDir(), store: store, shards: 4, args: args, scheme: "nats"}
}

// launch starts a node and returns at once.
func (d *deployment) launch(name string, args ...string) *server {
	d.t.Helper()
	return launch(d.t, filepath.Join(d.dir, name), slices.Concat([]string{
		"--store", d.store, "--shards", fmt.Sprint(d.shards), "--cluster-name", "test", "--node-name", name, "--cluster-secret", secretOfNodes,
	}, d.args, args)...)
}

// core is the nodes that keep the journal.
type core struct {
	d       *deployment
	clients []string
	routes  []string
	listens []string
	servers []*server
}

// core prepares so many nodes that keep the journal.
func (d *deployment) core(nodes int) *core {
	d.t.Helper()
	ports := freePorts(d.t, 3*nodes)
	d.nats = ports[:nodes]
	return &core{d: d, clients: d.nats, routes: ports[nodes : 2*nodes], listens: ports[2*nodes:], servers: make([]*server, nodes)}
}

// launch starts one of the core's nodes, with the same addresses each time.
func (c *core) launch(i int, args ...string) *server {
	c.d.t.Helper()
	c.servers[i] = c.d.launch(fmt.Sprint("core", i), append([]string{
		"--listen", c.listens[i], "--cluster-listen", c.routes[i], "--routes", strings.Join(c.routes, ","), "--client-listen", c.clients[i],
	}, args...)...)
	return c.servers[i]
}

// elastic starts a node that keeps no journal.
func (d *deployment) elastic(name string, args ...string) *server {
	d.t.Helper()
	urls := make([]string, len(d.nats))
	for i, address := range d.nats {
		urls[i] = d.scheme + "://" + address
	}
	return d.launch(name, append([]string{"--nats-url", strings.Join(urls, ",")}, args...)...)
}

func mustBeReady(t *testing.T, servers ...*server) {
	t.Helper()
	for _, s := range servers {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
}

// refused waits until a server has ended by itself and fails the test unless it says why.
func (s *server) refused(why string) {
	s.t.Helper()
	select {
	case <-s.gone:
	case <-time.After(bootLimit):
		s.t.Errorf("the server goes on, and should say: %s\n%s", why, s.tail(4<<10))
		return
	}
	if text := s.tail(4 << 10); s.err == nil || !strings.Contains(text, why) {
		s.t.Errorf("it ended with %v and does not say: %s\n%s", s.err, why, text)
	}
}

// Elastic nodes join a core of three that comes up after them, take their share of everything, and go as they like:
// killed, stopped, added, and with the server killed that they are connected to. Nothing is lost, and order is kept.
func TestElasticNodes(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, clusterArgs()...)
	c := d.core(3)
	d.nats = d.nats[:2] // that is whom the elastic nodes know
	first := d.elastic("elastic0")
	first.await("the elastic node to say that it waits", func() bool { return strings.Contains(first.tail(1<<20), "the journal is not there yet") })
	second := d.elastic("elastic1")
	for i := range c.servers {
		c.launch(i)
	}
	mustBeReady(t, append(slices.Clone(c.servers), first, second)...)

	r := &crashRun{t: t, ledger: newLedger()}
	all := func(elastic ...*server) { r.serve(append(slices.Clone(c.servers), elastic...)...) }
	all(first, second)
	load := r.load(11, 4, nil)
	r.arrives(30 * time.Second)
	for i, s := range []*server{first, second} {
		s.await("it to own a shard", func() bool { return s.metric("esh3ar_shards_owned") > 0 })
		if _, err := os.Stat(filepath.Join(d.dir, fmt.Sprint("elastic", i), "journal")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an elastic node keeps a journal: %v", err)
		}
	}

	t.Log("an elastic node is killed")
	all(second)
	first.kill()
	third := d.elastic("elastic2")
	r.arrives(60 * time.Second)
	mustBeReady(t, third)
	all(second, third)

	t.Log("an elastic node is stopped")
	all(third)
	second.stop()
	r.arrives(60 * time.Second)

	// Only elastic nodes are asked while core nodes are away. They know two of the three, so each loses the server that
	// it is connected to, whichever that is, and goes on with the other. Two of the core are there at any time.
	second = d.elastic("elastic1")
	mustBeReady(t, second)
	r.serve(second, third)
	for i := range c.servers[:2] {
		t.Logf("core node %d is killed", i)
		c.servers[i].kill()
		r.arrives(60 * time.Second)
		if i == 0 {
			mustBeReady(t, c.launch(i))
		}
	}
	a := load.finish(90*time.Second, second, third, c.servers[0], c.servers[2])
	t.Log(a)
	if a.accepted < 100 || a.received == 0 || a.waiting == 0 {
		t.Errorf("too little happened to prove anything: %s", a)
	}
	for _, s := range []*server{second, third} {
		s.stop()
	}
}

// While no server of the core is there, an elastic node says so, refuses at once, and goes on by itself afterwards.
func TestElasticNodeWithoutItsCore(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, clusterArgs()...)
	c := d.core(1)
	c.launch(0)
	e := d.elastic("elastic0", "--replicas", "1")
	mustBeReady(t, c.servers[0], e)
	a := e.api()
	before := a.mustSend(t, outgoing{To: "bob", Content: "before"})
	c.servers[0].kill()
	e.await("it to say that it has no server", func() bool { return strings.Contains(readiness(t, e), "nats-url") })
	if _, err := a.send(t.Context(), outgoing{To: "bob", Content: "meanwhile"}); !strings.Contains(fmt.Sprint(err), "503") {
		t.Errorf("without a journal it answers %v", err)
	}
	mustBeReady(t, c.launch(0))
	e.await("it to be well again", func() bool { return !strings.Contains(readiness(t, e), "degraded") })
	after := a.mustSend(t, outgoing{To: "bob", Content: "after"})
	got := e.receive(t, "bob")
	for _, m := range []receipt{before, after} {
		e.awaitStatus(a, m.ID, "delivered")
	}
	if one, two := <-got, <-got; one != "before" || two != "after" {
		t.Errorf("received %q and %q", one, two)
	}
	e.stop()
	c.servers[0].stop()
}

// readiness returns what /readyz says.
func readiness(t *testing.T, s *server) string {
	t.Helper()
	resp, err := http.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// All nodes have the deployment's number of shards. One with another does not start, neither beside the others nor as
// the first after all were down, and what it was told by mistake can be put right.
func TestShardsOfADeploymentAreFixed(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "--log-level", "warn")
	c := d.core(1)
	mustBeReady(t, c.launch(0))
	d.shards = 8
	d.elastic("elastic0", "--replicas", "1").refused("was created with 4, which cannot change")
	c.servers[0].stop()
	d.elastic("elastic1", "--replicas", "1").refused("was created with 4, which cannot change")

	d.shards = 4
	mustBeReady(t, c.launch(0))
	mustBeReady(t, d.elastic("elastic0", "--replicas", "1"))

	// Another store does not help: the journal knows its number too.
	_, d.store = database(t)
	d.shards = 8
	d.elastic("elastic2", "--replicas", "1").refused("it is one of 4 shards, not of 8")
}
