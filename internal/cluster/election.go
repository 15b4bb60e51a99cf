package cluster

import (
	"cmp"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"time"

	_ "unsafe" // for go:linkname

	"github.com/nats-io/nats-server/v2/server"
)

// How soon a group of JetStream's, a stream or its own directory, looks for a new leader when the connections to the old
// one break. JetStream by itself waits for 4 to 9 s without a word from the leader, and as long again if two servers ask
// for the others' votes at once. A process that died has its connections closed at once, so there is no need to wait;
// and one server at a time stands for election, so no votes are split.
const (
	electionGrace = 250 * time.Millisecond // for connections that are only made anew
	electionTurn  = 1500 * time.Millisecond
	electionLimit = 15 * time.Second // after which JetStream is left to itself
)

// elector decides when this server should stand for election. It is not for concurrent use.
type elector struct {
	self      string
	connected map[string]bool // the peers to which there were connections
	vacancies map[string]*vacancy
}

// vacancy is a group whose leader is gone.
type vacancy struct {
	leader string
	since  time.Time
	next   time.Time // when this server stands for election
}

// raftGroup is what this server knows of a group that it is in.
type raftGroup struct {
	name     string
	leader   string   // "" for none
	peers    []string // with this server
	eligible bool     // this server may stand
}

func newElector(self string) *elector {
	return &elector{self: self, vacancies: make(map[string]*vacancy)}
}

// step takes the names of the peers to which there are connections now, a map that it keeps, and returns the groups in which
// this server is to stand for election. It asks for the groups only if it has to.
func (e *elector) step(now time.Time, connected map[string]bool, groups func() []raftGroup) (stand []string) {
	var gone []string
	for peer := range e.connected {
		if !connected[peer] {
			gone = append(gone, peer)
		}
	}
	e.connected = connected
	maps.DeleteFunc(e.vacancies, func(_ string, v *vacancy) bool { return connected[v.leader] })
	if len(gone) == 0 && len(e.vacancies) == 0 {
		return nil
	}
	all := groups()
	for _, g := range all {
		if slices.Contains(gone, g.leader) {
			e.vacancies[g.name] = &vacancy{leader: g.leader, since: now}
		}
	}
	for _, g := range all {
		v := e.vacancies[g.name]
		switch {
		case v == nil:
			continue
		case g.leader != "" && g.leader != v.leader, now.Sub(v.since) > electionLimit:
			delete(e.vacancies, g.name)
			continue
		}
		candidates := slices.DeleteFunc(slices.Clone(g.peers), func(p string) bool { return p != e.self && !connected[p] })
		if 2*len(candidates) <= len(g.peers) || !g.eligible {
			continue // who cannot win only disturbs
		}
		if v.next.IsZero() {
			// Every server comes to the same order, another for each group, so that leaders spread.
			slices.SortFunc(candidates, func(a, b string) int { return cmp.Compare(order(g.name, a), order(g.name, b)) })
			v.next = v.since.Add(electionGrace + time.Duration(slices.Index(candidates, e.self))*electionTurn)
		}
		if !now.Before(v.next) {
			stand = append(stand, g.name)
			v.next = now.Add(time.Duration(len(candidates)) * electionTurn)
		}
	}
	return stand
}

// order is a server's place among the candidates of a group.
func order(group, server string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(group + "\x00" + server)) // does not fail
	return h.Sum32()
}

// elect stands for election where it is time to.
func (e *elector) elect(srv *server.Server, log *slog.Logger, now time.Time, connected map[string]bool) {
	for _, group := range e.step(now, connected, func() []raftGroup { return raftGroups(srv) }) {
		if node := lookupRaftNode(srv, group); node != nil && node.Campaign() == nil {
			log.Info("the leader is gone: this node stands for election", "group", group)
		}
	}
}

// raftGroups returns the groups that srv is in: that of the directory, which is the system account's, and those of the
// streams.
func raftGroups(srv *server.Server) []raftGroup {
	var all []raftGroup
	for _, account := range []*server.Account{srv.SystemAccount(), srv.GlobalAccount()} {
		status := srv.Raftz(&server.RaftzOptions{AccountFilter: account.GetName()})
		if status == nil {
			continue // not with streams
		}
		for name, info := range (*status)[account.GetName()] {
			g := raftGroup{name: name, peers: []string{srv.Name()}, eligible: !info.Observer && !info.Paused && !info.CatchingUp}
			if info.Leader == info.ID {
				g.leader = srv.Name()
			}
			for id, p := range info.Peers {
				g.peers = append(g.peers, p.Name)
				if id == info.Leader {
					g.leader = p.Name
				}
			}
			all = append(all, g)
		}
	}
	return all
}

// lookupRaftNode is NATS's own look-up of a group. It has no exported name, while what it returns has: RaftNode.Campaign
// is how JetStream itself begins an election early. If a later version of NATS has it no more, this does not link.
//
//go:linkname lookupRaftNode github.com/nats-io/nats-server/v2/server.(*Server).lookupRaftNode
func lookupRaftNode(s *server.Server, group string) server.RaftNode
