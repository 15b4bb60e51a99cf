// Package jstest runs the official JavaScript client against the server, in
// Node and in a headless Chromium. It needs node, npm and, for the browser
// tests, chromium on the PATH.
package jstest

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// installing is held while clients are installed: npm ci begins by removing what is there, and tests share folders.
var installing sync.Mutex

// install installs a client as its package-lock.json says, unless that was
// done.
func install(t *testing.T, folder string) {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	lock, err := os.ReadFile(folder + "/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	// npm's own record differs; this one is a copy of what was installed.
	const done = "/node_modules/.installed-lock.json"
	if installed, err := os.ReadFile(folder + done); err == nil && string(installed) == string(lock) {
		return
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in %s: %v\n%s", folder, err, out)
	}
	if err := os.WriteFile(folder+done, lock, 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a script of node and returns the lines of its output.
func run(t *testing.T, args ...string) <-chan string {
	t.Helper()
	cmd := exec.Command("node", args...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v", err)
		}
		close(lines)
	}()
	return lines
}

func TestNode(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"current", "oldest"} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			install(t, folder)
			var configs []config
			for _, transport := range []string{"WebSockets", "ServerSentEvents", "LongPolling"} {
				for _, protocol := range []string{"json", "messagepack"} {
					if transport != "ServerSentEvents" || protocol == "json" {
						configs = append(configs, startSite(t).config(transport, protocol))
					}
				}
			}
			arg, err := json.Marshal(configs)
			if err != nil {
				t.Fatal(err)
			}
			results(t, run(t, "node.mjs", folder, string(arg)), len(configs)*15)
		})
	}
}
