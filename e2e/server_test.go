package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	apiKey    = "esh_end-to-end-tests-use-this-key"
	jwtSecret = "end-to-end tests sign device tokens with this"

	// bootLimit and stopLimit are far above what a start and a drain take on a busy machine with the
	// race detector on: reaching one is a failure, never a matter of patience.
	bootLimit = 60 * time.Second
	stopLimit = 60 * time.Second
)

// server is one process of the program.
type server struct {
	t    testing.TB
	url  string
	cmd  *exec.Cmd
	addr string        // file that it writes its address to
	log  string        // file with its standard error
	out  *bytes.Buffer // its standard output; read it after exit
	gone chan struct{} // closed when the process has ended and err is set
	err  error
}

// prepare returns a server that is not running yet, to run that command line of the program and
// to write its address to a file. It is ended with the test.
func prepare(t testing.TB, line []string) *server {
	t.Helper()
	scratch := t.TempDir()
	s := &server{t: t, addr: filepath.Join(scratch, "addr"), log: filepath.Join(scratch, "log"), out: new(bytes.Buffer), gone: make(chan struct{})}
	s.cmd = exec.Command(line[0], append(line[1:], "--addr-file", s.addr)...)
	s.cmd.Dir = scratch
	s.cmd.Stdout = s.out
	s.cmd.Env = append(os.Environ(), "ESH3AR_BOOTSTRAP_KEY="+apiKey, "ESH3AR_JWT_SECRET="+jwtSecret, raceOptions(t))
	return s
}

// raceOptions has a race end the server, so that it is noticed as a crash nobody asked for, but for those that are known.
// A server that ends does not sleep for a second before.
func raceOptions(t testing.TB) string {
	t.Helper()
	known, err := filepath.Abs("../scripts/race.suppressions")
	if err != nil {
		t.Fatal(err)
	}
	return "GORACE=halt_on_error=1 atexit_sleep_ms=0 suppressions=" + known
}

// launch starts the process of a prepared server and returns at once.
func (s *server) launch() {
	s.t.Helper()
	log, err := os.Create(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close() // the process has it
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.gone)
	}()
	s.t.Cleanup(func() {
		s.kill()
		text := s.tail(1 << 20)
		if strings.Contains(text, "WARNING: DATA RACE") || strings.Contains(text, "panic:") {
			s.t.Errorf("the server raced or panicked:\n%s", text)
		} else if s.t.Failed() {
			s.t.Logf("log of the server:\n%s", s.tail(8<<10))
		}
	})
}

// launch starts `esh3ar serve` over the data directory dir and returns at once.
func launch(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	line := []string{program, "serve", "--data", dir}
	if !slices.Contains(args, "--listen") {
		line = append(line, "--listen", "127.0.0.1:0")
	}
	s := prepare(t, append(line, args...))
	s.launch()
	return s
}

// start launches a server and waits until it is ready.
func start(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	s := launch(t, dir, args...)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	return s
}

// ready waits until the server says that it is ready. Its error says that the process has ended, or
// that it took too long.
func (s *server) ready() error {
	return s.poll(bootLimit, "the server to be ready", func() bool {
		if s.url == "" {
			addr, err := os.ReadFile(s.addr)
			if err != nil {
				return false
			}
			s.url = "http://" + strings.TrimSpace(string(addr))
		}
		resp, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// poll asks again and again until done says yes, the process ends or the time is up.
func (s *server) poll(limit time.Duration, what string, done func() bool) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-s.gone:
			return fmt.Errorf("waiting for %s: the server ended: %v\n%s", what, s.err, s.tail(4<<10))
		case <-deadline.C:
			return fmt.Errorf("waiting for %s: not within %s", what, limit)
		}
	}
	return nil
}

// await is poll for tests that cannot go on without it.
func (s *server) await(what string, done func() bool) {
	s.t.Helper()
	if err := s.poll(30*time.Second, what, done); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the process as a crash does: at once, without a word to it. Killing one that has ended
// does nothing.
func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // an error says that it has ended
	<-s.gone
}

// stop asks the server to drain and end, and fails the test unless it does so with status 0.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("stopping the server: %v", err)
	}
	select {
	case <-s.gone:
		if s.err != nil {
			s.t.Fatalf("the server ended with %v\n%s", s.err, s.tail(4<<10))
		}
	case <-time.After(stopLimit):
		s.t.Fatalf("the server did not stop within %s\n%s", stopLimit, s.tail(4<<10))
	}
}

// tail returns the last bytes of the server's log.
func (s *server) tail(most int) string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
