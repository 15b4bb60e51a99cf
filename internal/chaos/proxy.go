//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between the devices and the server and can cut their connections, in the middle of a
// frame, or stop forwarding.
type proxy struct {
	ln      net.Listener
	server  func(context.Context) (net.Conn, error)
	cutting atomic.Bool
	stalled atomic.Bool
	cuts    atomic.Int64
	ctx     context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	dice *rand.Rand
}

// newProxy returns a proxy that forwards until it is closed.
func newProxy(ctx context.Context, server func(context.Context) (net.Conn, error), dice *rand.Rand) (*proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{ln: ln, server: server, dice: dice}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			p.running.Go(func() { p.forward(conn) })
		}
	})
	return p, nil
}

func (p *proxy) url() string { return "http://" + p.ln.Addr().String() }

func (p *proxy) close() {
	p.ln.Close()
	p.end()
	p.running.Wait()
}

// cutLimit is the most that a connection forwards while connections are cut.
const cutLimit = 4000

// budget draws how many bytes pass before the next cut.
func (p *proxy) budget() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 1 + p.dice.Int64N(cutLimit)
}

// forward forwards a connection, both ways, until one end closes it or it is cut.
func (p *proxy) forward(device net.Conn) {
	defer device.Close()
	server, err := p.server(p.ctx)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(p.ctx, func() { device.Close(); server.Close() })
	defer stop()
	var left atomic.Int64
	left.Store(p.budget())
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{device, server}, {server, device}} {
		both.Go(func() {
			p.pump(way[1], way[0], &left)
			// One way alone is no connection.
			device.Close()
			server.Close()
		})
	}
	both.Wait()
}

// pump forwards one way. Left is what both ways may still forward while connections are cut.
func (p *proxy) pump(to, from net.Conn, left *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for p.stalled.Load() && p.ctx.Err() == nil {
			if !pause(p.ctx, 20*time.Millisecond) {
				return
			}
		}
		if n > 0 && p.cutting.Load() {
			if over := left.Add(int64(-n)); over < 0 {
				p.cuts.Add(1)
				// What is left of it goes through: the other end gets the beginning of a frame.
				_, _ = to.Write(buf[:max(int64(n)+over, 0)])
				return
			}
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pause waits for d. It reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
