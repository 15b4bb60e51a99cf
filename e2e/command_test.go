package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// command runs a subcommand of the program against the server and returns its standard output.
func (s *server) command(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "ESH3AR_URL="+s.url, "ESH3AR_API_KEY="+apiKey)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("esh3ar %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// TestCommands sends, listens and asks with the program's own subcommands.
func TestCommands(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	var first struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(s.command(t, "send", "alice", "waiting", "--json")), &first); err != nil || first.ID == "" {
		t.Fatalf("%v, %+v", err, first)
	}

	heard := make(chan []byte, 1)
	listen := exec.CommandContext(t.Context(), program, "listen", "--as", "alice", "--count", "2", "--json")
	listen.Env = append(os.Environ(), "ESH3AR_URL="+s.url, "ESH3AR_API_KEY="+apiKey)
	go func() {
		out, err := listen.Output()
		if err != nil {
			t.Errorf("listen: %v", err)
		}
		heard <- out
	}()
	// Waiting for delivered needs the listener to be there and to acknowledge.
	if out := s.command(t, "send", "alice", "--data", `{"n": 1}`, "--wait", "delivered"); !strings.Contains(out, "delivered") {
		t.Errorf("send --wait:\n%s", out)
	}

	var contents []string
	for line := range strings.Lines(string(<-heard)) {
		var m delivery
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		contents = append(contents, m.Content+string(m.Data))
	}
	if got := strings.Join(contents, "|"); got != `waiting|{"n":1}` && got != `waiting|{"n": 1}` {
		t.Errorf("listen heard %q", got)
	}
	s.awaitStatus(s.api(), first.ID, "delivered")
	if out := s.command(t, "status", first.ID); !strings.Contains(out, "delivered") || !strings.Contains(out, "waiting") {
		t.Errorf("status:\n%s", out)
	}
	s.stop()
}

// TestBenchKeepsItsVerdict runs a small bench, which fails on anything lost or out of order, with either
// client for devices.
func TestBenchKeepsItsVerdict(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	for _, deviceClient := range []string{"go", "minimal"} {
		t.Run(deviceClient, func(t *testing.T) {
			var report struct {
				Client  string `json:"device_client"`
				Verdict struct{ Accepted, Received, Lost, Waiting int }
			}
			out := s.command(t, "bench", "--clients", "10", "--recipients", "20", "--offline", "0.2", "--rate", "200",
				"--duration", "2s", "--warmup", "500ms", "--settle", "5s", "--json", "--jwt-secret", jwtSecret, "--device-client", deviceClient)
			if err := json.Unmarshal([]byte(out), &report); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if v := report.Verdict; v.Accepted < 40 || v.Received != v.Accepted || v.Lost > 0 {
				t.Errorf("verdict: %+v", v)
			}
			if report.Client != deviceClient {
				t.Errorf("the devices were %q", report.Client)
			}
		})
	}
	s.stop()
}
