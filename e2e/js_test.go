package e2e

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// official returns the command that runs a file of js/, tests on the official client, against what listens at the URL.
func official(t *testing.T, file, url string, env ...string) *exec.Cmd {
	t.Helper()
	if _, err := os.Stat("js/node_modules/@microsoft/signalr"); err != nil {
		t.Fatalf("the official client is not installed: run make setup (%v)", err)
	}
	node := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", file)
	node.Dir = "js"
	node.Env = append(append(os.Environ(), "E2E_URL="+url, "E2E_KEY="+apiKey), env...)
	return node
}

// TestJavaScriptClient runs the tests in js/, which are written against the official SignalR client.
// Each file gets a server of its own, which it may have restarted.
func TestJavaScriptClient(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"device.test.mjs", "transports.test.mjs", "restart.test.mjs"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			options := []string{"--ack-timeout", "1s", "--backoff-base", "50ms", "--listen", freePorts(t, 1)[0]}
			if file == "device.test.mjs" {
				// Long enough for the tests that hold an acknowledgement back on purpose.
				options[1] = "3s"
			}
			s := start(t, dir, options...)

			// Requests for a restart come from the tests in node and are carried out by this goroutine.
			type restart struct {
				signal syscall.Signal
				done   chan error
			}
			restarts := make(chan restart)
			control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				wanted := restart{syscall.SIGTERM, make(chan error, 1)}
				if r.URL.Query().Get("signal") == "SIGKILL" {
					wanted.signal = syscall.SIGKILL
				}
				select {
				case restarts <- wanted:
				case <-r.Context().Done():
					return
				}
				if err := <-wanted.done; err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
				}
			}))
			defer control.Close()

			node := official(t, file, s.url, "E2E_JWT_SECRET="+jwtSecret, "E2E_CONTROL="+control.URL)
			var out bytes.Buffer
			node.Stdout, node.Stderr = &out, &out
			if err := node.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- node.Wait() }()
			var err error
			for running := true; running; {
				select {
				case err = <-ended:
					running = false
				case wanted := <-restarts:
					if wanted.signal == syscall.SIGKILL {
						s.kill()
					} else {
						s.stop()
					}
					s = launch(t, dir, options...)
					wanted.done <- s.ready()
				}
			}
			if err != nil {
				t.Fatalf("node: %v\n%s", err, out.String())
			}
			t.Log(out.String())
			s.stop()
		})
	}
}
