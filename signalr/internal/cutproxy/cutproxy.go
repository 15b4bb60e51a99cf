// Package cutproxy is a TCP proxy for tests that cuts connections in
// mid-stream.
package cutproxy

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// A Proxy forwards TCP connections until it is told to cut them.
type Proxy struct {
	url    string
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns map[net.Conn]struct{}
}

// New returns a proxy in front of the server of a URL. It ends with the test.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: u.Host, ln: ln, conns: make(map[net.Conn]struct{})}
	u.Host = ln.Addr().String()
	p.url = u.String()
	ctx := t.Context()
	p.wg.Go(func() { p.accept(ctx) })
	t.Cleanup(func() {
		_ = ln.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is the URL that the proxy was made for, with the proxy's own address.
func (p *Proxy) URL() string { return p.url }

func (p *Proxy) accept(ctx context.Context) {
	for {
		down, err := p.ln.Accept()
		if err != nil {
			return
		}
		up, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.target)
		if err != nil {
			_ = down.Close()
			continue
		}
		p.mu.Lock()
		if p.ended {
			p.mu.Unlock()
			_ = down.Close()
			_ = up.Close()
			return
		}
		p.conns[down], p.conns[up] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(up, down) })
		p.wg.Go(func() { p.copy(down, up) })
	}
}

func (p *Proxy) copy(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
	p.mu.Lock()
	delete(p.conns, to)
	delete(p.conns, from)
	p.mu.Unlock()
}

// Cut breaks all present connections with a reset, so that what is under way
// is lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}
