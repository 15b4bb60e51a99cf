// Package pgtest runs a throw-away PostgreSQL server for tests: a cluster of its own in a temporary
// directory, on a Unix socket and a free loopback port, with fsync on as in production. It can be
// stopped, killed and paused, to test what a store does meanwhile.
//
// It needs PostgreSQL's server programs; where they are missing Start says what to install.
package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrMissing means that PostgreSQL's server programs are not on this machine.
var ErrMissing = errors.New("pgtest: no initdb and postgres in /usr/lib/postgresql/*/bin or on PATH; " +
	"install PostgreSQL's server, on Debian with: apt-get install postgresql")

// superuser owns the cluster.
const superuser = "esh3ar"

// startTimeout bounds how long a server may take to answer.
const startTimeout = 30 * time.Second

// Server is one running cluster. Its methods are not safe for concurrent use, except Database and URL.
type Server struct {
	bin  string
	dir  string
	port int
	attr *syscall.SysProcAttr

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  syncBuffer
}

// Start makes a cluster and starts its server. Settings, as in "max_connections=20", are added to the
// server's configuration. The caller must Close the server.
func Start(settings ...string) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.dir, err = os.MkdirTemp("", "esh3ar-pg-"); err != nil {
		return nil, err
	}
	if err := s.init(settings); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Resume(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// programs returns the directory of the newest server programs.
func programs() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	version := func(dir string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	if initdb, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(initdb))
	}
	for _, dir := range dirs {
		_, err1 := os.Stat(filepath.Join(dir, "initdb"))
		_, err2 := os.Stat(filepath.Join(dir, "postgres"))
		if err1 == nil && err2 == nil {
			return dir, nil
		}
	}
	return "", ErrMissing
}

// enter takes the directory for the system's user postgres when this process is root, because the server
// refuses to run as root.
func (s *Server) enter() error {
	s.attr = attributes()
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return fmt.Errorf("pgtest: running as root needs the user postgres: %w", err)
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		s.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

// init makes the cluster.
func (s *Server) init(settings []string) error {
	if err := s.enter(); err != nil {
		return err
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", superuser,
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = s.attr, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: initdb: %w\n%s", err, out)
	}
	return s.configure(append([]string{
		"listen_addresses='127.0.0.1'",
		"fsync=on",
		"shared_buffers=256MB",
		"max_wal_size=2GB",
	}, settings...))
}

// configure gives the cluster its addresses and adds settings, which count before earlier ones.
func (s *Server) configure(settings []string) error {
	// A port that is free now; nothing else on the machine has reason to take it meanwhile.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	conf := append([]string{
		fmt.Sprintf("port=%d", s.port),
		fmt.Sprintf("unix_socket_directories='%s'", s.dir),
	}, settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(conf, "\n") + "\n")
	return errors.Join(err, f.Close())
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Resume starts the server again after Stop or Kill and waits until it answers.
func (s *Server) Resume() error {
	s.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data())
	s.cmd.SysProcAttr, s.cmd.Dir = s.attr, s.dir
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // a stopped or killed server ends as it must
	}(s.cmd, s.done)

	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.done:
			return fmt.Errorf("pgtest: the server ended: %s", s.log.String())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("pgtest: the server does not answer: %w\n%s", err, s.log.String()), s.Kill())
		case <-tick.C:
		}
	}
}

// Stop ends the server at once without a checkpoint, as "pg_ctl stop -m immediate" does: what was
// committed is recovered at the next start.
func (s *Server) Stop() error { return s.end(syscall.SIGQUIT) }

// Kill ends the server with SIGKILL, as a crash does.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	// SIGQUIT is passed on by the first process; a killed one leaves the others behind.
	signal := func() error { return s.cmd.Process.Signal(sig) }
	if sig == syscall.SIGKILL {
		signal = func() error { return s.signalAll(sig) }
	}
	if err := signal(); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	<-s.done
	return nil
}

// Backup copies the running cluster, as one does before losing a disk. An earlier copy is replaced.
func (s *Server) Backup() error {
	if err := os.RemoveAll(s.copied()); err != nil {
		return err
	}
	return s.backup(s, s.copied())
}

// backup copies the running cluster of another server into a directory of this one's.
func (s *Server) backup(of *Server, into string, opts ...string) error {
	args := append([]string{"-D", into, "-d", of.URL("postgres"), "--checkpoint=fast", "--wal-method=stream", "--no-sync"}, opts...)
	backup := exec.Command(filepath.Join(s.bin, "pg_basebackup"), args...)
	backup.SysProcAttr, backup.Dir = s.attr, s.dir
	if out, err := backup.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: pg_basebackup: %w\n%s", err, out)
	}
	return nil
}

// Restore puts the copy in the place of the cluster of a stopped server, which is then to be resumed.
func (s *Server) Restore() error {
	return errors.Join(os.RemoveAll(s.data()), os.Rename(s.copied(), s.data()))
}

func (s *Server) copied() string { return filepath.Join(s.dir, "copy") }

// Freeze stops all of the server's processes (SIGSTOP) until Thaw: connections stay and nothing
// answers.
func (s *Server) Freeze() error { return s.signalAll(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() error { return s.signalAll(syscall.SIGCONT) }

// signalAll signals the server and its children, which have process groups of their own. It looks again until there are
// none that it has not signalled: the server may have been about to start one.
func (s *Server) signalAll(sig syscall.Signal) error {
	server := s.cmd.Process.Pid
	signalled := make(map[int]bool)
	for fresh := true; fresh; {
		pids := []int{server}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", server, server))
		if signalled[server] && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)) {
			return nil // the signal has ended it
		}
		if err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		for _, f := range bytes.Fields(children) {
			pid, err := strconv.Atoi(string(f))
			if err != nil {
				return fmt.Errorf("pgtest: %w", err)
			}
			pids = append(pids, pid)
		}
		fresh = false
		for _, pid := range pids {
			if signalled[pid] {
				continue
			}
			fresh, signalled[pid] = true, true
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("pgtest: signal %d: %w", pid, err)
			}
		}
	}
	return nil
}

// Close kills the server, if it still runs, and removes the cluster.
func (s *Server) Close() error {
	return errors.Join(s.Stop(), os.RemoveAll(s.dir))
}

// URL returns the connection string of a database of the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.port, database)
}

// SocketURL is URL over the Unix socket.
func (s *Server) SocketURL(database string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", superuser, database, s.dir, s.port)
}

// Log returns what the server has logged so far.
func (s *Server) Log() string { return s.log.String() }

// Database makes an empty database and returns its connection string. It is dropped when the test ends.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return s.URL(name)
}

func (s *Server) exec(query string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	_, err = conn.Exec(ctx, query)
	return errors.Join(err, conn.Close(ctx))
}

// syncBuffer keeps the server's log.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
