package e2e

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// gate forwards TCP connections while it is open. Shut, it breaks them all and takes none; silent, it keeps what is said to itself
// until it is open again.
type gate struct {
	to       string
	listener net.Listener

	mu    sync.Mutex
	shut  bool
	tight bool
	open  chan struct{} // closed while the gate is not silent
	conns map[net.Conn]struct{}
	busy  sync.WaitGroup
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{to: to, listener: l, open: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	close(g.open)
	g.busy.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			g.busy.Go(func() { g.forward(in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.set(true)
		g.busy.Wait()
	})
	return g
}

func (g *gate) forward(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer out.Close()
	g.mu.Lock()
	if g.shut {
		g.mu.Unlock()
		return
	}
	g.conns[in], g.conns[out] = struct{}{}, struct{}{}
	g.mu.Unlock()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], &heard{g: g, from: pair[1]})
			_ = pair[0].Close()
			_ = pair[1].Close()
		})
	}
	both.Wait()
	g.mu.Lock()
	delete(g.conns, in)
	delete(g.conns, out)
	g.mu.Unlock()
}

// heard is what comes from one side, while the gate is not silent, up to what is too long for it while it is narrow.
type heard struct {
	g    *gate
	from io.Reader
	lost bool
}

func (h *heard) Read(b []byte) (int, error) {
	for {
		n, err := h.from.Read(b)
		h.g.mu.Lock()
		open := h.g.open
		h.lost = h.lost || h.g.tight && n > 1400
		h.g.mu.Unlock()
		<-open
		if err != nil || !h.lost {
			return n, err
		}
	}
}

// narrow has the gate lose long packets until set is called, and what follows on them.
func (g *gate) narrow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tight = true
}

// silence has the gate fall silent until set is called.
func (g *gate) silence() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

// set shuts the gate or opens it.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.tight = shut, false
	select {
	case <-g.open:
	default:
		close(g.open)
	}
	if shut {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

// A node loses its way to the others: its devices are told to go, hear at the same node where to, and miss nothing. When the way is
// back, the node takes devices again.
func TestCutOffNodeSendsItsDevicesAway(t *testing.T) {
	t.Parallel()
	pg, store := database(t)
	ports := freePorts(t, 8)
	c := &nodes{t: t, dir: t.TempDir(), pg: pg, store: store, routes: ports[:3], listens: ports[3:6], servers: make([]*server, 3)}
	c.args = []string{"--log-level", "warn", "--client-listen", ports[6]}
	c.launch(0)
	c.args = c.args[:2]
	c.launch(1)
	c.launch(2)
	g := newGate(t, ports[6])
	cut := launch(t, filepath.Join(c.dir, "cut"), "--listen", ports[7], "--device-url", "http://"+ports[7], "--store", store, "--shards", "4",
		"--cluster-name", "test", "--node-name", "cut", "--nats-url", "nats://"+g.listener.Addr().String(),
		"--cluster-secret", "the nodes of the tests know this")
	for _, s := range append([]*server{cut}, c.servers...) {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
	const many = 60
	w := newSwarm(t)
	w.serve(c.servers...)
	w.connect(cut, many)
	w.write()
	began := time.Now()
	g.set(true)
	cut.await("its devices to be at the others", func() bool { return connected(c.servers...) == many })
	t.Logf("they were served again after %s", time.Since(began))
	if n := cut.metric(`esh3ar_devices_shed_total{reason="cut_off"}`); n != many {
		t.Errorf("%d devices were told to go, want %d", n, many)
	}
	if _, err := dial(cut.url, token(t, "late", time.Hour), func(delivery) {}); err == nil || !strings.Contains(fmt.Sprint(err), "503") {
		t.Errorf("a node that can serve nobody takes a device: %v", err)
	}
	t.Log(w.finish(c.servers[1]))

	g.set(false)
	cut.await("the node to take devices again", func() bool {
		d, err := dial(cut.url, token(t, "late", time.Hour), func(delivery) {})
		if err == nil {
			d.hangUp()
		}
		return err == nil
	})
	cut.stop()
	for _, s := range c.servers {
		s.stop()
	}
}
