//go:build unix

package chaos

import (
	"context"
	"net"
	"regexp"
	"sync"
	"time"
)

// links is the network between the nodes of a cluster: in front of each a proxy that knows who calls, so that any two
// can be cut off from each other. What is cut is not closed: as in a real network nothing arrives any more.
type links struct {
	ctx     context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	fronts  []*front // by number of the node

	mu  sync.Mutex
	off map[[2]string]bool // pairs that are cut off from each other, the lesser name first
}

// front is the proxy in front of one node.
type front struct {
	name   string // the node's
	target string // its address
	ln     net.Listener
}

func (f *front) addr() string { return f.ln.Addr().String() }

// newLinks returns the network of these nodes, whose servers listen at these addresses. It forwards until it is closed.
func newLinks(ctx context.Context, names, targets []string) (*links, error) {
	k := &links{off: make(map[[2]string]bool)}
	k.ctx, k.end = context.WithCancel(context.WithoutCancel(ctx))
	for i := range names {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			k.close()
			return nil, err
		}
		f := &front{name: names[i], target: targets[i], ln: ln}
		k.fronts = append(k.fronts, f)
		k.running.Go(func() { k.accept(f) })
	}
	return k, nil
}

func (k *links) close() {
	k.end()
	for _, f := range k.fronts {
		f.ln.Close()
	}
	k.running.Wait()
}

func (k *links) addrs() []string {
	var addrs []string
	for _, f := range k.fronts {
		addrs = append(addrs, f.addr())
	}
	return addrs
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// cut sets whether two nodes are cut off from each other.
func (k *links) cut(a, b string, off bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if off {
		k.off[pair(a, b)] = true
	} else {
		delete(k.off, pair(a, b))
	}
}

// open says whether the two can talk.
func (k *links) open(a, b string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.off[pair(a, b)]
}

func (k *links) accept(f *front) {
	for {
		in, err := f.ln.Accept()
		if err != nil {
			return // closed
		}
		out, err := (&net.Dialer{Timeout: time.Second}).DialContext(k.ctx, "tcp", f.target)
		if err != nil {
			in.Close()
			continue
		}
		k.running.Go(func() { k.forward(f, in, out) })
	}
}

// callerName is how a calling NATS server says its name.
var callerName = regexp.MustCompile(`"server_name":"([^"]+)"`)

// forward forwards a connection until one end closes it. Who calls is known from what is said first.
func (k *links) forward(f *front, in, out net.Conn) {
	var mu sync.Mutex
	caller := ""
	who := func() string {
		mu.Lock()
		defer mu.Unlock()
		return caller
	}
	stop := context.AfterFunc(k.ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		k.pump(in, out, func([]byte) bool { return k.open(who(), f.name) })
		in.Close()
		out.Close()
	})
	var first []byte
	k.pump(out, in, func(b []byte) bool {
		if who() == "" {
			first = append(first, b...)
			if m := callerName.FindSubmatch(first); m != nil {
				mu.Lock()
				caller = string(m[1])
				mu.Unlock()
				first = nil
			}
		}
		return k.open(who(), f.name)
	})
	in.Close()
	out.Close()
	both.Wait()
}

// pump forwards one way what passes, and keeps what does not until it does.
func (k *links) pump(to, from net.Conn, passes func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		for !passes(buf[:n]) {
			if !pause(k.ctx, 20*time.Millisecond) {
				return
			}
		}
		if _, err := to.Write(buf[:n]); err != nil || k.ctx.Err() != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
