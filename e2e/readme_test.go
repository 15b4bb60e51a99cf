package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestReadme pastes the README's commands into a shell beside a fresh server.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := newcomer(t, dir, "127.0.0.1:0")
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "bin", "esh3ar")); err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(readme, -1) {
		script += string(block[1])
	}
	// Instead of another terminal: what runs until it is interrupted runs beside the rest.
	script = regexp.MustCompile(`# Ctrl-C ends it`).ReplaceAllLiteralString(script, "&") + "wait\n"
	script = strings.ReplaceAll(script, "http://127.0.0.1:8080", s.url)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir = dir
	shell.Env = append(os.Environ(), "ESH3AR_URL="+s.url)
	out := &transcript{}
	shell.Stdout, shell.Stderr = out, out
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"202 Accepted", `"status":"accepted","to":"+962791234567"`, // curl
		"Your order is on its way\n", "It is at your door\n", // listen
		"attempt 1", "event: message.delivered", // send and curl
	} {
		if err := s.poll(bootLimit, want, func() bool { return strings.Contains(out.String(), want) }); err != nil {
			t.Errorf("%v\n%s\nsaid\n%s", err, script, out)
			break
		}
	}
	cancel()
	_ = shell.Wait() // it was killed
	s.stop()
}

// transcript keeps what is written to it. It is safe for concurrent use.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *transcript) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}
