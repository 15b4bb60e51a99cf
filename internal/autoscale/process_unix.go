//go:build unix

package autoscale

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/esh3artech/esh3ar/internal/filelock"
)

// Process is a provider that runs nodes as processes of this machine. They live on when the autoscaler ends, and another
// one over the same directory goes on with them:
//
//	lock           held by whoever changes something
//	NAME/alive     locked by the node's process for as long as it lives, which no restart and no reused number can feign
//	NAME/pid       its number, written before the program begins
//	NAME/draining  since when it has been told to end; not there before
//	NAME/log       what it says, and NAME/data its data
//	NAME.log       what was said by one that has ended
//
// A node whose process has ended is forgotten, with its data: elastic nodes keep nothing that is not in the journal or
// the store.
type Process struct {
	opts     ProcessOptions
	children map[int]struct{} // of this process, to be waited for
}

// NewProcess checks the options and makes the directory.
func NewProcess(o ProcessOptions) (*Process, error) {
	if o.Dir == "" || o.Command == nil || o.Logger == nil || o.DrainTimeout <= 0 {
		return nil, errors.New("autoscale: processes need a directory, a command, a time-out and a logger")
	}
	if !processName.MatchString(o.Prefix + "-1") {
		return nil, fmt.Errorf("autoscale: names beginning with %q: want letters, digits, - and _", o.Prefix)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("autoscale: %w", err)
	}
	return &Process{opts: o, children: make(map[int]struct{})}, nil
}

var processName = regexp.MustCompile(`^[A-Za-z0-9_-]+-[0-9]+$`)

// Name implements Provider.
func (p *Process) Name() string { return "process" }

// Inventory implements Provider. It forgets the nodes that have ended, and kills those that do not.
func (p *Process) Inventory(ctx context.Context) (Inventory, error) {
	unlock, err := p.lock(ctx)
	if err != nil {
		return Inventory{}, err
	}
	defer unlock()
	running, err := p.look()
	inv := Inventory{Removable: []string{}}
	for _, n := range running {
		if n.draining.IsZero() {
			inv.Removable = append(inv.Removable, n.name)
		}
	}
	return inv, err
}

// Scale implements Provider. Processes that run and have not become nodes count for what is to be added.
func (p *Process) Scale(ctx context.Context, o Order) error {
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := p.look()
	if err != nil {
		return err
	}
	if o.Add > 0 {
		return p.start(ctx, o, running)
	}
	i := slices.IndexFunc(running, func(n processNode) bool { return n.name == o.Node && n.draining.IsZero() })
	if i < 0 {
		return fmt.Errorf("autoscale: no process of the node %s runs here", o.Node)
	}
	return p.drain(running[i])
}

