package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// natsServers are processes of NATS's own server that form a cluster.
type natsServers struct {
	t       *testing.T
	binary  string
	dir     string
	clients []string
	monitor []string
	running []*exec.Cmd
}

// startNATS builds NATS's server, at the version that the program embeds, and starts three of it that sync
// each write.
func startNATS(t *testing.T) *natsServers {
	t.Helper()
	n := &natsServers{t: t, dir: t.TempDir(), running: make([]*exec.Cmd, 3)}
	n.binary = filepath.Join(n.dir, "nats-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", n.binary, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("building the NATS server: %v\n%s", err, out)
	}
	ports := freePorts(t, 9)
	n.clients, n.monitor = ports[:3], ports[6:]
	routes := make([]string, 3)
	for i, address := range ports[3:6] {
		routes[i] = "nats-route://" + address
	}
	for i := range n.running {
		config := fmt.Sprintf(`
server_name: nats%d
listen: %q
http: %q
authorization { token: %q }
jetstream { store_dir: %q, max_file_store: 2GB, sync_interval: always }
cluster { name: ours, listen: %q, routes: [%s] }
`, i, n.clients[i], n.monitor[i], secretOfNodes, filepath.Join(n.dir, fmt.Sprint(i)), ports[3+i], strings.Join(routes, ", "))
		if err := os.WriteFile(n.config(i), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		n.launch(i)
	}
	return n
}

func (n *natsServers) config(i int) string { return filepath.Join(n.dir, fmt.Sprintf("%d.conf", i)) }

// launch starts a server and returns at once. It is ended with the test.
func (n *natsServers) launch(i int) {
	n.t.Helper()
	cmd := exec.Command(n.binary, "--config", n.config(i), "--log", n.config(i)+".log")
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.running[i] = cmd
	n.t.Cleanup(func() { n.kill(cmd) })
}

// kill ends a server as a crash does.
func (n *natsServers) kill(cmd *exec.Cmd) {
	n.t.Helper()
	if err := cmd.Process.Kill(); errors.Is(err, os.ErrProcessDone) {
		return
	} else if err != nil {
		n.t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}

// slacken starts a server again with NATS's default of syncing now and then.
func (n *natsServers) slacken(i int) {
	n.t.Helper()
	n.kill(n.running[i])
	config, err := os.ReadFile(n.config(i))
	if err == nil {
		err = os.WriteFile(n.config(i), bytes.Replace(config, []byte("sync_interval: always"), []byte("sync_interval: 2m"), 1), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.launch(i)
	n.healthy(i)
}

// healthy waits until a server has caught up with the others.
func (n *natsServers) healthy(i int) {
	n.t.Helper()
	deadline := time.After(bootLimit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + n.monitor[i] + "/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			n.t.Fatalf("NATS server %d is not healthy within %s: %v", i, bootLimit, err)
		}
	}
}

// All nodes are elastic over a NATS cluster that is not theirs. One of its servers is killed under load, and one node:
// nothing is lost, and order is kept.
func TestExternalNATS(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	d := newDeployment(t, append(clusterArgs(), "--journal-size", "64MiB")...)
	d.nats = n.clients
	var servers []*server
	for i := range 2 {
		servers = append(servers, d.elastic(fmt.Sprint("node", i)))
	}
	mustBeReady(t, servers...)
	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(servers...)
	load := r.load(12, 4, nil)
	r.arrives(30 * time.Second)

	t.Log("a NATS server is killed")
	n.kill(n.running[0])
	r.arrives(60 * time.Second)
	n.launch(0)
	n.healthy(0)

	t.Log("a node is killed")
	r.serve(servers[1])
	servers[0].kill()
	r.arrives(60 * time.Second)
	a := load.finish(90*time.Second, servers[1])
	t.Log(a)
	if a.accepted < 100 || a.received == 0 || a.waiting == 0 {
		t.Errorf("too little happened to prove anything: %s", a)
	}

	d.elastic("stranger", "--cluster-secret", "a guess").refused("Authorization Violation")
	monitors := "http://" + strings.Join(n.monitor, ",http://")
	careful := d.elastic("careful", "--nats-monitor", monitors)
	mustBeReady(t, careful)
	for _, s := range []*server{careful, servers[1]} {
		s.stop()
	}
	n.slacken(2)
	d.elastic("careful", "--nats-monitor", monitors).refused("does not sync each write")
}
