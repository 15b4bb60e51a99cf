package node

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/health"
)

// capacity is what the node's figures are to be compared with. Connections is how many may be open.
func (n *Node) capacity(connections int) health.Capacity {
	processors := float64(runtime.GOMAXPROCS(0))
	// The Go runtime rounds what the control group allows up, and takes two at least.
	if quota := cgroupProcessors(); quota > 0 {
		processors = min(processors, quota)
	}
	return health.Capacity{
		Processors: processors, Connections: int64(connections), AcceptLatency: n.cfg.AcceptLatency.Seconds(),
	}
}

// countingListener counts the connections that it accepted and that are open.
type countingListener struct {
	net.Listener
	open atomic.Int64
}

// countConnections returns a listener that counts the connections of l for the metric of open ones.
func countConnections(l net.Listener, r prometheus.Registerer) net.Listener {
	c := &countingListener{Listener: l}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "esh3ar_connections", Help: "Open connections of any kind.",
	}, func() float64 { return float64(c.open.Load()) }))
	return c
}

// Accept implements net.Listener.
func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

// countedConn is counted as open until it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.closed()
	return err
}
