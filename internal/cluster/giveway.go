package cluster

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// giveWayInterval is how often it is looked who leads now.
const giveWayInterval = 10 * time.Millisecond

// GiveWay has others lead what this server leads, JetStream's directory among it, and waits until they do: before a stop in order,
// so that streams have their leaders while everybody is there who votes. A server that ends as a leader makes way, too, but for
// whoever may be behind, and without waiting for what it has said to go out; then nothing is accepted until an election a second or
// more later.
//
// It returns how many groups have other leaders, and ctx's error if ctx ends before all have. Groups that no other server is up to
// date in are left alone.
func (s *Server) GiveWay(ctx context.Context) (moved int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil || s.opts.Peers == nil || !majority(s.running) {
		return 0, nil
	}
	given := make(map[string]bool)
	for _, g := range raftGroups(s.running) {
		if g.leader == s.running.Name() && giveWay(s.running, g.name) {
			given[g.name] = true
		}
	}
	tick := time.NewTicker(giveWayInterval)
	defer tick.Stop()
	for moved < len(given) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return moved, context.Cause(ctx)
		}
		moved = 0
		for _, g := range raftGroups(s.running) {
			if given[g.name] && g.leader != "" && g.leader != s.running.Name() {
				moved++
			}
		}
	}
	return moved, nil
}

// giveWay has another server lead the group, if one is up to date: the one that was heard from last.
func giveWay(srv *server.Server, group string) bool {
	node := lookupRaftNode(srv, group)
	if node == nil {
		return false
	}
	var to *server.Peer
	for _, p := range node.Peers() {
		if p.ID != node.ID() && p.Current && (to == nil || p.Last.After(to.Last)) {
			to = p
		}
	}
	return to != nil && node.StepDown(to.ID) == nil
}
