//go:build unix

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leaders returns, for every shard, which of the core's servers leads its stream; -1 for none.
func (c *core) leaders() []int {
	c.d.t.Helper()
	nc, err := nats.Connect("nats://"+c.clients[0], nats.Token(secretOfNodes))
	if err != nil {
		c.d.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.d.t.Fatal(err)
	}
	all := make([]int, c.d.shards)
	for shard := range all {
		s, err := js.Stream(c.d.t.Context(), fmt.Sprint("ESH3AR_JOURNAL_", shard))
		if err != nil {
			c.d.t.Fatal(err)
		}
		info := s.CachedInfo().Cluster
		all[shard] = slices.IndexFunc(c.servers, func(s *server) bool { return info != nil && slices.Contains(s.cmd.Args, info.Leader) })
	}
	return all
}

// startCore starts three nodes that tell clients of NATS who leads what.
func startCore(t *testing.T) *core {
	t.Helper()
	c := newDeployment(t, clusterArgs()...).core(3)
	for i := range c.servers {
		c.launch(i)
	}
	mustBeReady(t, c.servers...)
	return c
}

// pulse sends to recipients of every shard, to one node, again and again, and notes for how long a shard's were refused.
type pulse struct {
	end     context.CancelFunc
	beats   sync.WaitGroup
	longest []time.Duration // by shard, between two acceptances
}

// recipients returns a recipient of every shard.
func (c *core) recipients(s *server) map[uint16]string {
	t := c.d.t
	t.Helper()
	// Who is of which shard is told by the last digits of a message's identifier.
	to := make(map[uint16]string)
	a := s.api()
	for n := 0; len(to) < c.d.shards; n++ {
		name := fmt.Sprint("pulse", n)
		id := a.mustSend(t, outgoing{To: name, Content: "which shard", TTL: 1}).ID
		var shard uint16
		if _, err := fmt.Sscanf(id[len(id)-4:], "%x", &shard); err != nil {
			t.Fatal(err)
		}
		to[shard] = name
	}
	return to
}

// patience is how long a request of a pulse waits for an answer. What is not answered is as good as refused.
const patience = time.Second

// pulse begins one, at a node.
func (c *core) pulse(s *server) *pulse {
	t := c.d.t
	t.Helper()
	to := c.recipients(s)
	p := &pulse{longest: make([]time.Duration, c.d.shards)}
	ctx, cancel := context.WithCancel(t.Context())
	p.end = cancel
	for shard, name := range to {
		p.beats.Go(func() {
			a := newAPI(s.url)
			a.http.Timeout = patience
			defer a.close()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			last := time.Now()
			for ctx.Err() == nil {
				if _, err := a.send(ctx, outgoing{To: name, Content: "beat", TTL: 1}); err == nil {
					p.longest[shard] = max(p.longest[shard], time.Since(last))
					last = time.Now()
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
			p.longest[shard] = max(p.longest[shard], time.Since(last))
		})
	}
	return p
}

// stop ends the pulse and returns the longest time without an acceptance, by shard.
func (p *pulse) stop() []time.Duration {
	p.end()
	p.beats.Wait()
	return p.longest
}

// Every node of three is killed once under load, whatever it leads, and so the leader of JetStream itself too. The streams
// that the dead one led refuse for a while, the others go on, and all recipients are served again soon.
func TestLeadersAreKilled(t *testing.T) {
	t.Parallel()
	c := startCore(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(8, 3, nil)
	for i := range c.servers {
		r.accepts(100)
		left := slices.Clone(c.servers)
		left[i] = nil
		r.serve(left...)
		led := c.leaders()
		p := c.pulse(c.servers[(i+1)%3])
		c.servers[i].kill()
		r.arrives(15 * time.Second)
		for shard, d := range p.stop() {
			limit, role := 3*time.Second, "did not lead"
			if led[shard] == i {
				limit, role = 10*time.Second, "led"
			}
			t.Logf("node %d was killed: shard %d, whose stream it %s, took nothing for %s", i, shard, role, d.Round(time.Millisecond))
			if d > limit {
				t.Errorf("shard %d took nothing for %s, and node %d %s its stream", shard, d, i, role)
			}
		}
		mustBeReady(t, c.launch(i))
		r.serve(c.servers...)
	}
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}

// A node that owns shards and leads streams is stopped for longer than its leases last and wakes up as the owner of what is
// others' by then. What it stores and sends is refused: nothing is lost, and order is kept. Then it takes its share again.
func TestOwnerIsPaused(t *testing.T) {
	t.Parallel()
	c := startCore(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(9, 4, nil)
	for _, i := range []int{c.leaders()[0], c.leaders()[1]} {
		s := c.servers[i]
		s.await("the node to own a shard", func() bool { return s.metric("esh3ar_shards_owned") > 0 })
		r.accepts(100)
		t.Logf("node %d, which leads and owns, is paused", i)
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		left := slices.Clone(c.servers)
		left[i] = nil
		r.serve(left...)
		others := slices.DeleteFunc(left, func(s *server) bool { return s == nil })
		others[0].await("the others to own all shards", func() bool {
			return others[0].metric("esh3ar_shards_owned")+others[1].metric("esh3ar_shards_owned") == c.d.shards
		})
		r.arrives(60 * time.Second) // clients that wait for the paused node give up after 30 s
		if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		r.serve(c.servers...)
		s.await("the node to take its share again", func() bool {
			owned := 0
			for _, s := range c.servers {
				owned += s.metric("esh3ar_shards_owned")
			}
			return owned == c.d.shards && s.metric("esh3ar_shards_owned") > 0
		})
		r.arrives(60 * time.Second)
	}
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}
