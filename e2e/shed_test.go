package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metric returns the value of a series, 0 if there is none.
func (s *server) metric(series string) int {
	s.t.Helper()
	resp, err := http.Get(s.url + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\d+)$`).FindSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// One of three nodes has nearly all devices: they spread, by a close that has them reconnect and a negotiation that sends them on,
// over all transports and protocols. A message that is charged two attempts is a dead letter here.
func TestFullNodeSheds(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "--shed-rate", "1200", "--max-attempts", "2", "--log-level", "info")
	full := c.servers[0]
	const officials = 6 // devices on the official client
	node := official(t, "shed.test.mjs", full.url)
	var out bytes.Buffer
	node.Stdout, node.Stderr = &out, &out
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	full.await("the official clients to connect", func() bool { return full.arrivals() == officials })

	const many, fixed = 300, 10
	w := newSwarm(t)
	w.serve(c.servers...)
	w.connect(full, many)
	for i := range fixed { // these skip the negotiation, and would be back
		d, err := dial(full.url, token(t, fmt.Sprint("fixed", i), time.Hour), func(delivery) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.hangUp)
	}
	if n := full.metric("esh3ar_devices_fixed"); n != fixed {
		t.Errorf("%d devices are fixed, want %d", n, fixed)
	}
	w.write()
	began, uneven := time.Now(), false
	devices := func(s *server) int { return s.metric("esh3ar_devices_connected") }
	if err := full.poll(60*time.Second, "the devices to spread", func() bool {
		if !uneven {
			uneven = strings.Contains(full.problems(filepath.Join(c.dir, "0", "admin-key")), "devices ")
		}
		// 1.05 × 105 + 10 is where it ends.
		return devices(full) <= 121
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("they were spread after %s", time.Since(began))
	// Looked at before their silence ends them: these send no pings.
	if n := full.metric("esh3ar_devices_fixed"); n != fixed {
		t.Errorf("%d devices are fixed, want %d", n, fixed)
	}
	if !uneven {
		t.Error("the operator was told of no problem with the devices")
	}
	if err := node.Wait(); err != nil {
		t.Errorf("node: %v\n%s", err, out.Bytes())
	}
	a := w.finish(full)
	t.Log(a)
	if a.accepted < 20 {
		t.Errorf("%d messages prove nothing", a.accepted)
	}

	shed := full.metric(`esh3ar_devices_shed_total{reason="balance"}`) + full.metric(`esh3ar_devices_shed_total{reason="overload"}`)
	back, peak := w.reconnections()
	t.Logf("%d were shed, %d of the Go client came back, %d of them at most within a second", shed, back, peak)
	if shed < 150 || shed > 260 {
		t.Errorf("%d devices were told to go, and about 200 were too many", shed)
	}
	if peak > 130 {
		t.Errorf("%d devices came within a second: at a fifth a second 60 go, and all at once 200", peak)
	}
	for _, s := range c.servers[1:] {
		if n := devices(s); n < 50 || n > 150 {
			t.Errorf("%d devices are at another node", n)
		}
		if n := s.metric(`esh3ar_devices_shed_total{reason="balance"}`); n != 0 {
			t.Errorf("another node shed %d", n)
		}
	}
	dead, _, err := full.api().deadLetters(t.Context(), nil)
	if err != nil || len(dead) != 0 {
		t.Errorf("dead letters: %v, %v", dead, err)
	}
}

// problems returns what the operator is told, a line each.
func (s *server) problems(adminKeyFile string) string {
	s.t.Helper()
	var o struct {
		Problems []struct{ Node, Check, Detail string }
	}
	key, err := os.ReadFile(adminKeyFile)
	if err != nil {
		s.t.Fatal(err)
	}
	a := s.api()
	defer a.close()
	a.key = strings.TrimSpace(string(key))
	if _, err := a.call(s.t.Context(), http.MethodGet, "/v1/admin/health", "", nil, &o); err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range o.Problems {
		fmt.Fprintf(&b, "%s %s %s\n", p.Check, p.Node, p.Detail)
	}
	return b.String()
}

// All three nodes are restarted, one after the other: their devices, which know them by their own addresses or by a balancer's,
// come back to the others at a pace, and nothing is lost. What was in flight is not charged an attempt.
func TestRollingRestartIsNoStorm(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "--log-level", "info")
	w := newSwarm(t)
	w.serve(c.servers...)
	const direct, balanced = 100, 60
	const all = 3*direct + balanced
	for _, s := range c.servers {
		w.connect(s, direct)
	}
	b, _ := balancer(t, c.servers)
	w.connect(b, balanced)
	// One device does not acknowledge what it gets, until it gets it again.
	holder, seen := c.servers[0].negotiate(t, "holder", "", func(int, error) (time.Duration, bool) { return 0, true }, nil)
	held := c.servers[1].api().mustSend(t, outgoing{To: "holder", Content: "held"}).ID
	if m := <-seen; m.ID != held || m.Attempt != 1 {
		t.Fatalf("the first delivery is %+v", m)
	}
	w.write()
	for i := range c.servers {
		left := append(append([]*server(nil), c.servers[:i]...), c.servers[i+1:]...)
		w.serve(left...)
		there := c.servers[i].metric("esh3ar_devices_connected")
		if i == 0 {
			there-- // the holder keeps no account of itself
		}
		before, _ := w.reconnections()
		c.servers[i].stop()
		// It answered until its devices had heard where to go.
		if i == 0 {
			m := <-seen
			if m.ID != held || m.Attempt != 1 {
				t.Errorf("what was in flight came again as attempt %d: %+v", m.Attempt, m)
			}
			if err := holder.Send(t.Context(), "AcknowledgeMessage", m.ID); err != nil {
				t.Error(err)
			}
			left[0].awaitStatus(left[0].api(), held, "delivered")
			if err := holder.Close(); err != nil {
				t.Error(err)
			}
		}
		here := 0
		if err := left[0].poll(30*time.Second, "its devices to be at the others", func() bool {
			here = connected(left...)
			return here == all
		}); err != nil {
			t.Fatalf("%v: %d of %d are", err, here, all)
		}
		if back, _ := w.reconnections(); back-before < there {
			t.Errorf("%d of %d devices came back", back-before, there)
		}
		if err := c.launch(i).ready(); err != nil {
			t.Fatal(err)
		}
		w.serve(c.servers...)
	}
	t.Log(w.finish(c.servers[0]))
	n, peak := w.reconnections()
	t.Logf("%d times a device came back, %d times at most within a second", n, peak)
	// 50 a second are told to go, and those of a node that stops are a hundred at least, later more.
	if peak > 100 {
		t.Errorf("%d devices came back within a second", peak)
	}
	if n < all || n > 2*all {
		t.Errorf("devices came back %d times", n)
	}
}
