//go:build unix

package chaos

import (
	"context"
	"net"
	"regexp"
	"sync"
	"time"
)

// links is the network between the nodes of a cluster: in front of each are proxies that know who calls, so that any two
// can be cut off from each other, one way or both, or be far away. What is cut is not closed: as in a real network nothing
// arrives any more.
type links struct {
	ctx     context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	fronts  []*front

	mu   sync.Mutex
	ways map[way]condition // what is not as it should be
}

// way is one direction between two nodes.
type way struct{ from, to string }

// condition is what becomes of what is sent one way.
type condition struct {
	cut   bool          // it does not arrive
	delay time.Duration // up to pumpSize bytes at a time take so long, and what comes behind waits
}

// front is a proxy in front of one node.
type front struct {
	name   string // the node's
	target string // its address
	caller string // who calls here, "" for a server of the core, which says so itself
	ln     net.Listener
}

// newLinks returns a network without nodes.
func newLinks(ctx context.Context) *links {
	k := &links{ways: make(map[way]condition)}
	k.ctx, k.end = context.WithCancel(context.WithoutCancel(ctx))
	return k
}

// lead returns an address that leads to the node's, until the network is closed. Caller is who calls there; "" stands for
// all servers of the core.
func (k *links) lead(caller, name, target string) (string, error) {
	ln, err := (&net.ListenConfig{}).Listen(k.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	f := &front{name: name, target: target, caller: caller, ln: ln}
	k.fronts = append(k.fronts, f)
	k.running.Go(func() { k.accept(f) })
	return ln.Addr().String(), nil
}

func (k *links) close() {
	k.end()
	for _, f := range k.fronts {
		f.ln.Close()
	}
	k.running.Wait()
}

// set sets what becomes of what is sent these ways from now on. The zero condition heals them.
func (k *links) set(c condition, ways ...way) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range ways {
		k.ways[w] = c
	}
}

func (k *links) condition(w way) condition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ways[w]
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

// callerName is how a calling server of the core says its name.
var callerName = regexp.MustCompile(`"server_name":"([^"]+)"`)

// forward forwards a connection until one end closes it. Which server of the core calls is known from what it says first.
func (k *links) forward(f *front, in, out net.Conn) {
	var mu sync.Mutex
	caller := f.caller
	who := func() string {
		mu.Lock()
		defer mu.Unlock()
		return caller
	}
	stop := context.AfterFunc(k.ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		k.pump(in, out, func([]byte) condition { return k.condition(way{f.name, who()}) })
		in.Close()
		out.Close()
	})
	var first []byte
	k.pump(out, in, func(b []byte) condition {
		if who() == "" {
			first = append(first, b...)
			if m := callerName.FindSubmatch(first); m != nil {
				mu.Lock()
				caller = string(m[1])
				mu.Unlock()
				first = nil
			}
		}
		return k.condition(way{who(), f.name})
	})
	in.Close()
	out.Close()
	both.Wait()
}

// pumpSize is how many bytes are forwarded at a time, at most.
const pumpSize = 64 << 10

// pump forwards one way, as the condition is then of what is read: what is cut is kept until it is not.
func (k *links) pump(to, from net.Conn, state func([]byte) condition) {
	buf := make([]byte, pumpSize)
	for {
		n, err := from.Read(buf)
		c := state(buf[:n])
		for ; c.cut; c = state(nil) {
			if !pause(k.ctx, 20*time.Millisecond) {
				return
			}
		}
		if c.delay > 0 && !pause(k.ctx, c.delay) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil || k.ctx.Err() != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
