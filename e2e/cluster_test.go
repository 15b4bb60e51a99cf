package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/internal/freeport"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

// nodes are the servers of one cluster over one database.
type nodes struct {
	t       *testing.T
	dir     string
	pg      *pgtest.Server
	store   string
	routes  []string
	listens []string
	args    []string
	servers []*server
}

// freePorts returns addresses of 127.0.0.1 that nobody listens on.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	all, err := freeport.Take(t.Context(), "127.0.0.1", n)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// startCluster starts three nodes and waits until they are ready.
func startCluster(t *testing.T, args ...string) *nodes {
	t.Helper()
	pg, store := database(t)
	ports := freePorts(t, 6)
	c := &nodes{t: t, dir: t.TempDir(), pg: pg, store: store, routes: ports[:3], listens: ports[3:], args: args, servers: make([]*server, 3)}
	for i := range c.servers {
		c.launch(i)
	}
	for _, s := range c.servers {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// launch starts a node and returns at once.
func (c *nodes) launch(i int) *server {
	c.t.Helper()
	args := append([]string{
		"--listen", c.listens[i], "--device-url", "http://" + c.listens[i], "--store", c.store, "--shards", "4",
		"--cluster-name", "test", "--node-name", fmt.Sprint("node", i), "--cluster-listen", c.routes[i],
		"--routes", strings.Join(c.routes, ","), "--cluster-secret", "the nodes of the tests know this",
	}, c.args...)
	c.servers[i] = launch(c.t, filepath.Join(c.dir, fmt.Sprint(i)), args...)
	return c.servers[i]
}

// A device at any node gets what was accepted at any node, and every node knows what became of it.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	const recipients = 12 // several of every shard
	var mu sync.Mutex
	got := make(map[string]string) // content to recipient
	for i := range recipients {
		to := fmt.Sprint("user", i)
		var d *device
		ready := make(chan struct{})
		d, err := dial(c.servers[i%3].url, token(t, to, time.Hour), func(m delivery) {
			<-ready
			mu.Lock()
			got[m.Content] = to
			mu.Unlock()
			_ = d.acknowledge(m.ID)
		})
		if err != nil {
			t.Fatal(err)
		}
		close(ready)
		t.Cleanup(d.hangUp)
	}
	apis := []*api{c.servers[0].api(), c.servers[1].api(), c.servers[2].api()}
	ids := make(map[string]string)
	for i := range recipients {
		for at, a := range apis {
			m := outgoing{To: fmt.Sprint("user", i), Content: fmt.Sprintf("to %d at %d", i, at)}
			ids[m.Content] = a.mustSend(t, m).ID
		}
	}
	for content, id := range ids {
		for at, s := range c.servers {
			if d := s.awaitStatus(apis[at], id, "delivered"); d.Status != "delivered" {
				t.Errorf("%s is %s at node %d", content, d.Status, at)
			}
		}
	}
	mu.Lock()
	if len(got) != len(ids) {
		t.Errorf("%d of %d messages were received", len(got), len(ids))
	}
	mu.Unlock()

	// What people ask for reaches the owner from any node.
	for at, a := range apis {
		waiting := apis[0].mustSend(t, outgoing{To: fmt.Sprint("absent", at), Content: "waits"})
		c.servers[at].awaitStatus(a, waiting.ID, "queued")
		var canceled details
		if _, err := a.call(t.Context(), http.MethodDelete, "/v1/messages/"+waiting.ID, "", nil, &canceled); err != nil || canceled.Status != "canceled" {
			t.Errorf("canceled at node %d: %s, %v", at, canceled.Status, err)
		}
	}
	for _, s := range c.servers {
		s.stop()
	}
}

// clusterLoad runs a load over the cluster while something is done to it, and accounts for every 202.
func clusterLoad(t *testing.T, c *nodes, disturb func(r *crashRun)) {
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(3, 4, nil)
	disturb(r)
	a := load.finish(90*time.Second, c.servers...)
	t.Log(a)
	if a.accepted < 100 || a.received == 0 || a.waiting == 0 {
		t.Errorf("too little happened to prove anything: %s", a)
	}
}

// clusterArgs are attempts in plenty: devices that vanish must not use a message's up.
func clusterArgs() []string {
	return []string{"--ack-timeout", "3s", "--backoff-base", "50ms", "--backoff-cap", "500ms", "--max-attempts", "1000", "--breaker-strikes", "0", "--log-level", "warn"}
}

// Nodes are killed under load, one after the other, and come back: nothing is lost, and order is kept.
func TestClusterNodesAreKilled(t *testing.T) {
	t.Parallel()
	c := startCluster(t, clusterArgs()...)
	clusterLoad(t, c, func(r *crashRun) {
		for _, i := range rand.Perm(len(c.servers))[:2] {
			r.accepts(100)
			left := slices.Clone(c.servers)
			left[i] = nil
			r.serve(left...)
			t.Logf("node %d is killed", i)
			c.servers[i].kill()
			// The others go on: a message that is accepted now arrives while the node is away.
			r.arrives(60 * time.Second)
			if err := c.launch(i).ready(); err != nil {
				t.Fatal(err)
			}
			r.serve(c.servers...)
		}
	})
	for _, s := range c.servers {
		s.stop()
	}
}

// arrives waits until a message arrives that was sent from now on.
func (r *crashRun) arrives(limit time.Duration) {
	r.t.Helper()
	began := time.Since(r.ledger.epoch)
	before := r.ledger.close(crashIsAway)
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%d recipients got what was sent since within %s; %d messages of %d were accepted", r.ledger.receivedSince(began), limit,
				r.ledger.close(crashIsAway).accepted-before.accepted, r.ledger.close(crashIsAway).sent-before.sent)
		}
		if n := r.ledger.receivedSince(began); n >= crashRecipients-crashAway {
			r.t.Logf("%d recipients got what was sent since within %s", n, time.Since(r.ledger.epoch)-began)
			return
		}
	}
}

