// Package clustertest runs several NATS servers with JetStream as a cluster in
// one process, and cuts and kills them.
package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

// patience is how long what must happen may take on a busy machine.
const patience = time.Minute

// Cluster is servers that form one, named n0, n1 and so on. Every connection
// between two of them passes through a proxy of the test's.
type Cluster struct {
	tb      testing.TB
	dir     string
	options func(i int, o *cluster.Options)
	net     *network

	mu      sync.Mutex
	servers []*cluster.Server
}

// Start starts n servers and waits until all are ready. They end with the test.
// Options, if not nil, changes those of the i-th server.
func Start(tb testing.TB, n int, options func(i int, o *cluster.Options)) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, dir: tb.TempDir(), options: options, servers: make([]*cluster.Server, n), net: newNetwork(tb, n)}
	tb.Cleanup(c.close)
	for i := range n {
		c.start(i)
	}
	for i := range n {
		c.Ready(i)
	}
	return c
}

// Name is the i-th server's name.
func Name(i int) string { return fmt.Sprintf("n%d", i) }

// Server is the i-th server.
func (c *Cluster) Server(i int) *cluster.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[i]
}

// Len is how many servers there are.
func (c *Cluster) Len() int { return len(c.net.proxies) }

func (c *Cluster) start(i int) {
	c.tb.Helper()
	o := cluster.Options{
		Name: Name(i), Dir: filepath.Join(c.dir, Name(i)), MaxStore: 64 << 30, MaxMemory: 64 << 20,
		Logger: slog.New(slog.DiscardHandler),
		Peers: &cluster.Peers{
			Cluster: "test", Listen: "127.0.0.1:0", Advertise: c.net.proxies[i].addr(), Routes: c.net.addrs(), Secret: "of the test",
		},
	}
	if c.options != nil {
		c.options(i, &o)
	}
	s, err := cluster.Start(o)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.net.proxies[i].forward(s.PeerAddr())
	c.mu.Lock()
	c.servers[i] = s
	c.mu.Unlock()
}

// Ready waits until the i-th server is.
func (c *Cluster) Ready(i int) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Server(i).Ready(ctx); err != nil {
		c.tb.Fatal(err)
	}
}

// Cut breaks all connections between the i-th server and the others, and lets
// no new ones come about until Heal.
func (c *Cluster) Cut(i int) { c.net.cut(i, true) }

// Heal undoes Cut.
func (c *Cluster) Heal(i int) { c.net.cut(i, false) }

// Kill ends the i-th server without a word to the others.
func (c *Cluster) Kill(i int) {
	c.tb.Helper()
	c.Cut(i)
	c.Stop(i)
}

// Stop ends the i-th server in good order.
func (c *Cluster) Stop(i int) {
	c.tb.Helper()
	c.net.proxies[i].forward("") // its port may be another test's server's next
	if err := c.Server(i).Close(); err != nil {
		c.tb.Error(err)
	}
}

// Restart starts the i-th server again, after Kill or Stop, on what it has kept.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	c.Heal(i)
	c.start(i)
}

func (c *Cluster) close() {
	for _, s := range c.servers {
		if s == nil {
			continue
		}
		if err := s.Close(); err != nil {
			c.tb.Error(err)
		}
	}
}
