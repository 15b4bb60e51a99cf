package node

import (
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/placement"
)

// Who asks for a node by its own address is told from who asks for any.
func TestPlacesAsked(t *testing.T) {
	for _, c := range []struct {
		deviceURL, host string
		want            bool
	}{
		{"https://node-1.example.com", "node-1.example.com", true},
		{"https://node-1.example.com", "node-1.example.com:443", true},
		{"https://node-1.example.com:443", "Node-1.Example.com", true},
		{"http://node-1.example.com:80", "node-1.example.com", true},
		{"http://10.0.0.1:8080", "10.0.0.1:8080", true},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"http://[2001:db8::80]", "[2001:db8::80]", true},
		{"https://node-1.example.com", "node-1.example.com:80", false},
		{"https://node-1.example.com", "push.example.com", false},
		{"https://node-1.example.com", "node-2.example.com", false},
		{"http://10.0.0.1:8080", "10.0.0.1:8000", false},
		{"http://10.0.0.1:8080", "10.0.0.1", false},
	} {
		p := newPlaces(&Node{cfg: Config{DeviceURL: c.deviceURL}})
		if got := p.asked(c.host); got != c.want {
			t.Errorf("at the device URL %s the host %s counts as its own: %t", c.deviceURL, c.host, got)
		}
	}
}

// Who asks for any node is sent to this one while it knows nothing of the others, and so never stays at the balancer.
func TestPlacesAnywhere(t *testing.T) {
	p := newPlaces(&Node{cfg: Config{NodeName: "a", DeviceURL: "http://10.0.0.1:8080"}})
	want := func(name, when string) {
		t.Helper()
		if to := p.anywhere(); to != name {
			t.Errorf("%s a device is sent to %q, want %q", when, to, name)
		}
	}
	want("a", "before anything is known")
	if p.urls["a"] != "http://10.0.0.1:8080" {
		t.Errorf("its URL is %q", p.urls["a"])
	}
	p.cluster.Look(time.Unix(0, 0), placement.Node{Name: "a", Devices: 3}, []placement.Node{{Name: "b", Devices: 1}})
	want("b", "when another has fewer")
	p.apart = true
	want("a", "cut off from the others")
}
