package e2e

import (
	"fmt"
	"testing"
	"time"
)

// Devices know a balancer's address alone. Each is sent to the node with the fewest, is served there, and has nothing open at the
// balancer meanwhile. When a node is killed, its devices come back to the balancer and are sent to the others.
func TestDevicesGoPastTheBalancer(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "--log-level", "warn")
	b, admin := balancer(t, c.servers)
	for _, s := range c.servers {
		s.await("the start to be over", func() bool {
			whole, _, _ := s.readiness("cluster")
			return whole == "ok"
		})
	}
	again := func(int, error) (time.Duration, bool) { return 200 * time.Millisecond, true }
	const many = 30
	var phones []<-chan delivery
	for i := range many {
		_, received := b.negotiate(t, fmt.Sprint("user", i), "?ack=result", again, true)
		phones = append(phones, received)
	}
	hear := func() {
		t.Helper()
		for i, received := range phones {
			id := b.api().mustSend(t, outgoing{To: fmt.Sprint("user", i), Content: "hello"}).ID
			select {
			case m := <-received:
				if m.ID != id {
					t.Errorf("user%d got %s, want %s", i, m.ID, id)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("user%d got nothing", i)
			}
			b.awaitStatus(b.api(), id, "delivered")
		}
	}
	hear()
	for i, s := range c.servers {
		// How evenly they come depends on how old the nodes' figures of each other are, and those are older on a busy machine.
		if n := s.arrivals(); n < 3 {
			t.Errorf("%d of %d devices came to node %d", n, many, i)
		}
	}
	if s := streamsAt(t, admin); s != 0 {
		t.Errorf("the balancer has %d streams and WebSockets open", s)
	}

	// One that does not negotiate cannot be sent anywhere. It shows that what passes is counted.
	d, err := dial(b.url, token(t, "fixed", time.Hour), func(delivery) {})
	if err != nil {
		t.Fatal(err)
	}
	if s := streamsAt(t, admin); s != 1 {
		t.Errorf("the balancer has %d streams and WebSockets open, want that of the device that did not negotiate", s)
	}
	d.hangUp()
	b.await("the balancer to see it go", func() bool { return streamsAt(t, admin) == 0 })

	if out, err := official(t, "balanced.test.mjs", b.url, "E2E_ADMIN="+admin).CombinedOutput(); err != nil {
		t.Errorf("node: %v\n%s", err, out)
	}
	b.await("the devices of the official client to be gone", func() bool { return connected(c.servers...) == many })

	left := c.servers[1:]
	killed := time.Now()
	c.servers[0].kill()
	b.await("the devices of the killed node to be at the others", func() bool { return connected(left...) == many })
	t.Logf("the devices of the killed node were back after %s", time.Since(killed))
	left[0].await("the shards to have owners", func() bool {
		return left[0].metric("esh3ar_shards_owned")+left[1].metric("esh3ar_shards_owned") == 4
	})
	hear()
	if s := streamsAt(t, admin); s != 0 {
		t.Errorf("the balancer has %d streams and WebSockets open", s)
	}
	for _, s := range left {
		s.stop()
	}
}

// connected returns how many devices the nodes have.
func connected(nodes ...*server) (n int) {
	for _, s := range nodes {
		n += s.metric("esh3ar_devices_connected")
	}
	return n
}

// streamsAt returns how many streams and WebSockets a balancer has open.
func streamsAt(t *testing.T, admin string) (n int) {
	t.Helper()
	for _, node := range nodeStates(t, admin) {
		n += node.Streams
	}
	return n
}
