//go:build unix

package autoscale

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// processes is a provider over a directory, whose nodes are the test's own program.
func processes(t *testing.T, dir string, change func(o *ProcessOptions)) *Process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := ProcessOptions{
		Dir: dir, Prefix: "elastic-here", DrainTimeout: patience, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Command: func(context.Context, string, string) ([]string, []string, error) {
			return []string{program}, []string{nodeManner + "=obedient"}, nil
		},
	}
	if change != nil {
		change(&o)
	}
	p, err := NewProcess(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.Stop(now); err != nil {
			t.Error(err)
		}
	})
	return p
}

func manner(manner string) func(o *ProcessOptions) {
	return func(o *ProcessOptions) {
		before := o.Command
		o.Command = func(ctx context.Context, name, dir string) ([]string, []string, error) {
			line, _, err := before(ctx, name, dir)
			return line, []string{nodeManner + "=" + manner, nodeReady + "=" + filepath.Join(filepath.Dir(dir), "ready")}, err
		}
	}
}

// running returns the nodes that can be removed, and the numbers of all processes that live and have written it down.
func running(t *testing.T, p *Process) (removable []string, pids []int) {
	t.Helper()
	inv, err := p.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(p.opts.Dir, "*", "pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil { // or it is being written
			pids = append(pids, pid)
		}
	}
	return inv.Removable, pids
}

