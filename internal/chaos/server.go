//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// bootLimit is far above what a start takes.
	bootLimit = 60 * time.Second
	// drainTimeout is what the server is told, and drainGrace what it may take beyond.
	drainTimeout = 4 * time.Second
	drainGrace   = 5 * time.Second
	// relaunchAfter is the pause before a server that has ended by itself is started again, as a
	// service manager does.
	relaunchAfter = 200 * time.Millisecond
)

// supervisor keeps the server running, except while a fault wants it down.
type supervisor struct {
	line    []string // the command line
	env     []string
	scratch string              // where it runs, with its log and address files
	ended   func(err error)     // told of every end that nobody asked for
	started func(pid int) error // told of every start
	running sync.WaitGroup

	mu      sync.Mutex
	life    *life
	wanted  bool // whether it is to run
	starts  int
	closing bool
}

// life is one process.
type life struct {
	cmd  *exec.Cmd
	addr string // file
	gone chan struct{}
	err  error // set before gone is closed
	url  string
	last bool // its end was asked for; guarded by the supervisor
}

// logFile is where all processes write their log.
func (s *supervisor) logFile() string { return filepath.Join(s.scratch, "server.log") }

// launch starts the server. It does not wait until it serves.
func (s *supervisor) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = true
	return s.launchLocked()
}

func (s *supervisor) launchLocked() error {
	s.starts++
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has it
	fmt.Fprintf(log, "--- start %d\n", s.starts)
	v := &life{addr: filepath.Join(s.scratch, fmt.Sprintf("addr-%d", s.starts)), gone: make(chan struct{})}
	// Its life is the supervisor's to end, with the signal that a fault asks for.
	v.cmd = exec.CommandContext(context.Background(), s.line[0], append(s.line[1:len(s.line):len(s.line)], "--addr-file", v.addr)...)
	v.cmd.Dir, v.cmd.Env, v.cmd.Stderr = s.scratch, s.env, log
	v.cmd.SysProcAttr = processAttributes()
	if err := v.cmd.Start(); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	s.life = v
	if err := s.started(v.cmd.Process.Pid); err != nil {
		return err
	}
	s.running.Go(func() {
		v.err = v.cmd.Wait()
		close(v.gone)
		s.after(v)
	})
	return nil
}

// after starts a server again that has ended without being asked to.
func (s *supervisor) after(v *life) {
	s.mu.Lock()
	surprise := !v.last && !s.closing
	s.mu.Unlock()
	if !surprise {
		return
	}
	s.ended(v.err)
	time.Sleep(relaunchAfter)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted && !s.closing && s.life == v {
		if err := s.launchLocked(); err != nil {
			s.ended(err)
		}
	}
}

// current returns the running process, nil if there is none.
func (s *supervisor) current() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// signal sends a signal to the process, if there is one.
func (s *supervisor) signal(sig syscall.Signal) {
	if v := s.current(); v != nil {
		_ = v.cmd.Process.Signal(sig) // an error says that it has ended
	}
}

// down ends the server with a signal and keeps it down. It returns the process's error, and an error of
// its own when the process does not end within limit; then it is killed.
func (s *supervisor) down(sig syscall.Signal, limit time.Duration) (exit, late error) {
	s.mu.Lock()
	v := s.life
	s.wanted = false
	if v != nil {
		v.last = true
	}
	s.mu.Unlock()
	if v == nil {
		return nil, nil
	}
	_ = v.cmd.Process.Signal(sig)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-v.gone:
	case <-timer.C:
		late = fmt.Errorf("the server did not end within %s of signal %v", limit, sig)
		_ = v.cmd.Process.Kill()
		<-v.gone
	}
	s.mu.Lock()
	s.life = nil
	s.mu.Unlock()
	return v.err, late
}

// close kills what runs and waits.
func (s *supervisor) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.signal(syscall.SIGCONT)
	_, _ = s.down(syscall.SIGKILL, bootLimit)
	s.running.Wait()
}

var errNoServer = errors.New("there is no server at the moment")

// dial connects to the running server.
func (s *supervisor) dial(ctx context.Context) (net.Conn, error) {
	v := s.current()
	if v == nil {
		return nil, errNoServer
	}
	s.mu.Lock()
	addr := v.url
	if addr == "" {
		raw, err := os.ReadFile(v.addr)
		if err == nil {
			v.url, _, _ = strings.Cut(string(raw), "\n")
			addr = v.url
		}
	}
	s.mu.Unlock()
	if addr == "" {
		return nil, errNoServer
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
}

// up waits until the server takes connections.
func (s *supervisor) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		conn, err := s.dial(ctx)
		if err == nil {
			return conn.Close()
		}
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("the server does not serve within %s: %w\n%s", bootLimit, err, s.tail(2<<10))
		}
	}
}

// tail returns the last bytes of the log.
func (s *supervisor) tail(most int) string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
