package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// TestDevicesAreSentToOtherNodes fills one of three nodes with devices that do not negotiate. From then on it sends those
// that do to the others: the official JavaScript client and the one in Go.
func TestDevicesAreSentToOtherNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "--log-level", "warn")
	full := c.servers[0]
	const many = 150 // a third of them is the average; 1.25 × 50 + 50 is less
	for i := range many {
		d, err := dial(full.url, token(t, fmt.Sprint("crowd", i), time.Hour), func(delivery) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.hangUp)
	}
	elsewhere := func() int { return c.servers[1].arrivals() + c.servers[2].arrivals() }
	if n := elsewhere(); n != 0 {
		t.Fatalf("%d devices are at the other nodes", n)
	}

	full.await("it to know that the others have fewer", func() bool { return full.redirects(t) })
	_, received := full.negotiate(t, "alice", "?ack=result", signalr.NoReconnect, true)
	if n := elsewhere(); n != 1 {
		t.Errorf("%d devices are at the other nodes, want the one that negotiated", n)
	}
	id := full.api().mustSend(t, outgoing{To: "alice", Content: "hello"}).ID
	full.awaitStatus(full.api(), id, "delivered")
	if m := <-received; m.ID != id {
		t.Errorf("the phone got %s, want %s", m.ID, id)
	}

	if out, err := official(t, "redirect.test.mjs", full.url).CombinedOutput(); err != nil {
		t.Errorf("node: %v\n%s", err, out)
	}
	if n := elsewhere(); n != 2 {
		t.Errorf("%d devices were sent to the other nodes, want 2", n)
	}
	if n := full.arrivals(); n != many {
		t.Errorf("%d devices came to the full node, want %d", n, many)
	}
	for _, s := range c.servers {
		s.stop()
	}
}

// redirects reports whether a device that negotiates here now is sent elsewhere.
func (s *server) redirects(t *testing.T) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/hubs/mobile/negotiate?negotiateVersion=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token(t, "nobody", time.Hour))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var answer struct{ URL string }
	return json.NewDecoder(resp.Body).Decode(&answer) == nil && answer.URL != ""
}

// arrivals returns how many devices have connected to the server so far.
func (s *server) arrivals() int {
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
	m := regexp.MustCompile(`(?m)^esh3ar_device_connections_total (\d+)$`).FindSubmatch(text)
	if m == nil {
		s.t.Fatal("no count of connections")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
