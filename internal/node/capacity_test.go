package node

import (
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A connection counts from its acceptance until it is first closed.
func TestConnectionsAreCounted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	counting := countConnections(l, registry)
	defer counting.Close()
	open := func() float64 {
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		return families[0].GetMetric()[0].GetGauge().GetValue()
	}
	var accepted []net.Conn
	for i := range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := counting.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted = append(accepted, s)
		if got := open(); got != float64(i+1) {
			t.Errorf("%v open after %d", got, i+1)
		}
	}
	accepted[0].Close()
	accepted[0].Close()
	if got := open(); got != 1 {
		t.Errorf("%v open after one was closed twice", got)
	}
	accepted[1].Close()
}
