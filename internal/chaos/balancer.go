//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// openBalancer makes the balancer in front of all servers.
func (l *lab) openBalancer() error {
	scratch := filepath.Join(l.dir, "balancer")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	var nodes []string
	for _, m := range l.machines {
		nodes = append(nodes, "http://"+m.addr)
	}
	l.balancer = &supervisor{
		line: []string{l.opts.Program, "balance", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--node", strings.Join(nodes, ","), "--slow-start", "1s"},
		env:  os.Environ(), scratch: scratch, started: func(int) error { return nil },
		ended: func(err error) { l.book.fault("the balancer ended by itself: %v\n%s", err, l.balancer.tail(1500)) },
	}
	return nil
}

// startBalancer starts it and waits until it serves.
func (l *lab) startBalancer() error {
	if err := l.balancer.launch(); err != nil {
		return err
	}
	return l.balancer.up(l.ctx)
}

// stopBalancer asks it to stop.
func (l *lab) stopBalancer() {
	if exit, late := l.balancer.down(syscall.SIGTERM, balancerGrace); exit != nil || late != nil {
		l.book.fault("a graceful stop of the balancer ended with %v, %v", exit, late)
	}
}

// balancerGrace is how long the balancer may take to stop when nobody talks to it any more.
const balancerGrace = 15 * time.Second

// killBalancer kills the balancer, and with it the connections of all clients and devices.
type killBalancer struct {
	named
	*lab
}

func newKillBalancer(l *lab, _ *rand.Rand) Fault { return killBalancer{"kill-balancer", l} }

func (f killBalancer) Inject(context.Context) error {
	_, late := f.balancer.down(syscall.SIGKILL, bootLimit)
	return late
}

func (f killBalancer) Heal(context.Context) error { return f.balancer.launch() }
