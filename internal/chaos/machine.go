//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/chaos/faultfs"
	"github.com/esh3artech/esh3ar/internal/node"
)

// machine is one server with what it runs on: a disk, a clock, and memory of its own.
type machine struct {
	*lab
	name    string
	addr    string // where it listens, the same in all its lives
	scratch string // where its files are that no fault touches
	data    string // the server's data directory
	server  *supervisor

	fsys    *faultfs.FS // nil where it cannot be mounted
	noDisk  error
	group   *group // nil where it cannot be made
	noGroup error

	clockFile string
	pages     int // lost in power cuts
}

// newMachine makes a machine whose server listens at an address and is started with these further arguments. What it has
// made when it fails is closed by close.
func (l *lab) newMachine(name, addr, scratch string, args ...string) (*machine, error) {
	m := &machine{lab: l, name: name, addr: addr, scratch: scratch, data: filepath.Join(scratch, "data"), clockFile: filepath.Join(scratch, "clock")}
	l.machines = append(l.machines, m)
	backing := filepath.Join(scratch, "disk")
	for _, dir := range []string{m.data, backing} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return m, err
		}
	}
	if err := m.setClock(0); err != nil {
		return m, err
	}
	var err error
	if m.fsys, err = faultfs.Mount(backing, m.data); err != nil {
		m.fsys, m.noDisk = nil, err
	}
	if m.group, err = newGroup(); err != nil {
		m.noGroup = err
	}
	line := []string{l.opts.Program, "serve", "--listen", m.addr, "--data", m.data, "--shards", fmt.Sprint(l.shards()),
		"--ack-timeout", "1s", "--backoff-base", "50ms", "--backoff-cap", "500ms", "--max-attempts", fmt.Sprint(maxAttempts),
		"--breaker-pause", "300ms", "--journal-keep", "20s", "--disk-reserve", fmt.Sprintf("%dB", diskReserve),
		"--publish-timeout", "2s", "--drain-timeout", drainTimeout.String(), "--idle-timeout", "1m"}
	if l.opts.Database != nil {
		line = append(line, "--store", l.opts.Database.URL("postgres"))
	}
	m.server = &supervisor{
		line: append(line, args...), scratch: scratch, ended: m.ended,
		env: append(os.Environ(), "ESH3AR_BOOTSTRAP_KEY="+apiKey, "ESH3AR_JWT_SECRET="+jwtSecret, "ESH3AR_ADMIN_KEY="+adminKey,
			"ESH3AR_CLUSTER_SECRET="+clusterSecret, "GORACE=halt_on_error=1", node.ClockFileVariable+"="+m.clockFile),
		started: func(pid int) error {
			if m.group == nil {
				return nil
			}
			return m.group.add(pid)
		},
	}
	return m, nil
}

func (m *machine) close() error {
	var errs []error
	if m.server != nil {
		m.server.close()
	}
	if m.fsys != nil {
		errs = append(errs, m.fsys.Close())
	}
	if m.group != nil {
		errs = append(errs, m.group.close())
	}
	return errors.Join(errs...)
}

// say tells the log what happens to the machine, below the line of the fault.
func (m *machine) say(format string, args ...any) {
	m.lab.say("         %s: %s", m.name, fmt.Sprintf(format, args...))
}

// ended is told of every end of the server that nobody asked for. A server that cannot start without
// its store or its disk may say so and is started again; anything else is a crash.
func (m *machine) ended(err error) {
	if m.healing("store-down", "store-hang", "store-set-back", "disk-full", "fsync-error") {
		m.mu.Lock()
		m.exits++
		m.mu.Unlock()
		m.say("ended: %v; it is started again", err)
		return
	}
	m.book.fault("%s ended by itself: %v\n%s", m.name, err, m.server.tail(1500))
}

// stop asks the server to stop. One that has no address yet is still starting and may say so.
func (m *machine) stop() {
	v := m.server.current()
	exit, late := m.server.down(syscall.SIGTERM, drainTimeout+drainGrace)
	switch {
	case late != nil:
		m.book.fault("a graceful stop of %s: %v", m.name, late)
	case exit != nil && v != nil && v.served() && !m.healing("store-down", "store-hang", "store-set-back", "disk-full", "fsync-error"):
		m.book.fault("a graceful stop of %s ended with %v", m.name, exit)
	}
}

// kill ends the server with SIGKILL.
func (m *machine) kill() error {
	_, late := m.server.down(syscall.SIGKILL, bootLimit)
	return late
}

// cutPower drops what was not synced, of a server that is down.
func (m *machine) cutPower(dice *rand.Rand) error {
	loss, err := m.fsys.PowerCut(dice)
	m.say("power cut: %d pages of %d files are gone", loss.Pages, loss.Files)
	m.pages += loss.Pages
	return err
}

// whileDown kills the server, does something and starts it again.
func (m *machine) whileDown(do func() error) error {
	if err := m.kill(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return m.server.launch()
}

// setClock sets how far the server's wall clock is off.
func (m *machine) setClock(by time.Duration) error {
	temp := m.clockFile + ".new"
	if err := os.WriteFile(temp, []byte(by.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, m.clockFile)
}

// served reports whether the process has got as far as to bind its address.
func (v *life) served() bool {
	_, err := os.Stat(v.addr)
	return err == nil
}

// some is one of the machines.
func (l *lab) some(dice *rand.Rand) *machine { return l.machines[dice.IntN(len(l.machines))] }

// dial connects to the balancer, or without one to any of the servers that takes connections.
func (l *lab) dial(ctx context.Context) (net.Conn, error) {
	if l.balancer != nil {
		return l.balancer.dial(ctx)
	}
	err := errNoServer
	for _, i := range rand.Perm(len(l.machines)) {
		var conn net.Conn
		if conn, err = l.machines[i].server.dial(ctx); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// tails are the last bytes of the servers' logs.
func (l *lab) tails(most int) string {
	var b strings.Builder
	for _, m := range l.machines {
		fmt.Fprintf(&b, "%s: …%s\n", m.name, m.server.tail(most/len(l.machines)))
	}
	return b.String()
}

// each does something to several machines side by side.
func each(machines []*machine, do func(*machine) error) error {
	errs := make(chan error, len(machines))
	for _, m := range machines {
		go func() { errs <- do(m) }()
	}
	var err error
	for range machines {
		err = errors.Join(err, <-errs)
	}
	return err
}