func pidOf(t *testing.T, file string) int {
	t.Helper()
	pid := 0
	eventually(t, "the process's number is there", func() bool {
		raw, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		return err == nil
	})
	return pid
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func scaleTo(t *testing.T, p *Process, o Order) {
	t.Helper()
	if err := p.Scale(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// Nodes are started and drained, and another autoscaler goes on with those of the one before.
func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	first := processes(t, dir, nil)
	scaleTo(t, first, Order{Wanted: 2, Add: 2})
	eventually(t, "two processes run", func() bool { _, pids := running(t, first); return len(pids) == 2 })
	names, pids := running(t, first)
	if !slices.Equal(names, []string{"elastic-here-1", "elastic-here-2"}) || gone(pids[0]) || gone(pids[1]) {
		t.Fatalf("%v with %v", names, pids)
	}

	// The next knows them, starts none of them again, and drains one that it has not started.
	second := processes(t, dir, nil)
	if took, _ := running(t, second); !slices.Equal(took, names) {
		t.Errorf("taken over: %v", took)
	}
	if err := second.Scale(t.Context(), Order{Wanted: 2, Add: 1}); err == nil || !strings.Contains(err.Error(), "2 processes run already") {
		t.Errorf("a third though two are wanted: %v", err)
	}
	scaleTo(t, second, Order{Wanted: 1, Node: "elastic-here-1"})
	if names, _ := running(t, second); !slices.Equal(names, []string{"elastic-here-2"}) {
		t.Errorf("after the drain: %v", names)
	}
	// One that drains is not told again.
	if err := second.Scale(t.Context(), Order{Wanted: 0, Node: "elastic-here-1"}); err == nil {
		t.Error("it is drained twice")
	}
	eventually(t, "it has ended, and nothing is left of it but its log", func() bool {
		running(t, first) // whose child it is
		running(t, second)
		_, err := os.Stat(filepath.Join(dir, "elastic-here-1"))
		_, logged := os.Stat(filepath.Join(dir, "elastic-here-1.log"))
		return gone(pids[0]) && errors.Is(err, os.ErrNotExist) && logged == nil
	})

	// A name is used again. A process that dies by itself is forgotten.
	scaleTo(t, second, Order{Wanted: 2, Add: 1})
	eventually(t, "it runs", func() bool { _, pids := running(t, second); return len(pids) == 2 })
	names, pids = running(t, second)
	if !slices.Equal(names, []string{"elastic-here-1", "elastic-here-2"}) {
		t.Errorf("%v", names)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its death is noticed", func() bool {
		names, _ := running(t, second)
		return slices.Equal(names, []string{"elastic-here-2"})
	})

	if err := second.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if names, left := running(t, first); len(names)+len(left) > 0 || !gone(pids[1]) {
		t.Errorf("left after the stop: %v, %v", names, left)
	}
}

// A number that another process has got is not signalled, whatever the files say.
func TestProcessNumbersAreNotTrusted(t *testing.T) {
	dir := t.TempDir()
	p := processes(t, dir, nil)
	scaleTo(t, p, Order{Wanted: 1, Add: 1})
	node := filepath.Join(dir, "elastic-here-1")
	pid := pidOf(t, filepath.Join(node, "pid"))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() bool { alive, err := p.node("elastic-here-1").alive(); return !alive && err == nil })
	if err := os.WriteFile(filepath.Join(node, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.node("elastic-here-1").signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if names, _ := running(t, p); len(names) > 0 { // and this process lives to see it
		t.Errorf("%v", names)
	}
}

// A node that does not end in time is killed, by whichever autoscaler is there then.
func TestStubbornProcessesAreKilled(t *testing.T) {
	dir := t.TempDir()
	p := processes(t, dir, manner("stubborn"))
	scaleTo(t, p, Order{Wanted: 1, Add: 1})
	pid := pidOf(t, filepath.Join(dir, "elastic-here-1", "pid"))
	eventually(t, "it is stubborn", func() bool { _, err := os.Stat(filepath.Join(dir, "elastic-here-1", "ready")); return err == nil })
	scaleTo(t, p, Order{Wanted: 0, Node: "elastic-here-1"})
	if running(t, p); gone(pid) {
		t.Fatal("it was killed at once")
	}
	hasty := processes(t, dir, func(o *ProcessOptions) { o.DrainTimeout = time.Millisecond })
	eventually(t, "it is killed", func() bool { running(t, hasty); running(t, p); return gone(pid) })

	// A stop that is not waited for kills.
	scaleTo(t, p, Order{Wanted: 1, Add: 1})
	pid = pidOf(t, filepath.Join(dir, "elastic-here-1", "pid"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	eventually(t, "it is killed, too", func() bool { running(t, p); return gone(pid) })
}

// An order is carried out or not at all.
func TestProcessesThatDoNotStart(t *testing.T) {
	dir := t.TempDir()
	p := processes(t, dir, func(o *ProcessOptions) {
		before := o.Command
		o.Command = func(ctx context.Context, name, data string) ([]string, []string, error) {
			if name == "elastic-here-2" {
				return nil, nil, errors.New("no address is free")
			}
			return before(ctx, name, data)
		}
	})
	if err := p.Scale(t.Context(), Order{Wanted: 2, Add: 2}); err == nil || !strings.Contains(err.Error(), "no address is free") {
		t.Errorf("%v", err)
	}
	eventually(t, "the first is gone again", func() bool { names, pids := running(t, p); return len(names)+len(pids) == 0 })

	// A program that ends at once is noticed.
	bad := processes(t, dir, manner("unknown"))
	scaleTo(t, bad, Order{Wanted: 1, Add: 1})
	eventually(t, "it is gone", func() bool { names, _ := running(t, bad); return len(names) == 0 })

	// Whoever holds the directory is waited for.
	unlock, err := p.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := bad.Inventory(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("two at a time: %v", err)
	}
	unlock()
	if _, err := bad.Inventory(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProcessOptionsAreChecked(t *testing.T) {
	good := processes(t, t.TempDir(), nil).opts
	for name, change := range map[string]func(o *ProcessOptions){
		"directory": func(o *ProcessOptions) { o.Dir = "" },
		"prefix":    func(o *ProcessOptions) { o.Prefix = "../x" },
		"command":   func(o *ProcessOptions) { o.Command = nil },
		"time":      func(o *ProcessOptions) { o.DrainTimeout = 0 },
		"logger":    func(o *ProcessOptions) { o.Logger = nil },
		"a file":    func(o *ProcessOptions) { o.Dir = "/dev/null/x" },
	} {
		o := good
		change(&o)
		if _, err := NewProcess(o); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
