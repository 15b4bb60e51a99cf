package node

import (
	"encoding/json"
	"net/http"

	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/peer"
)

// listing is the live nodes, for balancers.
func (n *Node) listing() health.Listing {
	l := health.Listing{Cluster: n.cfg.ClusterName, Fresh: n.peers == nil || n.peers.members.Fresh()}
	for _, node := range n.overview().Nodes {
		url := node.Address
		if n.peers == nil {
			url = "" // it may listen on all addresses of the machine, and has no other name
		}
		l.Nodes = append(l.Nodes, health.Listed{Name: node.Name, URL: url, Status: node.Status, Draining: node.Draining, Load: node.Load})
	}
	return l
}

// serveListing answers trusted balancers, about themselves alone: what they pass on for others, and everybody else,
// is told that there is no such route.
func (n *Node) serveListing(trusted peer.Trusted) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !trusted.Speaks(r) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(n.listing()) // fails only if the balancer has gone
	}
}
