//go:build unix

package e2e

import (
	"fmt"
	"slices"
	"strings"
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
		var info *jetstream.ClusterInfo
		c.servers[0].await("the stream to have a leader", func() bool { // while another is elected nobody answers
			s, err := js.Stream(c.d.t.Context(), fmt.Sprint("ESH3AR_JOURNAL_", shard))
			if err == nil {
				info = s.CachedInfo().Cluster
			}
			return err == nil
		})
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

// recipients returns a recipient of every shard, whose names begin with those letters.
func (c *core) recipients(s *server, letters string) map[uint16]string {
	t := c.d.t
	t.Helper()
	// Who is of which shard is told by the last digits of a message's identifier.
	to := make(map[uint16]string)
	a := s.api()
	for n := 0; len(to) < c.d.shards; n++ {
		name := fmt.Sprint(letters, n)
		var id string
		s.await("a message to be accepted", func() bool {
			r, err := a.send(t.Context(), outgoing{To: name, Content: "which shard", TTL: 1})
			id = r.ID
			return err == nil
		})
		var shard uint16
		if _, err := fmt.Sscanf(id[len(id)-4:], "%x", &shard); err != nil {
			t.Fatal(err)
		}
		to[shard] = name
	}
	return to
}

// Every node of three is killed once under load, leading streams, and so the leader of JetStream itself too; nobody is told.
// Whoever comes to a stream that it led is refused for a while, in so many words; what was under way gets its answer, too. The
// other streams go on, and all recipients are served again soon.
func TestLeadersAreKilled(t *testing.T) {
	t.Parallel()
	const (
		elected   = 10 * time.Second        // until a stream accepts again whose leader died; 1 s is documented where the process died
		atOnce    = 1500 * time.Millisecond // what others may be held up, besides what they are before a death: 0.2 s on a machine that is not busy
		told      = 3 * time.Second         // until who comes is told to come back; a wait for publish-timeout would be 5 s
		window    = 3 * time.Second         // after a death, in which its leaders are elected; before it shows how busy the machine is
		unnoticed = 20                      // messages to a shard that come before the death of its leader is noticed: a second's
	)
	c := startCore(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(8, 3, nil)
	to := c.recipients(c.servers[0], "pulse")
	for i := range c.servers {
		r.accepts(100)
		began := time.Now()
		p := c.servers[(i+1)%3].pulse(t, to)
		c.servers[i].await("every stream to accept for a while before the death", func() bool { return p.accepts(began.Add(window)) })
		var led []int
		c.servers[i].await("the victim to lead a stream", func() bool { led = c.leaders(); return slices.Contains(led, i) })
		died := time.Now()
		c.servers[i].kill()
		r.arrives(15 * time.Second)
		c.servers[(i+1)%3].await("every stream to accept what came when leaders had to be elected", func() bool { return p.accepts(died.Add(window)) })
		ended := time.Now()
		all := p.stop()
		var calm time.Duration
		for _, beats := range all {
			calm = max(calm, count(beats, began, died).longest)
		}
		held := atOnce + calm
		t.Logf("before node %d was killed a shard took nothing for %s at most", i, calm)
		for shard, beats := range all {
			role := "did not lead"
			if led[shard] == i {
				role = "led"
			}
			whole, after, soon := count(beats, began, ended), count(beats, died, ended), count(beats, died, died.Add(window))
			t.Logf("node %d was killed: shard %d, whose stream it %s: %s", i, shard, role, whole.since(died))
			for _, b := range whole.wrong {
				t.Errorf("shard %d, %s after the death: neither 202 nor 503 with Retry-After (%q), but %v", shard, b.began.Sub(died), b.retryAfter, b.err)
			}
			for _, b := range after.refused {
				if d := b.ended.Sub(b.began); d > told {
					t.Errorf("shard %d: %s after the death it took %s to say %v", shard, b.began.Sub(died), d, b.err)
				}
			}
			if n := len(after.unknown); n > unnoticed {
				t.Errorf("shard %d: of %d messages that came after the death nobody knows what became of them", shard, n)
			}
			switch {
			case after.longest > elected:
				t.Errorf("shard %d took nothing for %s", shard, after.longest)
			case led[shard] != i && soon.longest > held:
				t.Errorf("shard %d took nothing for %s, from %s after the death of node %d, which did not lead its stream", shard, soon.longest, soon.longestAt.Sub(died), i)
			case led[shard] == i && soon.longest > held && len(soon.refused) == 0:
				t.Errorf("shard %d took nothing for %s, and nobody was told to come back", shard, soon.longest)
			}
		}
		mustBeReady(t, c.launch(i))
	}
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}

// A node that owns shards and leads streams is stopped for longer than its leases last and wakes up as the owner of what is
// others' by then. What it still tries to store is refused, nothing is lost, and order is kept. Then it takes its share again.
func TestOwnerIsPaused(t *testing.T) {
	t.Parallel()
	c := startCore(t)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(9, 4, nil)
	// Of the nodes that wake up at least one has to be refused. It may be that one had nothing to store when it was stopped, and hears of
	// its successor before it has.
	const pauses, mostPauses = 2, 5
	refused := 0
	for n := 0; n < pauses || refused == 0 && n < mostPauses; n++ {
		i := c.leaders()[n%2]
		s := c.servers[i]
		s.await("the node to own a shard", func() bool { return s.metric("esh3ar_shards_owned") > 0 })
		r.accepts(100)
		// With all that goes on it has something to store at almost any moment.
		before := s.refusals()
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
		lost := s.refusals() - before
		t.Logf("%d shards of the woken node were lost to others, by the word of the store", lost)
		refused += lost
	}
	if refused == 0 {
		t.Errorf("in %d pauses no woken owner was refused by the store", mostPauses)
	}
	t.Log(load.finish(90*time.Second, c.servers...))
	for _, s := range c.servers {
		s.stop()
	}
}

// refusals returns how often the node's log says that the store refused it as the owner of a shard.
func (s *server) refusals() int {
	n := 0
	for line := range strings.Lines(s.tail(1 << 20)) {
		if strings.Contains(line, "shard lost") && strings.Contains(line, "no longer the owner of the shard") {
			n++
		}
	}
	return n
}
