package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
)

// TestBalancersOverARollingRestart gives each of two balancers one node of a cluster: they find all three. The elastic ones are
// then restarted one after the other under load, by clients that do not repeat anything: every message is accepted. A node
// that leaves is forgotten, also if it is all that a balancer was given.
//
// The node that keeps the journal is left alone: while a stream elects a leader nobody can accept for it.
func TestBalancersOverARollingRestart(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "--trusted-proxies", "127.0.0.1", "--drain-delay", "2s", "--log-level", "warn")
	c := d.core(1)
	ports := freePorts(t, 2)
	names := []string{"first", "second"}
	launch := func(i int) *server { return d.elastic(names[i], "--replicas", "1", "--listen", ports[i]) }
	elastic := []*server{launch(0), launch(1)}
	nodes := append([]*server{c.launch(0)}, elastic...)
	mustBeReady(t, nodes...)
	b1, admin1 := balancerOf(t, nodes, "--discover", nodes[0].url)
	b2, admin2 := balancerOf(t, nodes, "--discover", elastic[0].url)
	admins := []string{admin1, admin2}
	all := []*balanced{sendThrough(t, b1, 3), sendThrough(t, b2, 3)}
	all[0].more(b1, 100)
	all[1].more(b2, 100)
	for i := range elastic {
		url := elastic[i].url
		elastic[i].stop()
		elastic[i] = launch(i)
		mustBeReady(t, elastic[i])
		for _, admin := range admins {
			elastic[i].await("the balancers to use it again", func() bool {
				n := nodeStates(t, admin)[url]
				return n.Usable && n.State != "unknown" && n.Requests > 20
			})
		}
	}
	for _, told := range all {
		told.end(t)
		if n := told.unsure(); n > 0 {
			t.Errorf("%d of %d messages failed: %v", n, told.sent.Load(), told.errors)
		}
		t.Logf("%d sent, %d accepted", told.sent.Load(), len(told.accepted))
	}

	gone := elastic[0].url
	elastic[0].stop()
	stopped := time.Now()
	for i, admin := range admins {
		[]*server{b1, b2}[i].await("the node to be forgotten", func() bool {
			states := nodeStates(t, admin)
			_, known := states[gone]
			return !known && len(states) == 2
		})
	}
	t.Logf("a node that left was forgotten within %v", time.Since(stopped).Round(time.Millisecond))
	b1.stop()
	b2.stop()
}

// TestTwoBalancersSpreadEvenly sends through two balancers, which know nothing of each other, to three equal servers: each
// gets a third.
func TestTwoBalancersSpreadEvenly(t *testing.T) {
	t.Parallel()
	var nodes []*server
	for range 3 {
		nodes = append(nodes, start(t, t.TempDir()))
	}
	b1, admin1 := balancer(t, nodes)
	b2, admin2 := balancer(t, nodes)
	through1, through2 := sendThrough(t, b1, 4), sendThrough(t, b2, 4)
	requests := func() []float64 {
		sums := make([]float64, len(nodes))
		for _, admin := range []string{admin1, admin2} {
			states := nodeStates(t, admin)
			for i, n := range nodes {
				sums[i] += float64(states[n.url].Requests)
			}
		}
		return sums
	}
	through1.more(b1, 500) // past the slow start
	through2.more(b2, 500)
	before := requests()
	through1.more(b1, 1500)
	through2.more(b2, 1500)
	after := requests()
	through1.end(t)
	through2.end(t)
	var sum, squares float64
	for i := range after {
		n := after[i] - before[i]
		sum, squares = sum+n, squares+n*n
	}
	jain := sum * sum / (float64(len(nodes)) * squares)
	t.Logf("%v requests at the beginning, %v at the end; Jain's index of what lies between %.4f", before, after, jain)
	if jain < 0.99 {
		t.Errorf("Jain's index is %.4f", jain)
	}
}

// TestBalancerOverTLS speaks TLS with a server: the balancer finds it by its https URL, and a message, an event stream and a
// device get through.
func TestBalancerOverTLS(t *testing.T) {
	t.Parallel()
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	s := launch(t, t.TempDir(), "--trusted-proxies", "127.0.0.1", "--tls-cert", files.Cert, "--tls-key", files.Key)
	s.await("the server's address", func() bool {
		address, err := os.ReadFile(s.addr)
		s.url = "https://" + strings.TrimSpace(string(address))
		return err == nil
	})
	b, admin := balancerOf(t, []*server{s}, "--discover", s.url, "--node-ca", files.Cert)
	a := b.api()
	stream := a.watch(t, "")
	newPhone(t, b, "alice", false)
	id := a.mustSend(t, outgoing{To: "alice", Content: strings.Repeat("x", 40_000)}).ID
	r := newRecord()
	r.until(t, stream, "delivered", id)
	r.check(t, a, id)
	if n := nodeStates(t, admin)[s.url]; n.State != "ready" || n.Requests == 0 {
		t.Errorf("the node is shown as %+v", n)
	}
	b.stop()
	s.stop()
}
