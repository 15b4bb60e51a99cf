package node

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// When a device is sent to another node: if this one has so much more than the average. The margin keeps small
// clusters and nodes that are about even from sending devices around.
const (
	placementFactor = 1.25
	placementMargin = 50
)

// placementEvery is how often the other nodes' figures are looked at.
const placementEvery = 500 * time.Millisecond

// placement spreads devices over nodes: a node with many more than the average sends those that come to the one with the
// fewest. Who is sent is counted there until that node's figures move, so that not all who come within two seconds
// go to the same one.
type placement struct {
	others func() []elsewhere // nodes that take devices
	now    func() time.Time

	mu     sync.Mutex
	looked time.Time
	nodes  []elsewhere
}

// elsewhere is another node that takes devices.
type elsewhere struct {
	name    string
	url     string // base URL at which devices reach it
	devices int64  // as it told
	sent    int64  // sent there since
}

// place returns the base URL of the node to which a device that comes is to go, "" for this one, which has so many.
func (p *placement) place(own int64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); p.looked.IsZero() || now.Sub(p.looked) >= placementEvery {
		p.look()
		p.looked = now
	}
	if len(p.nodes) == 0 {
		return ""
	}
	least, sum := 0, own
	for i := range p.nodes {
		n := &p.nodes[i]
		sum += n.devices + n.sent
		if n.devices+n.sent < p.nodes[least].devices+p.nodes[least].sent {
			least = i
		}
	}
	if float64(own) <= placementFactor*float64(sum)/float64(len(p.nodes)+1)+placementMargin {
		return ""
	}
	p.nodes[least].sent++
	return p.nodes[least].url
}

// look takes the other nodes' figures. What was sent to a node is forgotten when it tells another number.
func (p *placement) look() {
	before := make(map[string]elsewhere, len(p.nodes))
	for _, n := range p.nodes {
		before[n.name] = n
	}
	p.nodes = p.others()
	for i := range p.nodes {
		n := &p.nodes[i]
		if b, known := before[n.name]; known && b.devices == n.devices {
			n.sent = b.sent
		}
	}
}

// deviceTakers are the other nodes to which devices may be sent.
func (n *Node) deviceTakers() []elsewhere {
	var all []elsewhere
	for _, m := range n.peers.members.Live() {
		var told memberLoad
		if m.Name == n.cfg.NodeName || m.Draining || json.Unmarshal(m.Load, &told) != nil {
			continue
		}
		if told.DeviceURL != "" && told.Status != health.Unavailable {
			all = append(all, elsewhere{name: m.Name, url: told.DeviceURL, devices: told.Figures.Devices})
		}
	}
	return all
}

// placeDevices returns what says where a device is to go that negotiates here, nil if all stay.
func (n *Node) placeDevices() func(*http.Request) string {
	if n.peers == nil || n.cfg.DeviceURL == "" {
		return nil
	}
	p := &placement{others: n.deviceTakers, now: time.Now}
	return func(*http.Request) string {
		if base := p.place(int64(n.hub.Len())); base != "" {
			return base + mobileHub
		}
		return ""
	}
}
