//go:build soak

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// plainProgram builds the program without the race detector, which takes several times the memory.
var plainProgram = sync.OnceValues(func() (string, error) {
	if given := os.Getenv("E2E_PLAIN_PROGRAM"); given != "" {
		return given, nil
	}
	path := filepath.Join(filepath.Dir(program), "esh3ar-plain")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/esh3ar").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return path, nil
})

// launchPlain is launch with the program as users have it.
func launchPlain(t testing.TB, dir string, wrap []string, args ...string) *server {
	t.Helper()
	path, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	line := append(append([]string{}, wrap...), path, "serve", "--data", dir, "--listen", "127.0.0.1:0")
	s := prepare(t, append(line, args...))
	s.launch()
	return s
}

// memoryGroup makes a control group with that much memory and returns the command line to run a program
// in it, and a function that tells how often the kernel killed something there for want of memory. Where
// no group can be made both are nil.
func memoryGroup(t *testing.T, bytes int) (wrap []string, kills func() int) {
	t.Helper()
	name := fmt.Sprintf("esh3ar-test-%d", os.Getpid())
	for _, v := range []struct{ root, limit, events string }{
		{"/sys/fs/cgroup", "memory.max", "memory.events"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"},
	} {
		dir := filepath.Join(v.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		// The kernel makes the file with the group, where this is one.
		f, err := os.OpenFile(filepath.Join(dir, v.limit), os.O_WRONLY, 0)
		if err == nil {
			_, err = fmt.Fprint(f, bytes)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		wrap = []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, dir}
		return wrap, func() int {
			text, err := os.ReadFile(filepath.Join(dir, v.events))
			if err != nil {
				t.Error(err)
			}
			for line := range strings.Lines(string(text)) {
				if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
					killed, _ := strconv.Atoi(n)
					return killed
				}
			}
			return 0
		}
	}
	return nil, nil
}

// peakMemory returns the most that the process had resident at one time.
func (s *server) peakMemory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(n)[0])
			return kb << 10
		}
	}
	s.t.Fatal("no VmHWM")
	return 0
}

const (
	memoryLimit      = 384 << 20
	memoryRecipients = 150
	memoryEach       = 280      // messages to each recipient
	memorySize       = 32 << 10 // of a message
)

// TestMemoryTight gives the program little memory and a backlog of many times that, most of it for
// devices that are connected and do not acknowledge. It says that memory is tight, keeps what it can on
// disk, lives, and delivers everything when the devices begin to acknowledge.
func TestMemoryTight(t *testing.T) {
	t.Run("cgroup", func(t *testing.T) {
		wrap, kills := memoryGroup(t, memoryLimit)
		if wrap == nil {
			t.Fatal("no control group can be made here")
		}
		memoryTight(t, prepareMemory(t, wrap))
		if n := kills(); n > 0 {
			t.Errorf("%d processes were killed for want of memory", n)
		}
	})
	// The runtime's own limit is all that it goes by. Nothing ends it when it takes more, so that is looked
	// at: the limit is soft, and does not count what SQLite has and what is mapped.
	t.Run("GOMEMLIMIT", func(t *testing.T) {
		const limit = memoryLimit * 8 / 10
		t.Setenv("GOMEMLIMIT", strconv.Itoa(limit))
		if peak := memoryTight(t, prepareMemory(t, nil)); peak > 2*limit {
			t.Errorf("it took %d MiB with a GOMEMLIMIT of %d MiB", peak>>20, limit>>20)
		}
	})
}

// memoryTight works on a server with memoryLimit bytes of memory, and stops it. It returns the most that the
// server had resident at one time.
func memoryTight(t *testing.T, s *server) (peak int) {
	const (
		limit, recipients, each, size = memoryLimit, memoryRecipients, memoryEach, memorySize

		total = recipients * each * size
	)
	if total < 3*limit {
		t.Fatal("that is no backlog")
	}

	// What the devices have acknowledged, by id.
	var mu sync.Mutex
	shown := make(map[string]bool, recipients*each)
	var awake atomic.Bool
	for i := range recipients {
		var d *device
		ready := make(chan struct{})
		d, err := dial(s.url, token(t, fmt.Sprint("r", i), time.Hour), func(m delivery) {
			<-ready
			if !awake.Load() || d.acknowledge(m.ID) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			shown[m.ID] = true
		})
		if err != nil {
			t.Fatal(err)
		}
		close(ready)
		alive := make(chan struct{})
		go func() {
			defer close(alive)
			d.stayAlive()
		}()
		t.Cleanup(func() {
			d.hangUp()
			<-alive
		})
	}
	a := s.api()
	filling := strings.Repeat("x", size-64)
	sent := make(map[string]bool, recipients*each)
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	tight, refused := false, 0
	var reason, last string
	for n := range each {
		batch := make([]outgoing, recipients)
		for i := range batch {
			batch[i] = outgoing{To: fmt.Sprint("r", i), Content: fmt.Sprintf("%d for %d %s", n, i, filling)}
		}
		for len(batch) > 0 {
			part := batch[:min(len(batch), 100)]
			results, err := a.sendBatch(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			var again []outgoing
			for i, r := range results {
				switch {
				case r.Problem == nil:
					sent[r.ID], last = true, r.ID
				case r.Status == http.StatusServiceUnavailable && r.Problem.Code == "overloaded":
					again = append(again, part[i])
				default:
					t.Fatal(r.Problem)
				}
			}
			if refused += len(again); len(again) > 0 {
				<-pause.C
			}
			batch = append(again, batch[len(part):]...)
		}
		if whole, part, detail := s.readiness("memory"); part == "degraded" {
			if !tight {
				t.Logf("tight after %d MiB: %s", (n+1)*recipients*size>>20, detail)
			}
			tight, reason = true, detail
			if whole != "degraded" {
				t.Errorf("readiness is %s while memory is %s", whole, part)
			}
		}
	}
	if !tight || !strings.Contains(reason, "memory is tight") {
		t.Errorf("memory was never tight: %q", reason)
	}

	// Now everybody acknowledges, also what was sent before.
	awake.Store(true)
	began := time.Now()
	if err := s.poll(10*time.Minute, "everything to be delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(shown) >= len(sent)
	}); err != nil {
		t.Errorf("%v: %d of %d", err, len(shown), len(sent))
	}
	took := time.Since(began)
	s.awaitStatus(a, last, "delivered")
	// The last acknowledgements may be on their way.
	if err := s.poll(time.Minute, "the statuses", func() bool {
		all, err := a.list(t.Context(), url.Values{"status": {"delivered"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			delete(sent, d.ID)
		}
		return len(sent) == 0
	}); err != nil {
		t.Errorf("%v: %d messages are not delivered", err, len(sent))
	}
	peak = s.peakMemory()
	t.Logf("%d MiB of messages with %d MiB of memory: peak %d MiB, %d refusals, delivered %s after the devices began to acknowledge",
		total>>20, limit>>20, peak>>20, refused, took.Round(time.Second))
	s.await("memory to be relaxed", func() bool {
		_, part, _ := s.readiness("memory")
		return part == "ok"
	})
	s.stop()
	return peak
}

// prepareMemory starts the program in the control group, if there is one.
func prepareMemory(t *testing.T, wrap []string) *server {
	t.Helper()
	s := launchPlain(t, t.TempDir(), wrap, "--ack-timeout", "5s", "--max-attempts", "1000", "--backoff-base", "1s", "--backoff-cap", "2s", "--breaker-pause", "1s")
	if err := s.ready(); err != nil {
		t.Fatal(errors.Join(err, errors.New(s.tail(4<<10))))
	}
	return s
}
