package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// handedOver is how long the shards of a node may take to have other owners after its way to the database was cut. Measured are 7 to 10 s,
// and up to 17 s beside other tests.
const handedOver = 30 * time.Second

// handedBack is how long they may take to be shared again after its way was healed, which has to be good for 15 s first.
const handedBack = 60 * time.Second

// startWithGates starts three nodes, each with a way of its own to the database.
func startWithGates(t *testing.T) (*core, []*gate) {
	t.Helper()
	d := newDeployment(t, clusterArgs()...)
	c := d.core(3)
	direct, err := url.Parse(d.store)
	if err != nil {
		t.Fatal(err)
	}
	gates := make([]*gate, len(c.servers))
	for i := range gates {
		gates[i] = newGate(t, direct.Host)
		through := *direct
		through.Host = gates[i].listener.Addr().String()
		d.store = through.String()
		c.launch(i)
	}
	d.store = direct.String()
	mustBeReady(t, c.servers...)
	return c, gates
}

// clusterHealth is what the operator is told of all nodes.
type clusterHealth struct {
	Unowned  []uint16 `json:"shards_without_owner"`
	Problems []struct{ Node, Check, Detail, Advice string }
	Nodes    []struct {
		Name   string
		Shards []uint16
	}
}

// told returns what a node tells the operator of all.
func (c *core) told(i int) (h clusterHealth) {
	t := c.d.t
	t.Helper()
	key, err := os.ReadFile(filepath.Join(c.d.dir, fmt.Sprint("core", i), "admin-key"))
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(c.servers[i].url)
	defer a.close()
	a.key = strings.TrimSpace(string(key))
	if _, err := a.call(t.Context(), http.MethodGet, "/v1/admin/health", "", nil, &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// owners says who owns which shard, as one node knows it; "" if a shard has no owner.
func (c *core) owners(i int) []string {
	c.d.t.Helper()
	owners := make([]string, c.d.shards)
	for _, n := range c.told(i).Nodes {
		for _, shard := range n.Shards {
			owners[shard] = n.Name
		}
	}
	return owners
}

// shared says whether each node owns some shard and all have an owner.
func (c *core) shared() bool {
	c.d.t.Helper()
	owners := c.owners(0)
	for i := range c.servers {
		if !slices.Contains(owners, fmt.Sprint("core", i)) {
			return false
		}
	}
	return !slices.Contains(owners, "")
}

// A node of three loses its way to the database under load, by broken connections, by ones that fall silent and by ones over which
// nothing long comes. The others get its
// shards, and it goes on with all that needs no database: everybody is served, also whose device or sender is connected to it.
// When the way is back, it takes its share again. Nothing is lost, and order is kept.
func TestOneNodeWithoutDatabase(t *testing.T) {
	t.Parallel()
	c, gates := startWithGates(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(11, 3, nil)
	for cut, way := range []func(*gate){func(g *gate) { g.set(true) }, (*gate).silence, (*gate).narrow} {
		s, name := c.servers[cut], fmt.Sprint("core", cut)
		witness := (cut + 1) % len(c.servers)
		s.await("all nodes to own shards", c.shared)
		r.accepts(100)
		way(gates[cut])
		began := time.Now()
		if err := s.poll(handedOver, "the others to own all shards", func() bool {
			owners := c.owners(witness)
			return !slices.Contains(owners, name) && !slices.Contains(owners, "")
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("the others owned the shards of node %d after %s", cut, time.Since(began).Round(time.Millisecond))
		r.arrives(60 * time.Second)

		// Whatever it accepts has its status stored by the others.
		sent := make(map[string]string)
		for shard, to := range c.recipients(c.servers[witness], "pulse") {
			m, err := s.api().send(t.Context(), outgoing{To: to + " is absent", Content: "without a database"})
			if err != nil {
				t.Fatalf("a message of shard %d is not accepted by a node without its database: %v", shard, err)
			}
			sent[m.ID] = to
		}
		for id := range sent {
			for other, o := range c.servers {
				if other != cut {
					o.awaitStatus(o.api(), id, "queued")
				}
			}
			// Over a narrow way it may be read yet.
			if d, err := s.api().message(t.Context(), id); cut < 2 && (err == nil || !strings.Contains(err.Error(), "HTTP 503")) {
				t.Errorf("a node without its database says of a message: %+v, %v", d, err)
			}
			// Who owns it withdraws it, and tells.
			var d details
			if _, err := s.api().call(t.Context(), http.MethodDelete, "/v1/messages/"+id, "", nil, &d); err != nil || d.Status != "canceled" {
				t.Errorf("a node without its database cancels a message: %+v, %v", d, err)
			}
		}
		s.await("the operator to be told why, and what to do", func() bool {
			return slices.ContainsFunc(c.told(witness).Problems, func(p struct{ Node, Check, Detail, Advice string }) bool {
				return p.Node == name && p.Check == "store" && strings.Contains(p.Detail, "it answers other nodes") && strings.Contains(p.Advice, "network")
			})
		})

		gates[cut].set(false)
		began = time.Now()
		if err := s.poll(handedBack, "the node to own shards again", c.shared); err != nil {
			t.Fatal(err)
		}
		t.Logf("node %d had its share again after %s", cut, time.Since(began).Round(time.Millisecond))
		r.arrives(60 * time.Second)
	}
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}

// The database is away for all nodes, which each finds out at its own time, as that it is back: no shard moves, messages are accepted
// and nothing is lost.
func TestNoNodeHasTheDatabase(t *testing.T) {
	t.Parallel()
	c, gates := startWithGates(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(12, 3, nil)
	c.servers[0].await("all nodes to own shards", c.shared)
	r.accepts(100)
	before := c.owners(0)
	nothingMoves := func(during string, d time.Duration) {
		t.Helper()
		over := time.After(d)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			if now := c.owners(0); !slices.Equal(now, before) {
				t.Fatalf("%s, the owners are %q, and were %q", during, now, before)
			}
		}
	}
	for i, g := range gates {
		nothingMoves("while the database goes", time.Second)
		if i%2 == 0 {
			g.set(true)
		} else {
			g.silence()
		}
	}
	nothingMoves("while the database is away", 12*time.Second)
	for i, s := range c.servers {
		if whole, store, detail := s.readiness("store"); whole != "degraded" || store != "degraded" {
			t.Errorf("node %d is %s without its database, the check says %s: %s", i, whole, store, detail)
		}
	}
	r.accepts(100)
	for _, g := range gates {
		nothingMoves("while the database comes back", time.Second)
		g.set(false)
	}
	r.arrives(60 * time.Second)
	nothingMoves("after the database came back", 12*time.Second)
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}