// Stop drains all nodes and waits until they have ended, which is bounded by the drain's time-out; those that have not
// ended when ctx does are killed at once.
func (p *Process) Stop(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		unlock, err := p.lock(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		running, err := p.look()
		for _, n := range running {
			switch {
			case ctx.Err() != nil:
				err = errors.Join(err, n.signal(syscall.SIGKILL))
			case n.draining.IsZero():
				err = errors.Join(err, p.drain(n))
			}
		}
		unlock()
		if len(running) == 0 || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// processNode is a node whose process runs.
type processNode struct {
	name, dir string
	draining  time.Time // zero if it is not
}

func (p *Process) node(name string) processNode {
	return processNode{name: name, dir: filepath.Join(p.opts.Dir, name)}
}

func (n processNode) file(name string) string { return filepath.Join(n.dir, name) }

// lock waits until nobody else changes anything.
func (p *Process) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.opts.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("autoscale: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		free, err := filelock.Try(f)
		if free {
			return func() { f.Close() }, nil
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("autoscale: lock %s: %w", p.opts.Dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("autoscale: another process uses %s: %w", p.opts.Dir, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// look returns the nodes whose processes run. The lock must be held.
func (p *Process) look() ([]processNode, error) {
	for pid := range p.children {
		if done, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); done != 0 || err != nil {
			delete(p.children, pid)
		}
	}
	entries, err := os.ReadDir(p.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("autoscale: %w", err)
	}
	var running []processNode
	for _, e := range entries {
		if !e.IsDir() || !processName.MatchString(e.Name()) || !strings.HasPrefix(e.Name(), p.opts.Prefix+"-") {
			continue
		}
		n := p.node(e.Name())
		alive, err := n.alive()
		if err != nil {
			return nil, fmt.Errorf("autoscale: %w", err)
		}
		if raw, err := os.ReadFile(n.file("draining")); err == nil {
			// What cannot be read was being written when the machine went down, with the process.
			n.draining, _ = time.Parse(time.RFC3339Nano, string(raw))
			n.draining = n.draining.Add(time.Nanosecond) // never zero
		}
		if !alive {
			p.forget(n)
			continue
		}
		if !n.draining.IsZero() && time.Since(n.draining) > p.opts.DrainTimeout {
			p.opts.Logger.Warn("a node does not end and is killed", "node", n.name, "after", p.opts.DrainTimeout)
			if err := n.signal(syscall.SIGKILL); err != nil {
				p.opts.Logger.Warn("a node cannot be killed", "node", n.name, "error", err)
			}
		}
		running = append(running, n)
	}
	return running, nil
}

// alive says whether the node's process is.
func (n processNode) alive() (bool, error) {
	f, err := os.OpenFile(n.file("alive"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	free, err := filelock.Try(f)
	return !free && err == nil, err
}

// forget removes what a node that has ended left, but for what it said.
func (p *Process) forget(n processNode) {
	if n.draining.IsZero() {
		p.opts.Logger.Warn("a node's process has ended by itself", "node", n.name, "log", n.dir+".log")
	} else {
		p.opts.Logger.Info("a node has ended", "node", n.name)
	}
	if err := os.Rename(n.file("log"), n.dir+".log"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.opts.Logger.Warn("a node's log is not kept", "node", n.name, "error", err)
	}
	if err := os.RemoveAll(n.dir); err != nil {
		p.opts.Logger.Warn("a node's data is left", "node", n.name, "error", err)
	}
}

// start starts as many nodes as are missing for the order, or none.
func (p *Process) start(ctx context.Context, o Order, running []processNode) error {
	serving := 0
	taken := make(map[string]bool)
	for _, n := range running {
		taken[n.name] = true
		if n.draining.IsZero() {
			serving++
		}
	}
	n := min(o.Add, o.Wanted-serving)
	if n < 1 {
		return fmt.Errorf("autoscale: %d processes run already, and not all of them have become nodes: see the logs in %s", serving, p.opts.Dir)
	}
	var started []*os.Process
	defer func() {
		for _, process := range started {
			_ = process.Release() // look waits for it
		}
	}()
	for i := 1; len(started) < n; i++ {
		name := p.opts.Prefix + "-" + strconv.Itoa(i)
		if taken[name] {
			continue
		}
		process, err := p.startOne(ctx, p.node(name))
		if err != nil {
			for _, before := range started {
				err = errors.Join(err, before.Kill())
			}
			return fmt.Errorf("autoscale: start %s: %w", name, err)
		}
		started = append(started, process)
	}
	return nil
}

// startOne starts a node's process. A shell writes the process's number down before it becomes the program: so the number
// is there whatever happens to this process meanwhile.
func (p *Process) startOne(ctx context.Context, n processNode) (process *os.Process, err error) {
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(n.dir))
		}
	}()
	line, env, err := p.opts.Command(ctx, n.name, n.file("data"))
	if err != nil {
		return nil, err
	}
	alive, err := os.OpenFile(n.file("alive"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer alive.Close() // the child has it
	if _, err := filelock.Try(alive); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(n.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has it
	// Not of ctx: the process is to live on.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, n.file("pid")}, line...)...) //nolint:noctx // see above
	cmd.Dir, cmd.Env = n.dir, env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{alive}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal of this one's terminal is meant for it
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.children[cmd.Process.Pid] = struct{}{}
	p.opts.Logger.Info("a node is started", "node", n.name, "process", cmd.Process.Pid)
	return cmd.Process, nil
}

// drain tells a node to end, and notes that it did before.
func (p *Process) drain(n processNode) error {
	draining := n.file("draining")
	if err := os.WriteFile(draining, []byte(time.Now().UTC().Format(time.RFC3339Nano)), 0o600); err != nil {
		return fmt.Errorf("autoscale: drain %s: %w", n.name, err)
	}
	if err := n.signal(syscall.SIGTERM); err != nil {
		return errors.Join(fmt.Errorf("autoscale: drain %s: %w", n.name, err), os.Remove(draining))
	}
	p.opts.Logger.Info("a node is drained", "node", n.name)
	return nil
}

// signal sends a signal to the node's process, and to no other that has got its number.
func (n processNode) signal(s os.Signal) error {
	raw, err := os.ReadFile(n.file("pid"))
	if err != nil {
		return fmt.Errorf("the number of its process: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("the number of its process: %w", err)
	}
	process, err := os.FindProcess(pid) // a handle, where the system has such
	if err != nil {
		return err
	}
	defer process.Release() //nolint:errcheck // it was only looked at
	// The number was the node's when the handle was made if the node lives now.
	if alive, err := n.alive(); err != nil || !alive {
		return err
	}
	if err := process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
