package clustertest

import (
	"errors"
	"net"
	"regexp"
	"sync"
	"testing"
)

// network is a proxy in front of every server, which knows who calls.
type network struct {
	proxies []*proxy

	mu  sync.Mutex
	off map[string]bool // names of servers that are cut off
	all map[*link]bool
}

// link is a connection between two servers.
type link struct {
	from, to  string // from is "" until the caller has said it
	in, out   net.Conn
	closeOnce sync.Once
}

func (l *link) close() {
	l.closeOnce.Do(func() {
		l.in.Close()
		l.out.Close()
	})
}

func newNetwork(tb testing.TB, n int) *network {
	tb.Helper()
	nw := &network{off: make(map[string]bool), all: make(map[*link]bool)}
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // ends with the test
		if err != nil {
			tb.Fatal(err)
		}
		p := &proxy{nw: nw, name: Name(i), ln: ln}
		nw.proxies = append(nw.proxies, p)
		p.running.Go(p.run)
		tb.Cleanup(p.close)
	}
	return nw
}

func (nw *network) addrs() []string {
	var addrs []string
	for _, p := range nw.proxies {
		addrs = append(addrs, p.addr())
	}
	return addrs
}

// cut sets whether a server is cut off.
func (nw *network) cut(i int, off bool) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.off[Name(i)] = off
	for l := range nw.all {
		if !nw.open(l) {
			l.close()
		}
	}
}

// open says whether a connection may be. The lock must be held.
func (nw *network) open(l *link) bool { return !nw.off[l.from] && !nw.off[l.to] }

// proxy is in front of one server.
type proxy struct {
	nw      *network
	name    string
	ln      net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	target string // "" while the server is away
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) forward(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *proxy) close() {
	p.ln.Close()
	p.nw.mu.Lock()
	for l := range p.nw.all {
		if l.to == p.name {
			l.close()
		}
	}
	p.nw.mu.Unlock()
	p.running.Wait()
}

func (p *proxy) run() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		var out net.Conn
		if err = errors.New("no server"); target != "" {
			out, err = net.Dial("tcp", target) //nolint:noctx // on loopback
		}
		if err != nil {
			in.Close()
			continue
		}
		l := &link{to: p.name, in: in, out: out}
		p.nw.mu.Lock()
		p.nw.all[l] = true
		open := p.nw.open(l)
		p.nw.mu.Unlock()
		if !open {
			l.close()
		}
		p.running.Go(func() { p.serve(l) })
	}
}

func (p *proxy) serve(l *link) {
	var back sync.WaitGroup
	back.Go(func() {
		defer l.close()
		copyConn(l.in, l.out, nil)
	})
	copyConn(l.out, l.in, func(first []byte) (known, goOn bool) {
		m := serverName.FindSubmatch(first)
		if m == nil {
			return false, true
		}
		p.nw.mu.Lock()
		defer p.nw.mu.Unlock()
		l.from = string(m[1])
		return true, p.nw.open(l)
	})
	l.close()
	back.Wait()
	p.nw.mu.Lock()
	delete(p.nw.all, l)
	p.nw.mu.Unlock()
}

// serverName is how a calling server says its name.
var serverName = regexp.MustCompile(`"server_name":"([^"]+)"`)

// copyConn copies until either side ends. Look, if set, sees all that has come
// before it is passed on, until it knows what it wants to; it may end the copying.
func copyConn(to, from net.Conn, look func(first []byte) (known, goOn bool)) {
	var first []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if look != nil {
			first = append(first, buf[:n]...)
			known, goOn := look(first)
			if !goOn {
				return
			}
			if known {
				look, first = nil, nil
			}
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
