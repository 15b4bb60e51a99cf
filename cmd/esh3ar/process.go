//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// processEnd is how long a process may take to end when it is told to. It is longer than a server's drain.
const processEnd = 40 * time.Second

// process is this program with other arguments, kept running.
type process struct {
	name, address string
	program, dir  string
	args, env     []string
	restartAfter  time.Duration
	lines         *lineWriter

	pid     atomic.Int64
	keeping atomic.Bool // it is started again when it ends; before, its end is a failure
}

// keep runs the process until ctx ends, then tells it to end and waits until it has. What it says goes to the
// lines, its name before each.
func (p *process) keep(ctx context.Context) error {
	for again := false; ; again = true {
		cmd := exec.CommandContext(ctx, p.program, p.args...)
		cmd.Dir, cmd.Env = p.dir, p.env
		cmd.SysProcAttr = processAttributes()
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = processEnd
		said := &prefixWriter{prefix: p.name + " | ", out: p.lines}
		cmd.Stderr = said
		err := cmd.Start()
		if err == nil {
			p.pid.Store(int64(cmd.Process.Pid))
			if again {
				fmt.Fprintf(p.lines, "%s runs again, as process %d\n", p.name, cmd.Process.Pid)
			}
			err = cmd.Wait()
		}
		said.flush()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("it had no reason to")
		}
		if !p.keeping.Load() {
			return fmt.Errorf("%s has ended: %w", p.name, err)
		}
		fmt.Fprintf(p.lines, "%s has ended (%v); it is started again after %s\n", p.name, err, p.restartAfter)
		wait := time.NewTimer(p.restartAfter)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// lineWriter keeps what several write to one place apart: each write is whole lines. It is safe for concurrent use.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lineWriter) Write(lines []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(lines)
}

// prefixWriter passes whole lines on, with a prefix before each.
type prefixWriter struct {
	prefix string
	out    *lineWriter
	rest   []byte // of a line that has not ended
}

// maxLine bounds what is kept of a line that does not end.
const maxLine = 64 << 10

func (w *prefixWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			break
		}
		w.line(w.rest[:end])
		w.rest = w.rest[end+1:]
	}
	if len(w.rest) > maxLine {
		w.flush()
	}
	return len(b), nil
}

// flush passes on what is left without an end.
func (w *prefixWriter) flush() {
	if len(w.rest) > 0 {
		w.line(w.rest)
		w.rest = nil
	}
}

func (w *prefixWriter) line(text []byte) {
	fmt.Fprintf(w.out, "%s%s\n", w.prefix, text)
}
