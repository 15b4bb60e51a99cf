package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// majorityInterval is how often a node that stops looks whether the majority of the servers is there.
	majorityInterval = 100 * time.Millisecond

	// majorityGrace is for connections that are only made anew.
	majorityGrace = 500 * time.Millisecond

	// directoryGroup is the group of JetStream's directory of streams, in which all servers are.
	directoryGroup = "_meta_"
)

// ErrMajorityGone is why a node that stops does not wait any more for what only a majority of the servers can do.
var ErrMajorityGone = errors.New("most of the servers have gone")

// majoritySeer is the ability of a Connector to see which servers are connected.
type majoritySeer interface {
	// Majority says whether there are connections to enough of the others to be a majority with them.
	Majority() bool
}

// Majority says whether this server has connections to so many of its peers that they are a majority together: without one
// nothing can be stored in their streams. A server alone is one. As long as it does not know how many there are it says yes.
func (s *Server) Majority() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.running != nil && (s.opts.Peers == nil || majority(s.running))
}

func majority(srv *server.Server) bool {
	groups := raftGroups(srv)
	i := slices.IndexFunc(groups, func(g raftGroup) bool { return g.name == directoryGroup })
	if i < 0 {
		return true
	}
	connected, there := connectedPeers(srv), 0
	for _, peer := range groups[i].peers {
		if peer == srv.Name() || connected[peer] {
			there++
		}
	}
	return 2*there > len(groups[i].peers)
}

// endGroups has srv take no more part in the groups that it is in. A follower that fetches what it lacks of a stream from
// a server that has gone waits for seconds before it looks whether its own server is being closed; the end of its group it
// sees at once.
func endGroups(srv *server.Server) {
	for _, g := range raftGroups(srv) {
		if node := lookupRaftNode(srv, g.name); node != nil {
			node.Stop()
		}
	}
}

// watchMajority ends m.lost when this node is about to stop and the majority of the servers has been missing for
// majorityGrace, until ctx ends. Of servers elsewhere all have to be.
func (m *Members) watchMajority(ctx context.Context, nc *nats.Conn) {
	servers, seen := m.opts.NATS.(majoritySeer)
	tick := time.NewTicker(majorityInterval)
	defer tick.Stop()
	var missing time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch now := time.Now(); {
		case !m.draining(), nc.IsConnected() && (!seen || servers.Majority()):
			missing = time.Time{}
		case missing.IsZero():
			missing = now
		case now.Sub(missing) >= majorityGrace:
			m.opts.Logger.Info("most of the servers have gone: the stop goes on without telling the other nodes")
			m.lose(ErrMajorityGone)
			return
		}
	}
}

func (m *Members) draining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.Draining
}
