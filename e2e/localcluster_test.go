package e2e

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestClusterToTry pastes what `esh3ar cluster` prints: a device gets a message through the balancer, also after a
// node was killed, the node comes back, and Ctrl-C leaves nothing behind.
func TestClusterToTry(t *testing.T) {
	t.Parallel()
	// The database's own user must be able to get there.
	dir, err := os.MkdirTemp("", "esh3ar-try-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := prepare(t, []string{program, "cluster", "--listen", "127.0.0.1:0", "--restart-after", "15s", "--max-nodes", "4"})
	s.cmd.Env = append(s.cmd.Env, "TMPDIR="+dir)
	greeting := new(transcript)
	s.cmd.Stdout = greeting
	s.launch()
	if err := s.poll(2*bootLimit, "the cluster to be ready", func() bool {
		_, err := os.Stat(s.addr)
		return err == nil && strings.Contains(greeting.String(), "A node that ends") // its last line
	}); err != nil {
		t.Fatal(err)
	}
	printed := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(greeting.String())
		if m == nil {
			t.Fatalf("no %s in:\n%s", pattern, greeting)
		}
		return m[1]
	}

	// The device, in a terminal of its own.
	heard := new(transcript)
	device := exec.CommandContext(t.Context(), "sh", "-c", "exec "+printed(`^  Receive +(.*)$`))
	device.Stdout, device.Stderr = heard, heard
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = device.Process.Kill()
		_ = device.Wait() // it was killed
	}()
	paste := func(line, want string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s\nanswered (%v):\n%s", line, err, out)
		}
	}
	health := printed(`^  Health +(.*)$`) + " --once"
	shows := func(text string) func() bool {
		return func() bool {
			out, err := exec.CommandContext(t.Context(), "sh", "-c", health).Output()
			return err == nil && strings.Contains(string(out), text)
		}
	}
	s.await("all nodes to be well", shows("cluster local  3 nodes  ok"))
	scaling := printed(`^  Scaling +(.*)$`)
	paste(scaling, `"leading":true`)
	send := printed(`^  Or +(.*)$`)
	paste(printed(`^  Send +(.*)$`)+" --silent --show-error", "202 Accepted")
	paste(send, "delivered")

	kill := printed(`(kill -9 \d+)`)
	paste(kill, "")
	paste(strings.Replace(send, "Hello", "Hello again", 1), "delivered")
	if !strings.Contains(heard.String(), "Hello again") {
		t.Errorf("the device heard:\n%s", heard)
	}
	s.await("the death to show", shows("degraded: nodes: 2 of the 3 nodes"))
	s.await("the node to be started again", func() bool { return strings.Contains(s.tail(1<<20), "runs again") })

	address, err := os.ReadFile(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	// Twice, as impatient people do: the end is not cut short.
	for range 2 {
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		s.await("the end to begin", func() bool { return strings.Contains(s.tail(1<<20), "all is being ended") })
	}
	<-s.gone
	if s.err != nil {
		t.Errorf("it ended with %v", s.err)
	}
	for _, m := range regexp.MustCompile(`kill -9 (\d+)|as process (\d+)`).FindAllStringSubmatch(greeting.String()+s.tail(1<<20), -1) {
		pid, err := strconv.Atoi(m[1] + m[2])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left: %v", pid, err)
		}
	}
	if c, err := net.Dial("tcp", strings.TrimSpace(string(address))); err == nil {
		c.Close()
		t.Error("the balancer is left")
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", scaling).Output(); err == nil {
		t.Errorf("the autoscaler is left: %s", out)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
