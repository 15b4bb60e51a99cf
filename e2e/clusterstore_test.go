package e2e

import (
	"net/url"
	"slices"
	"testing"
	"time"
)

// One node of three loses its way to the database under load. It says so, and goes on accepting; what it owns waits. When it is stopped
// the others, who reach the database, serve all, and nothing is lost.
func TestOneNodeWithoutDatabase(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, clusterArgs()...)
	c := d.core(3)
	direct, err := url.Parse(d.store)
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, direct.Host)
	through := *direct
	through.Host = g.listener.Addr().String()
	d.store = through.String()
	c.launch(0)
	d.store = direct.String()
	c.launch(1)
	c.launch(2)
	mustBeReady(t, c.servers...)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(11, 3, nil)
	c.servers[0].await("the node to own a shard", func() bool { return c.servers[0].metric("esh3ar_shards_owned") > 0 })
	r.accepts(100)
	g.set(true)
	c.servers[0].await("the node to say that its database is away", func() bool {
		_, store, _ := c.servers[0].readiness("store")
		return store == "degraded"
	})
	for shard, name := range c.recipients(c.servers[1]) {
		a := c.servers[0].api()
		if _, err := a.send(t.Context(), outgoing{To: name, Content: "without a database", TTL: 1}); err != nil {
			t.Errorf("a message of shard %d is not accepted by a node without its database: %v", shard, err)
		}
	}
	left := slices.Clone(c.servers)
	left[0] = nil
	r.serve(left...)
	began := time.Now()
	c.servers[0].stop()
	t.Logf("it stopped within %s", time.Since(began).Round(time.Millisecond))
	r.arrives(60 * time.Second)
	t.Logf("all were served %s after the order to stop", time.Since(began).Round(time.Millisecond))
	t.Log(load.finish(90*time.Second, c.servers[1:]...))
	for _, s := range c.servers[1:] {
		s.stop()
	}
}
