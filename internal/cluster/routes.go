package cluster

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// When the log tells of connections to the cluster's other servers that are missing. NATS itself says so at each attempt, which
// it makes every second over each of several connections.
const (
	routeGrace    = 3 * time.Second  // a server that has restarted is back within it
	unmetGrace    = 30 * time.Second // at the start of a cluster its servers come one by one
	routeReminder = 10 * time.Minute
	routeFailing  = 3 * time.Second // without a failed attempt none is made any more, or they succeed
)

// failedRoute keeps why the last attempt to connect to another server failed. Its methods may be called concurrently.
type failedRoute struct {
	last atomic.Pointer[routeFailure]
}

type routeFailure struct {
	at     time.Time
	reason string
}

func (f *failedRoute) note(now time.Time, reason string) { f.last.Store(&routeFailure{now, reason}) }

// reason is why attempts fail, "" if none has failed lately.
func (f *failedRoute) reason(now time.Time) string {
	if last := f.last.Load(); last != nil && now.Sub(last.at) < routeFailing {
		return last.reason
	}
	return ""
}

// routes tells the log which of the cluster's other servers this one is not connected to: once when it is so for some seconds,
// again every ten minutes, and when it is over. It is not for concurrent use.
type routes struct {
	log    *slog.Logger
	met    map[string]bool     // names of servers that were connected
	absent map[string]*absence // by the server's name; "" is for servers that this one has never met
}

// absence is of a server to which there is no connection.
type absence struct {
	since time.Time
	told  time.Time // zero if the log was not told
}

func newRoutes(log *slog.Logger) *routes {
	return &routes{log: log, met: make(map[string]bool), absent: make(map[string]*absence)}
}

// step takes the names of the servers that are connected, and why attempts to connect to others fail, "" if none does.
func (r *routes) step(now time.Time, connected map[string]bool, failing string) {
	for name := range connected {
		if !r.met[name] {
			r.met[name] = true
			r.log.Info("another node's NATS server is connected", "node", name)
		}
	}
	missing := 0
	for name := range r.met {
		if !connected[name] {
			missing++
			r.missing(now, name, routeGrace, failing)
		} else {
			r.there(now, name)
		}
	}
	// Attempts may fail that are for the missing ones, whose addresses are not known here.
	if missing == 0 && failing != "" {
		r.missing(now, "", unmetGrace, failing)
	} else {
		r.there(now, "")
	}
}

func (r *routes) missing(now time.Time, name string, grace time.Duration, failing string) {
	a := r.absent[name]
	if a == nil {
		a = &absence{since: now}
		r.absent[name] = a
	}
	if now.Sub(a.since) < grace || !a.told.IsZero() && now.Sub(a.told) < routeReminder {
		return
	}
	a.told = now
	attrs := []any{"for", now.Sub(a.since).Round(time.Second)}
	if failing != "" {
		attrs = append(attrs, "error", failing)
	}
	if name == "" {
		r.log.Warn("no connection to a server that is named in the routes", attrs...)
		return
	}
	r.log.Warn("no connection to another node's NATS server", append(attrs, "node", name)...)
}

func (r *routes) there(now time.Time, name string) {
	a := r.absent[name]
	delete(r.absent, name)
	switch {
	case a == nil || a.told.IsZero():
	case name == "":
		r.log.Info("no attempt to connect to a server that is named in the routes fails any more", "after", now.Sub(a.since).Round(time.Second))
	default:
		r.log.Info("another node's NATS server is connected again", "after", now.Sub(a.since).Round(time.Second), "node", name)
	}
}

// peersInterval is between two looks at the connections to the other servers.
const peersInterval = 100 * time.Millisecond

// watchPeers follows the connections of srv to the cluster's other servers until ctx ends: it tells the log of them, and stands
// for election where the leader is gone.
func watchPeers(ctx context.Context, srv *server.Server, failed *failedRoute, log *slog.Logger) {
	r, e := newRoutes(log), newElector(srv.Name())
	tick := time.NewTicker(peersInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now, connected := time.Now(), connectedPeers(srv) // not the tick's time, which may be old
			r.step(now, connected, failed.reason(now))
			e.elect(srv, log, now, connected)
		}
	}
}

// connectedPeers returns the names of the servers to which srv has connections.
func connectedPeers(srv *server.Server) map[string]bool {
	connected := make(map[string]bool)
	routes, err := srv.Routez(nil)
	if err != nil {
		return connected // does not fail
	}
	for _, r := range routes.Routes {
		if r.RemoteName != "" {
			connected[r.RemoteName] = true
		}
	}
	return connected
}
