package health

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Overview is how a whole deployment is, as one of its nodes knows it.
type Overview struct {
	Status  Status    `json:"status"`
	At      time.Time `json:"at"`
	Cluster string    `json:"cluster,omitempty"` // its name, "" for a node that is alone

	// Shards is how many there are, Unowned those that no node owns at the moment: their messages wait.
	Shards  int      `json:"shards"`
	Unowned []uint16 `json:"shards_without_owner"`

	// Problems is all that is not as it should be, the worst first.
	Problems []Problem `json:"problems"`
	Nodes    []Node    `json:"nodes"`
}

// Node is one node of a deployment.
type Node struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	Incarnation uint64 `json:"incarnation,string"`
	// Here is the node that was asked. Core is one that keeps the journal. Draining is one that is about to stop.
	Here     bool `json:"here"`
	Core     bool `json:"core"`
	Draining bool `json:"draining"`
	// Shards are those that it owns.
	Shards []uint16 `json:"shards"`
	Told
}

// Problem is a part that is not as it should be.
type Problem struct {
	Node   string `json:"node,omitempty"` // "" for what concerns the whole
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Advice string `json:"advice"`
}

// Conclude sorts the nodes and says what follows from them: the problems and the status. Cores is how many nodes are to
// keep the journal.
func (o *Overview) Conclude(cores int) {
	slices.SortFunc(o.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	o.Problems, o.Status = []Problem{}, OK
	serving, live := 0, 0
	stored := slices.ContainsFunc(o.Nodes, func(n Node) bool { return n.Checks["store"].Status == OK })
	for i := range o.Nodes {
		n := &o.Nodes[i]
		if n.Core {
			live++
		}
		if n.Status != Unavailable {
			serving++
		}
		for check, r := range n.Checks {
			if r.Status != OK {
				o.Problems = append(o.Problems, Problem{n.Name, check, r.Status, r.Detail, advice(check, stored)})
			}
		}
	}
	if live < cores {
		status := Degraded
		if live <= cores/2 {
			status = Unavailable
		}
		o.Problems = append(o.Problems, Problem{"", "nodes", status, fmt.Sprintf("%d of the %d nodes that keep the journal report", live, cores), advice("nodes", stored)})
	}
	if len(o.Unowned) > 0 {
		o.Problems = append(o.Problems, Problem{"", "shards", Degraded, fmt.Sprintf("%d of %d shards have no owner", len(o.Unowned), o.Shards), advice("shards", stored)})
	}
	slices.SortFunc(o.Problems, func(a, b Problem) int {
		if a.Status != b.Status {
			if a.Status == Unavailable {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Node+" "+a.Check, b.Node+" "+b.Check)
	})
	switch {
	case serving == 0:
		o.Status = Unavailable
	case len(o.Problems) > 0:
		o.Status = Degraded
	}
}

// advice says what to do about a check that fails. Stored says that the store answers some node.
func advice(check string, stored bool) string {
	switch check {
	case "store":
		if stored {
			return "The database answers other nodes: look at the network, the name and the credentials by which this node reaches it. " +
				"After some seconds they serve its shards; when it is back it takes its share again by itself."
		}
		return "Bring the database back. Until then messages are accepted into the journal; nothing needs to be done after it."
	case "journal":
		return "Look into the node's log; after an error of the disk replace it and start the node again."
	case "disk":
		return "Free space on the volume of the data directory, or enlarge it. Messages are refused until then."
	case "memory":
		return "Nothing, if it passes. If it stays, give the node more memory or add nodes."
	case "clock":
		return "Set the machine's clock by NTP; nothing expires by the jump."
	case "cluster":
		return "Just after a start it passes. If it does not, look at the network between this node and the others, and whether a majority of them runs."
	case "devices":
		return "Nothing, if the number of devices falls; see shed-rate. If it does not, devices come without a negotiation, or the other nodes have no room: add nodes."
	case "drain":
		return "Nothing: the node is being stopped."
	case "nodes":
		return "Start the missing nodes. One more that dies may stop accepting."
	case "shards":
		return "Nothing, if it passes within 15 seconds. If it stays, look whether the store and a majority of the nodes are there."
	}
	return "Look into the node's log."
}
