package autoscale

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar/internal/autoscale/policy"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/health"
)

// roleCore is the role of nodes that keep the journal.
const roleCore = "core"

// observe returns what is known of the nodes, and whether that is all of them.
func (a *Autoscaler) observe() ([]policy.Node, bool) {
	live, complete := a.observer.Live()
	nodes := make([]policy.Node, len(live))
	for i, o := range live {
		nodes[i] = nodeOf(o)
	}
	return nodes, complete
}

// nodeOf is what a node's report says to the policy. One without figures or without its capacity, as of another version,
// counts as one that has told none.
func nodeOf(o cluster.Observed) policy.Node {
	n := policy.Node{Name: o.Name, Core: slices.Contains(o.Roles, roleCore), Draining: o.Draining}
	var told health.Told
	if err := json.Unmarshal(o.Load, &told); err != nil || told.Capacity == (health.Capacity{}) {
		return n
	}
	f, c := told.Figures, told.Capacity
	n.Ready, n.Reported = told.Status != health.Unavailable, o.Reported
	n.Figures = policy.Figures{
		Lag: seconds(f.Lag), Queue: float64(f.DispatchQueue),
		Accept: seconds(f.Accept), AcceptLatency: seconds(c.AcceptLatency), Accepted: f.Accepted, Accepting: 1 - told.Free,
		CPU: f.CPU, Processors: c.Processors,
		Connections: float64(f.Connections), MaxConnections: float64(c.Connections),
		StoreAway: f.StoreBreaker != "closed",
	}
	return n
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