// receivedSince returns how many recipients got a message that was first sent after then.
func (l *ledger) receivedSince(then time.Duration) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, list := range l.got {
		if slices.ContainsFunc(list, func(a arrival) bool { s := l.sends[a.content]; return s != nil && s.began > then }) {
			n++
		}
	}
	return n
}

// The nodes are restarted in good order, one after the other, under load. What senders see who use the SDK as it comes, through
// a balancer, is that all is accepted: its retry hides the rest.
func TestClusterRollingRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, append(clusterArgs(), "--drain-delay", "2s", "--trusted-proxies", "127.0.0.1")...)
	b, _ := balancer(t, c.servers)
	clusterLoad(t, c, func(r *crashRun) {
		sdk := r.sendBySDK(b)
		for i := range c.servers {
			r.accepts(100)
			sdk.accepts(b, 50)
			before := sdk.accepted.Load()
			left := slices.Clone(c.servers)
			left[i] = nil
			r.serve(left...)
			c.servers[i].stop()
			if err := c.launch(i).ready(); err != nil {
				t.Fatal(err)
			}
			during := sdk.accepted.Load() - before
			t.Logf("node %d was restarted, and the SDK had %d messages accepted meanwhile", i, during)
			if during == 0 {
				t.Error("the SDK's senders saw nothing of the restart")
			}
			r.serve(c.servers...)
		}
		sdk.accepts(b, 50)
		sdk.stop()
		t.Logf("the SDK had %d messages accepted, its slowest call took %s", sdk.accepted.Load(), sdk.slowest)
	})
	b.stop()
	for _, s := range c.servers {
		s.stop()
	}
}

// bySDK is senders that use the SDK, with the patience that it has by itself.
type bySDK struct {
	accepted atomic.Int64
	stop     func() // returns when the last call has

	mu      sync.Mutex
	slowest time.Duration // call
}

// sendBySDK has two of them send to a server, one message by message and one in batches, until they are stopped. No error is to
// reach them; what they are told is in the ledger.
func (r *crashRun) sendBySDK(s *server) *bySDK {
	r.t.Helper()
	c, err := client.New(s.url, apiKey)
	if err != nil {
		r.t.Fatal(err)
	}
	told := new(bySDK)
	ctx, cancel := context.WithCancel(r.t.Context())
	sender := func(name string, most int, send func(ms []client.Message) ([]client.Receipt, error)) {
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		for n := 0; ; n++ {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
			ms := make([]client.Message, 1+rand.IntN(most))
			for i := range ms {
				ms[i] = client.Message{To: crashRecipient(rand.IntN(crashRecipients)), Content: fmt.Sprintf("%d of %d of %s", i, n, name)}
				r.ledger.begin(ms[i].To, ms[i].Content)
			}
			began := time.Now()
			receipts, err := send(ms)
			took := time.Since(began)
			if err != nil {
				r.t.Errorf("an error has reached who calls the SDK, after %s: %v", took, err)
				return
			}
			for i, m := range ms {
				r.ledger.accepted(m.Content, receipts[i].ID)
			}
			told.accepted.Add(int64(len(ms)))
			told.took(took)
		}
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		sender("the SDK's Send", 1, func(ms []client.Message) ([]client.Receipt, error) {
			receipt, err := c.Send(context.WithoutCancel(ctx), ms[0]) // what was begun is ended
			return []client.Receipt{receipt}, err
		})
	})
	sending.Go(func() {
		sender("the SDK's SendBatch", 10, func(ms []client.Message) ([]client.Receipt, error) {
			results, err := c.SendBatch(context.WithoutCancel(ctx), ms)
			receipts := make([]client.Receipt, len(results))
			for i := range results {
				receipts[i] = results[i].Receipt
			}
			return receipts, err
		})
	})
	told.stop = sync.OnceFunc(func() {
		cancel()
		sending.Wait()
		c.Close()
	})
	r.t.Cleanup(told.stop)
	return told
}

func (told *bySDK) took(d time.Duration) {
	told.mu.Lock()
	defer told.mu.Unlock()
	told.slowest = max(told.slowest, d)
}

// accepts waits until that many more messages were accepted.
func (told *bySDK) accepts(s *server, more int64) {
	s.t.Helper()
	want := told.accepted.Load() + more
	s.await("the SDK to have more messages accepted", func() bool { return told.accepted.Load() >= want })
}
