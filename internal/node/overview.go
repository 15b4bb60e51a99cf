package node

import (
	"encoding/json"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// roleCore is the role of nodes that keep the journal.
const roleCore = "core"

// memberLoad is what a node tells the others of itself.
type memberLoad struct {
	health.Told
	Cores     int    `json:"cores,omitempty"`      // how many nodes are to keep the journal, as far as this one knows
	DeviceURL string `json:"device_url,omitempty"` // base URL at which it takes devices from other nodes
}

// roles are the node's roles among the others.
func (c *Config) roles() []string {
	if len(c.Routes) > 0 {
		return []string{roleCore}
	}
	return nil
}

// memberLoad returns what this node tells the others of itself.
func (n *Node) memberLoad() json.RawMessage {
	raw, err := json.Marshal(memberLoad{n.health.Told(), len(n.cfg.Routes), n.cfg.DeviceURL})
	if err != nil {
		return nil // figures that are no numbers; none are told
	}
	return raw
}

// overview is how the whole deployment is, as this node knows it.
func (n *Node) overview() health.Overview {
	o := health.Overview{At: time.Now().UTC(), Cluster: n.cfg.ClusterName, Shards: n.cfg.Shards, Unowned: []uint16{}}
	here := health.Node{Name: n.cfg.NodeName, Address: n.cfg.advertised(), Here: true, Told: n.health.Told(), Shards: []uint16{}}
	if n.peers == nil {
		here.Address = n.info.URL()
		for shard := range n.cfg.Shards {
			here.Shards = append(here.Shards, uint16(shard))
		}
		o.Nodes = []health.Node{here}
		o.Conclude(0)
		return o
	}
	cores := len(n.cfg.Routes)
	seen := false
	for _, m := range n.peers.members.Live() {
		node := health.Node{Name: m.Name, Address: m.Address, Shards: []uint16{}}
		if m.Name == here.Name {
			node, seen = here, true
		} else {
			var told memberLoad
			if err := json.Unmarshal(m.Load, &told); err != nil {
				// It has told nothing yet, or another version tells it in another way.
				told.Told = health.Told{Status: health.Unavailable, Checks: map[string]health.Result{}}
			}
			node.Told, cores = told.Told, max(cores, told.Cores)
		}
		node.Incarnation, node.Draining = m.Incarnation, m.Draining
		for _, role := range m.Roles {
			node.Core = node.Core || role == roleCore
		}
		o.Nodes = append(o.Nodes, node)
	}
	if !seen { // its own report has not come back yet
		here.Incarnation = n.peers.members.Self().Incarnation
		here.Core = len(n.cfg.Routes) > 0
		o.Nodes = append(o.Nodes, here)
	}
	at := make(map[string]int, len(o.Nodes))
	for i := range o.Nodes {
		at[o.Nodes[i].Name] = i
	}
	for shard := range uint16(n.cfg.Shards) {
		owner, _, ok := n.peers.leases.Owner(shard)
		i, live := at[owner]
		if !ok || !live {
			o.Unowned = append(o.Unowned, shard)
			continue
		}
		o.Nodes[i].Shards = append(o.Nodes[i].Shards, shard)
	}
	o.Conclude(cores)
	return o
}
