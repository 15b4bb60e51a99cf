package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scalerReport is what an autoscaler tells of itself.
type scalerReport struct {
	Leading   bool
	Decisions []struct{ Kind, Node, Outcome, By, Reason, Signal string }
}

// scaler starts an autoscaler over a directory that it shares with others of this machine.
func scaler(t *testing.T, name, dir, nats string, args ...string) *server {
	t.Helper()
	s := prepare(t, append([]string{
		program, "autoscale", "--name", name, "--nats-url", nats, "--cluster-secret", clusterSecret, "--admin-listen", "127.0.0.1:0",
		"--max", "1", "--smooth", "1s", "--low-for", "2s", "--up-cooldown", "1s", "--down-cooldown", "2s", "--start-within", "30s",
		"--capacity-connections", "60", "--capacity-cpu", "1000", "--capacity-latency", "1h", "--capacity-lag", "1h", "--capacity-queue", "1e9",
		"--provider", "process", "--process-dir", dir, "--process-prefix", "elastic",
	}, args...))
	s.launch()
	return s
}

const clusterSecret = "the nodes of the tests know this"

func (s *server) scalerReport() (r scalerReport) {
	s.t.Helper()
	a := newAPI(s.url)
	defer a.close()
	if _, err := a.call(s.t.Context(), http.MethodGet, "/decisions", "", nil, &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// The load rises: a node is started, and takes shards and calls. The autoscaler that leads is killed: the other goes on, and
// drains the node when the load has fallen. Of all the messages that went through meanwhile none is lost.
func TestAutoscale(t *testing.T) {
	t.Parallel()
	pg, store := database(t)
	ports := freePorts(t, 7)
	c := &nodes{t: t, dir: t.TempDir(), pg: pg, store: store, routes: ports[:3], listens: ports[3:6], servers: make([]*server, 3)}
	c.args = append(clusterArgs(), "--client-listen", ports[6])
	core := c.launch(0)
	c.args = clusterArgs()
	c.launch(1)
	c.launch(2)
	nats := "nats://" + ports[6]
	common := append([]string{"--store", store, "--shards", "4", "--cluster-name", "test"}, clusterArgs()...)
	var passed []string
	for _, arg := range common {
		passed = append(passed, "--process-arg="+arg)
	}
	processes := filepath.Join(c.dir, "processes")
	scalers := []*server{scaler(t, "one", processes, nats, passed...), scaler(t, "two", processes, nats, passed...)}
	// Nobody else ends what they started.
	t.Cleanup(func() { endProcesses(t, processes) })
	for _, s := range append(scalers, c.servers...) {
		if err := s.ready(); err != nil {
			t.Fatal(err)
		}
	}
	adminKey, err := os.ReadFile(filepath.Join(c.dir, "0", "admin-key"))
	if err != nil {
		t.Fatal(err)
	}
	overview := newAPI(core.url)
	defer overview.close()
	overview.key = strings.TrimSpace(string(adminKey))
	elastic := func() (address string, shards int) {
		var o struct {
			Nodes []struct {
				Name, Address string
				Shards        []int
			}
		}
		if _, err := overview.call(t.Context(), http.MethodGet, "/v1/admin/health", "", nil, &o); err != nil {
			t.Fatal(err)
		}
		for _, n := range o.Nodes {
			if n.Name == "elastic-1" {
				return n.Address, len(n.Shards)
			}
		}
		return "", 0
	}

	r := &crashRun{t: t, ledger: newLedger()}
	r.serve(c.servers...)
	load := r.load(5, 4, nil)
	var crowd []*device
	for i := range 180 {
		d, err := dial(c.servers[i%3].url, token(t, "one of many", time.Hour), func(delivery) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.hangUp)
		crowd = append(crowd, d)
	}
	began := time.Now()
	added := &server{t: t}
	core.await("a node to come and to take shards", func() bool {
		address, shards := elastic()
		added.url = address
		return shards > 0
	})
	t.Logf("a node took shards after %s", time.Since(began))
	r.serve(append(c.servers, added)...)
	r.arrives(30 * time.Second)
	core.await("the new node to accept messages", func() bool { return added.metric(`esh3ar_messages_accepted_total{tier="gold"}`) > 0 })

	leading := slices.IndexFunc(scalers, func(s *server) bool { return s.scalerReport().Leading })
	if leading < 0 {
		t.Fatal("nobody leads")
	}
	leader, other := scalers[leading], scalers[1-leading]
	leader.kill()
	began = time.Now()
	other.await("the other to lead", func() bool { return other.scalerReport().Leading })
	t.Logf("the other led after %s", time.Since(began))

	for _, d := range crowd {
		d.hangUp()
	}
	began = time.Now()
	core.await("the node to go", func() bool { address, _ := elastic(); return address == "" })
	r.serve(c.servers...)
	t.Logf("the node was gone %s after the load", time.Since(began))
	a := load.finish(60*time.Second, c.servers...)
	t.Log(a)
	if a.accepted < 100 || a.received == 0 || a.waiting == 0 {
		t.Errorf("too little happened to prove anything: %s", a)
	}
	decisions := other.scalerReport().Decisions
	if len(decisions) != 2 || decisions[0].Kind != "remove" || decisions[0].Node != "elastic-1" || decisions[1].Kind != "add" ||
		decisions[1].Signal != "connections" || decisions[0].By == decisions[1].By {
		t.Errorf("decisions: %+v", decisions)
	}
	other.await("nothing to be left of the node", func() bool {
		left, err := filepath.Glob(filepath.Join(processes, "elastic-1", "*"))
		return err == nil && len(left) == 0
	})
	log, err := os.ReadFile(filepath.Join(processes, "elastic-1.log"))
	if err != nil || strings.Contains(string(log), "DATA RACE") || strings.Contains(string(log), "panic:") {
		t.Errorf("%v; the node said:\n%s", err, log)
	}
	other.stop()
	for _, s := range c.servers {
		s.stop()
	}
}

// endProcesses kills what autoscalers over that directory have left.
func endProcesses(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "pid"))
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Error(err)
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		t.Errorf("process %d was left", pid)
	}
}
