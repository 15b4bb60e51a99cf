package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// programEnv makes the test binary the program itself.
const programEnv = "TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds every run of the program.
const patience = time.Minute

// program is the program as a process of its own.
func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), programEnv+"=1")
	return cmd
}

// server is a running server and how its tools reach it.
type server struct{ url, key, data string }

func startServer(t *testing.T) server {
	t.Helper()
	dir := t.TempDir()
	addrFile := filepath.Join(dir, "addr")
	cmd := program(context.Background(), "serve", "--listen", "127.0.0.1:0", "--addr-file", addrFile,
		"--data", filepath.Join(dir, "data"), "--bootstrap-key", "esh_key-of-the-tools-test")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v: %s", err, &log)
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if addr, err := os.ReadFile(addrFile); err == nil {
			return server{"http://" + strings.TrimSpace(string(addr)), "esh_key-of-the-tools-test", filepath.Join(dir, "data")}
		}
	}
	t.Fatal("the server does not start")
	return server{}
}

// run carries out a tool and returns what it wrote and its exit status.
func (s server) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := program(ctx, args...)
	cmd.Env = append(cmd.Env, "ESH3AR_URL="+s.url, "ESH3AR_API_KEY="+s.key)
	cmd.Stdin = strings.NewReader("from standard input")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestSendListenStatus(t *testing.T) {
	s := startServer(t)
	out, errs, code := s.run(t, "send", "amina", "hello", "--type", "greeting", "--meta", "lang=en")
	fields := strings.Fields(out)
	if code != 0 || len(fields) != 4 || fields[0] != "accepted" || fields[3] != "amina" {
		t.Fatalf("send: status %d, %q, %q", code, out, errs)
	}
	id := fields[1]
	if out, errs, code = s.run(t, "send", "amina", "--data", `{"n":1}`, "--json"); code != 0 || !strings.Contains(out, `"status":"accepted"`) {
		t.Errorf("send of data: status %d, %q, %q", code, out, errs)
	}
	if out, errs, code = s.run(t, "send", "00962 79 1234567", "-"); code != 0 || !strings.HasSuffix(out, "to +962791234567\n") {
		t.Errorf("send to a telephone: status %d, %q, %q", code, out, errs)
	}
	if out, errs, code = s.run(t, "status", id); code != 0 || !strings.Contains(out, "queued") || !strings.Contains(out, "recipient_offline") {
		t.Errorf("status: status %d, %q, %q", code, out, errs)
	}

	out, errs, code = s.run(t, "listen", "--as", "amina", "--count", "2", "--read")
	for _, want := range []string{id, "hello", "type greeting", "lang=en", `{"n":1}`, "from development"} {
		if !strings.Contains(out, want) {
			t.Errorf("listen does not show %q: %q", want, out)
		}
	}
	if code != 0 || strings.Index(out, "hello") > strings.Index(out, `{"n"`) {
		t.Errorf("listen: status %d, %q, %q", code, out, errs)
	}
	out, errs, code = s.run(t, "listen", "--as", "+962791234567", "--count", "1", "--json")
	var d client.Delivery
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 || d.Content != "from standard input" {
		t.Errorf("listen as JSON: status %d, %q, %q", code, out, errs)
	}

	// The last acknowledgement and the reading may be on their way.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if out, errs, code = s.run(t, "status", id, "--json"); code == 0 && strings.Contains(out, `"status":"read"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the message is not read: status %d, %q, %q", code, out, errs)
		}
	}
	out, errs, code = s.run(t, "send", "nobody", "x", "--wait", "delivered", "--timeout", "500ms")
	if code != 1 || !strings.Contains(out, "queued") || !strings.Contains(errs, "deadline") {
		t.Errorf("send and wait in vain: status %d, %q, %q", code, out, errs)
	}
}

func TestToolsSayWhatIsWrong(t *testing.T) {
	s := startServer(t)
	for _, tc := range []struct {
		args string
		want string
	}{
		{"send amina", "content"},
		{"send amina text --data {}", "either"},
		{"send amina --data {", "not JSON"},
		{"send amina x --wait dreamt", "not a status"},
		{"send amina x --key wrong", "401"},
		{"send amina x --url nowhere", "nowhere"},
		{"status 1234", "bad_id"},
		{"status 0198c0de-7a1b-7c3d-8e4f-012345670001", "message_not_found"},
		{"listen", "--as or --token"},
		{"listen --token a.b.c", "401"},
		{"listen --as amina --key wrong", "401"},
		{"bench --key wrong --clients 1 --recipients 1 --duration 100ms --warmup 0s", "401"},
		{"bench --clients 0", "client"},
		{"bench accept-ratio --rounds 0", "comparison"},
	} {
		out, errs, code := s.run(t, strings.Fields(tc.args)...)
		if code == 0 || !strings.Contains(errs, tc.want) || strings.Contains(errs, "goroutine") {
			t.Errorf("%s: status %d, %q, %q; want an error about %q", tc.args, code, out, errs, tc.want)
		}
	}
	out, errs, code := server{url: s.url}.run(t, "send", "amina", "x")
	if code == 0 || !strings.Contains(errs, "--key") {
		t.Errorf("without a key: status %d, %q, %q", code, out, errs)
	}
}

func TestBench(t *testing.T) {
	s := startServer(t)
	args := []string{"bench", "--clients", "5", "--recipients", "8", "--offline", "0.25", "--rate", "200", "--duration", "500ms", "--warmup", "100ms"}
	out, errs, code := s.run(t, append(args, "--json")...)
	var r loadgen.Report
	if err := json.Unmarshal([]byte(out), &struct {
		Verdict *loadgen.Verdict `json:"verdict"`
	}{&r.Verdict}); err != nil {
		t.Fatalf("bench: %v, status %d, %q, %q", err, code, out, errs)
	}
	if v := &r.Verdict; code != 0 || !v.OK() || v.Accepted == 0 || v.Received != v.Accepted {
		t.Errorf("bench: status %d, %v %q, %q", code, v, v.Notes, errs)
	}
	out, errs, code = s.run(t, args...)
	for _, want := range []string{"open loop at 200", "accept latency", "accept to receive", "kept every promise", "lost 0"} {
		if !strings.Contains(out, want) {
			t.Errorf("bench does not print %q", want)
		}
	}
	if code != 0 {
		t.Errorf("bench: status %d, %q, %q", code, out, errs)
	}
}

func TestTerminalShowsNoControls(t *testing.T) {
	const text = "a\tb\x1b[31mred\x07\u202eevil\nline"
	if got, want := terminal(text), "a\tb·[31mred··evil·line"; got != want {
		t.Errorf("shown as %q, want %q", got, want)
	}
}
